"""Knowledge in superposition: measure and edit what language models know, in JAX."""

import threading
from typing import Any

import lazy_loader

# Nothing of jax is imported before it is used, so that `kis --help` answers at once. The names
# and where they live stand in `__init__.pyi`.
_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_one_at_a_time = threading.RLock()


def __getattr__(name: str) -> Any:
    """A public name; transformers' own lazy names fail where two threads import them at once."""
    with _one_at_a_time:
        return _find(name)


__version__ = "0.1.0"
