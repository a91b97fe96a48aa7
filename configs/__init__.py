"""Typed configuration and the presets of every stage."""
