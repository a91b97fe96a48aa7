"""A small world whose future is uncertain, and the whole pipeline run on it."""
