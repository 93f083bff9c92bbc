from .loading import load as load
from .saving import save as save
