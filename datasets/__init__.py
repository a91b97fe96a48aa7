"""The data sets that the program knows, one record each: where their clips are, what their labels mean."""
