"""Checkpoints, shards and features in; numbers, pictures and a report out."""
