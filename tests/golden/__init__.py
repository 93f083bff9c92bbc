"""Small random models by torch, and what torch computes with them: see scripts/make_golden.py."""

from pathlib import Path

from kis_jax.models import ModelConfig
from kis_jax.models.families import FAMILIES

DIRECTORY = Path(__file__).parent
NAMES = tuple(sorted(path.parent.name for path in DIRECTORY.glob("*/outputs.npz")))
_MIXTURES = {"mixtral", "olmoe", "qwen3_moe", "gpt_oss"}
ONE_MLP = tuple(name for name in NAMES if name not in _MIXTURES)


def torch_class(config: ModelConfig) -> str:
    """The class of transformers that a stored model is loaded with."""
    if FAMILIES[config.family].modules is not None:  # a text model within one that sees
        return "AutoModelForImageTextToText"
    return "AutoModelForCausalLM" if config.causal else "AutoModel"
