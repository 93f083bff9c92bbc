"""Second moments, spaces of whitened keys, superposition and its summaries."""
