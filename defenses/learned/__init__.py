"""Purifiers that are trained networks: denoisers, and diffusion models."""
