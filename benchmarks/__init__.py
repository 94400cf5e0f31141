"""Benchmarks: ratios within one run, so that they hold on any machine. `python -m benchmarks` runs them all."""
