"""Language models as Flax NNX modules, used as pytrees; they know nothing of files."""

from kis_jax.models.attention import Past as Past
from kis_jax.models.config import DecoderConfig as DecoderConfig
from kis_jax.models.config import EncoderConfig as EncoderConfig
from kis_jax.models.config import ModelConfig as ModelConfig
from kis_jax.models.decoder import Decoder as Decoder
from kis_jax.models.encoder import Encoder as Encoder
from kis_jax.models.multiple_choice import MultipleChoice as MultipleChoice
from kis_jax.models.scanning import Glimpse as Glimpse
from kis_jax.models.scanning import Shift as Shift

Model = Decoder | Encoder
"""Any model of this library: its constructor takes `(config, *, dtype, rngs)`."""
