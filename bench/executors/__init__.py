"""Executors: where the cells of a run are computed, and what happens when one of them fails."""
