"""`kis facts`: what stands in a file of facts."""
