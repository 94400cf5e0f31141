"""What happens in a training step of a block or of a baseline."""
