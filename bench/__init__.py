"""Benchmarks: ratios against peers, measured in turn in one run. `python -m bench --help`."""
