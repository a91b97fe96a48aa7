"""Whole recipes: running them, and what they cost."""
