"""Benchmarks: ratios measured within one run, so that they hold on any machine."""
