"""`kis plan`: what edits would cost, before the model is touched."""
