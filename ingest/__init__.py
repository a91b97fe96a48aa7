"""Videos, frame folders, zips and data sets in; WebDataset shards out."""
