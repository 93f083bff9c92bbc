"""`kis edit`, `kis undo`, `kis ledger`: facts written into a model, and taken out."""
