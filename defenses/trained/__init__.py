"""Defences by training: a network of the metric's architecture that was trained to withstand attacks scores instead."""
