"""The run of `kis lifelong`, left and taken up again."""
