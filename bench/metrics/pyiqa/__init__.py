"""What the adapter of pyiqa is made of; the metrics themselves are registered by `pyiqa_adapter`.

pyiqa is under a noncommercial licence and optional: it is imported when a metric of it is asked for, and nothing of it
is part of this package.
"""
