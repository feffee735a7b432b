"""Submissions to the board: their metadata, their template, how they are verified and packed."""
