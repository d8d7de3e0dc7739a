"""Benchmarks: what is asked, what was answered, and how good that is."""
