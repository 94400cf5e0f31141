"""The parts of `dbl sweep`: what is tried, the study that draws it, and the file of results."""
