"""Language models as Flax NNX modules, used as pytrees; they know nothing of files."""

from kis_jax.models.decoder import Decoder as Decoder
from kis_jax.models.decoder import DecoderConfig as DecoderConfig
from kis_jax.models.decoder import Shift as Shift

Model = Decoder
"""Any model of this library; its constructor takes `(config, *, dtype, rngs)`."""

ModelConfig = DecoderConfig
"""The configuration of any model."""
