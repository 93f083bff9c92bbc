"""Reports of finished runs: figures, and one self-contained page of each."""

import lazy_loader

# Matplotlib takes half a second to import: only who writes a report pays for it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
