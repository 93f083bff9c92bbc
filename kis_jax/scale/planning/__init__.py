"""The run of `kis plan`."""
