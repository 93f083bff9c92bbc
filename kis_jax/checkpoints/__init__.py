"""Files to models and back: declarative tables, strict both ways."""

from kis_jax.checkpoints.loading import load as load
from kis_jax.checkpoints.saving import save as save
