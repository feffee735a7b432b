"""Checks of what the suite claims: certificates against known truths and against attacks."""
