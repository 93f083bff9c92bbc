"""Mixtures of experts: what they compute beside what parity with torch shows."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from kis_jax.checkpoints.loading import load_model
from kis_jax.models import Decoder
from kis_jax.models.config import Experts
from kis_jax.models.families import FAMILIES
from tests import golden
from tests.golden.cases import CASES


def config_of(name="mixtral", **experts):
    config = FAMILIES[name].read_config(CASES[name].config.to_dict())
    return dataclasses.replace(config, experts=Experts(**experts) if experts else None)


def test_a_mixture_of_one_expert_is_the_dense_model_to_the_bit():
    mixture = Decoder(config_of(count=1, chosen=1, renormalized=True), rngs=nnx.Rngs(0))
    dense = Decoder(config_of(), rngs=nnx.Rngs(0))
    state = [
        (path, leaf.replace(leaf[...][:, 0]) if path[:2] == ("blocks", "mlp") else leaf)
        for path, leaf in nnx.to_flat_state(nnx.state(mixture))
        if "router" not in path
    ]
    assert {path for path, _ in state} == {path for path, _ in nnx.to_flat_state(nnx.state(dense))}
    nnx.update(dense, nnx.from_flat_state(state))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 41, (3, 11)))
    mask = jnp.arange(11) >= jnp.array([0, 4, 1])[:, None]
    run = jax.jit(lambda model: model(tokens, mask, tap=lambda keys, _: keys))
    (logits, keys), (expected, dense_keys) = run(mixture), run(dense)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(keys.keys[..., 0, :], dense_keys)
    assert (np.asarray(keys.gates) == 1).all() and not np.asarray(keys.experts).any()


def test_no_array_of_tokens_times_experts_comes_to_be():
    """Of all that XLA holds at once, beyond the parameters."""
    sizes = {}
    for count in (8, 64):
        config = dataclasses.replace(
            config_of(count=count, chosen=2, renormalized=True), mlp_width=256, context_length=512
        )
        model = nnx.eval_shape(lambda config=config: Decoder(config, rngs=nnx.Rngs(0)))
        tokens = jax.ShapeDtypeStruct((4, 256), jnp.int32)
        run = jax.jit(lambda model, tokens: model(tokens, tap=lambda keys, _: keys.keys[:, -1]))
        sizes[count] = run.lower(model, tokens).compile().memory_analysis().temp_size_in_bytes
    # Keys of every expert for every token would be 64 MiB a layer, of the routed ones 2 MiB.
    assert sizes[64] < sizes[8] + 16 * 2**20 and sizes[64] < 48 * 2**20, sizes


def test_gradients_reach_the_stream_through_a_mixture():
    model = load_model(golden.DIRECTORY / "olmoe")
    tokens = jnp.arange(8)[None]

    def loss(scale):
        moved = nnx.clone(model)
        moved.embedding.embedding[...] = scale * model.embedding.embedding[...]
        return jnp.sum(jax.nn.log_softmax(moved(tokens))[0, :, 3])

    slope = (loss(1.001) - loss(0.999)) / 0.002
    np.testing.assert_allclose(jax.grad(loss)(1.0), slope, rtol=0.02)


@pytest.fixture
def checkpoint(tmp_path):
    """A mixture of which tensors can be changed."""
    directory = tmp_path / "model"
    shutil.copytree(golden.DIRECTORY / "mixtral", directory)
    path = directory / "model.safetensors"

    def change(function):
        tensors = load_file(path)
        function(tensors)
        save_file(tensors, path)
        return directory

    return change


EXPERT = "model.layers.1.block_sparse_moe.experts.{}.w2.weight"
ROUTER = "model.layers.0.block_sparse_moe.gate.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(EXPERT.format(3)), r"missing model\.layers\.1\..*experts\.3\.w2\.weight"),
        (
            lambda t: t.update({EXPERT.format(5): t[EXPERT.format(3)].copy()}),
            r"unknown model\.layers\.1\..*experts\.5\.w2\.weight",
        ),
        (
            lambda t: t.update({ROUTER: t[ROUTER][:4].copy()}),
            r"gate\.weight of shape \(4, 16\) where config\.json asks for \(5, 16\)",
        ),
        (
            lambda t: t.update({ROUTER: np.full_like(t[ROUTER], np.nan)}),
            r"gate\.weight: expected finite weights",
        ),
    ],
)
def test_experts_that_do_not_belong_to_the_model_are_named(checkpoint, change, message):
    with pytest.raises(ValueError, match=message):
        load_model(checkpoint(change))


def test_an_expert_that_stands_in_two_files_is_named(checkpoint):
    directory = checkpoint(lambda tensors: None)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    twice = EXPERT.format(3)
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    norm = "model.norm.weight"
    save_file({twice: tensors[twice] * 2, norm: tensors.pop(norm)}, directory / names[1])
    save_file(tensors, directory / names[0])
    places = dict.fromkeys(tensors, names[0]) | {norm: names[1]}
    index = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"differ in {re.escape(twice)} in {names[1]}"):
        load_model(directory)


def test_more_experts_than_tensors_are_refused_at_once(checkpoint):
    directory = checkpoint(lambda tensors: None)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_local_experts": 10**9}))
    with pytest.raises(ValueError, match="4096 of these at most, found 2 of 1000000000"):
        load_model(directory)


def test_a_family_of_mixtures_that_is_not_known_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deepseek_v3"}))
    with pytest.raises(ValueError, match="'deepseek_v3'; of mixtures of experts, mixtral, olmoe,"):
        load_model(tmp_path)
