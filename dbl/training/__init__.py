"""Training of a block or an end-to-end baseline: data with noise, the training step, callbacks, memory."""
