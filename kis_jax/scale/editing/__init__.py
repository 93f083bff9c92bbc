"""The runs of `kis edit` and `kis undo`."""
