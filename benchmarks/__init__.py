"""Measurements for developers, run from a checkout: `python -m benchmarks.NAME`. `menura bench` has the suites."""
