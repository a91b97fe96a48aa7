"""Decode, crop, network, write: each ahead of the next, on one machine."""
