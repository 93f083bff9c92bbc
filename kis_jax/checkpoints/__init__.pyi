from .adapter import save_adapter as save_adapter
from .export import export as export
from .loading import load as load
from .multiple_choice import load_multiple_choice as load_multiple_choice
from .multiple_choice import save_multiple_choice as save_multiple_choice
from .saving import save as save
