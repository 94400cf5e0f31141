"""A run on disk: its contract, folder, checkpoints, and the assembled model."""
