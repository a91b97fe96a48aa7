"""Futures of one video."""
