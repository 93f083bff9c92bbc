"""`kis stats`: second moments, measured, merged, converted."""
