"""`kis inspect`: a model and the memory that it takes."""
