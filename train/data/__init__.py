"""Which sample when: from features, tokens or shards to batches."""
