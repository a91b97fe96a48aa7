"""Features or shards in; delta tokens out: a stage like the others."""
