"""Shards and a frozen backbone in; a feature store (Zarr v3) out."""
