"""Used on every floor and knowing nothing of the method: errors, files, locks, seeds, serialization."""
