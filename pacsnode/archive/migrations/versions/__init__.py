"""One module per revision of the index."""
