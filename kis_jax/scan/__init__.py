"""`kis scan`: superposition at every layer."""
