"""The mathematics of knowledge superposition: arrays in, arrays out, on jax alone.

import kis_jax.core as kc
"""

import lazy_loader

# A module is imported when one of its names is used; these stand in `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
