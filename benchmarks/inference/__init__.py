"""Scans a second and memory of an inference: ``python -m benchmarks.inference``."""
