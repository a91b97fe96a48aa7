"""The Zarr store of features and tokens: layout, index, writer, readers, verification."""
