"""Random mixtures of experts with factlm's tokenizer, as directories that commands take."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from typer.testing import CliRunner

from kis_jax import factlm
from kis_jax.checkpoints.saving import save
from kis_jax.cli import app
from kis_jax.factlm.shapes import attributes_of
from kis_jax.models import Decoder
from kis_jax.models.families import FAMILIES

CORPUS = factlm.model_directory().parent / "corpus.txt"
FACTS = factlm.model_directory().parent / "facts.json"


def attributes(**changed):
    shape = {"vocab_size": 2048, "context_length": 96, "num_heads": 2, "end_of_text": 0}
    return attributes_of(4, width=24, num_layers=2, **shape) | changed


def random_model(config):
    """Its numbers large enough for layers to differ and routers to decide."""
    model = Decoder(FAMILIES[config["model_type"]].read_config(config), rngs=nnx.Rngs(0))
    state = jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim > 1 else leaf, nnx.state(model))
    nnx.update(model, state)
    return model


def write(model, directory, config):
    save(model, directory, config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(factlm.model_directory() / name, directory / name)
    return directory


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def values_at(model, texts, layer):
    """What a layer's MLP answers at the last token of each text, `(n, m)` float64."""
    found = []
    for text in texts:
        mask = jnp.ones((1, len(text)), bool)
        stream = model.embed(jnp.asarray([text]), mask)
        _, seen = model.run(stream, mask, watch=lambda glimpse: glimpse.values)
        found.append(np.asarray(seen)[layer, 0, -1])
    return np.stack(found).astype(np.float64)
