"""Looks at a training run while it goes on, and touches nothing of it: curves, figures, what is healthy, pictures."""
