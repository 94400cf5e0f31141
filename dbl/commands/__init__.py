"""Floor 5: one file for each command."""
