"""The shard format, and what its bytes mean: tars, keys, images, labels, geometry."""
