"""`python -m kis_jax` is `kis`."""

from kis_jax.cli import main

main()
