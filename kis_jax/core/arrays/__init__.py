"""Products, triangular systems, blocks and rings: what the other rooms compute with."""
