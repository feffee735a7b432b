"""Part of RobustIQA."""
