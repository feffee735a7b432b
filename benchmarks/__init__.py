"""How fast we are, as ratios: `make bench`, or `python -m benchmarks` in the repository's folder. Not installed."""
