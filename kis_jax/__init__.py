"""Knowledge in superposition: measure and edit what language models know, in JAX."""

import lazy_loader

# Nothing of jax is imported before it is used, so that `kis --help` answers at once. The names
# and where they live stand in `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
