"""Memory of a training step: counted as it runs, or planned before it does."""
