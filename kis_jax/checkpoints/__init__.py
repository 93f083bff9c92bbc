"""Files to models and back: declarative tables, strict both ways."""

import lazy_loader

# Transformers and Flax take seconds to import: only who loads a model pays for them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
