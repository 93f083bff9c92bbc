"""Target values: what a layer's memory should answer for a fact to be said."""
