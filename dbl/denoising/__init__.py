"""A network with noise around it: preconditioning, readout and loss, samplers, the likelihood bound."""
