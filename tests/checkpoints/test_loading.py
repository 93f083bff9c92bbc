import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file

import kis_jax as kis
from kis_jax.checkpoints import hub, save
from kis_jax.checkpoints.loading import load_model
from kis_jax.checkpoints.opening import open_checkpoint
from tests import golden
from tests.checkpoints.conftest import SOURCE, rewrite, shard, tensors_of, to_msgpack


def assert_same_models(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sharded_equals_single(directory):
    shard(directory)
    assert_same_models(load_model(directory), load_model(SOURCE))


def test_names_without_the_prefix_are_those_of_the_bare_model(directory):
    """The first GPT-2 checkpoints have no `transformer.`, and masks nobody needs."""
    tensors = {k.removeprefix("transformer."): v for k, v in tensors_of(directory).items()}
    tensors |= {f"h.{i}.attn.bias": np.ones((1, 1, 24, 24), np.float32) for i in range(3)}
    rewrite(directory, tensors)
    assert_same_models(load_model(directory), load_model(SOURCE))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["gpt2_untied", "gpt2_tied", "llama", "bert"])
def test_a_wrappers_name_before_all_tensors_is_taken_off(tmp_path, name, prefix):
    """Also where the family's own names begin with the same; and an edit writes clean names."""
    directory = shutil.copytree(golden.DIRECTORY / name, tmp_path / "model")
    plain = tensors_of(directory)
    rewrite(directory, {f"{prefix}{key}": value for key, value in plain.items()})
    assert_same_models(load_model(directory), load_model(golden.DIRECTORY / name))
    assert set(open_checkpoint(directory).tensors) == set(plain)


def test_a_wrappers_name_is_told_where_it_is_not_the_only_difference(directory):
    wrapped = {f"module.{name}": tensor for name, tensor in tensors_of(directory).items()}
    missing = wrapped.pop("module.transformer.h.0.mlp.c_proj.weight")
    rewrite(directory, wrapped)
    with pytest.raises(
        ValueError, match="found missing transformer.h.0.mlp.c_proj.weight; .* begin with module."
    ):
        load_model(directory)
    rewrite(directory, wrapped | {"transformer.h.0.mlp.c_proj.weight": missing})
    with pytest.raises(ValueError, match="found missing transformer") as raised:
        load_model(directory)  # of two parts, as no wrapper leaves it
    assert "begin with" not in str(raised.value)


def test_flax_msgpack_equals_safetensors(directory, monkeypatch):
    to_msgpack(directory)
    assert_same_models(load_model(directory), load_model(SOURCE))
    # Flax cuts arrays over 1 GiB into chunks; here, over 100 bytes.
    shutil.copy(SOURCE / "model.safetensors", directory)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    to_msgpack(directory)
    assert_same_models(load_model(directory), load_model(SOURCE))


def test_half_precision_files_are_widened(directory):
    halves = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors_of(directory).items()}
    rewrite(directory, halves)
    model = load_model(directory)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model)} == {"float32"}
    expected = halves["transformer.wte.weight"].astype(np.float32)
    np.testing.assert_array_equal(model.embedding.embedding[...], expected)


def test_saved_and_loaded_is_the_same(tmp_path):
    for name in golden.NAMES:
        model = load_model(golden.DIRECTORY / name)
        config = json.loads((golden.DIRECTORY / name / "config.json").read_text())
        save(model, tmp_path / name, config)
        ours = load_file(tmp_path / name / "model.safetensors")
        torchs = load_file(golden.DIRECTORY / name / "model.safetensors")
        # Heads of encoders are not read, nor what sees.
        read = {name for name in torchs if not name.startswith(("vision_tower", "multi_modal"))}
        if not model.config.causal:
            read = {n for n in torchs if n.startswith(name.split("_")[0])}
        assert ours.keys() == read
        modes = {path.stat().st_mode for path in (tmp_path / name).iterdir()}
        assert len(modes) == 1, "as readable as any other file"
        for tensor in ours:
            np.testing.assert_array_equal(ours[tensor], torchs[tensor])
        other = {"vocab_size": 7}
        if "text_config" in config:
            other = {"text_config": config["text_config"] | other}
        with pytest.raises(ValueError, match="config: expected the attributes of this model"):
            save(model, tmp_path / name, config | other)


def test_load_gives_no_tokenizer_where_there_is_none(directory):
    model, tokenizer = kis.load(str(directory))
    assert tokenizer is None and model.config.num_layers == 3
    with pytest.raises(ValueError, match="dtype: expected float32 or bfloat16"):
        kis.load(directory, dtype=jnp.int8)


TOP = {"config.json", "tokenizer.model", "spiece.model", "chat_template.jinja", "LICENSE"}
SHARDS = {"model.safetensors.index.json", "model-00001-of-00002.safetensors"}
LEFT = {
    "onnx/model.onnx", "onnx/config.json", "original/model.safetensors", "consolidated.safetensors",
    "pytorch_model.bin", "tf_model.h5", "model.fp16.safetensors", "training.json", "README.md",
}  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "others"),
    [
        ({"model.safetensors"}, SHARDS | {"flax_model.msgpack"}),
        (SHARDS, {"flax_model.msgpack"}),
        ({"flax_model.msgpack"}, set()),
    ],
)
def test_of_a_hub_name_one_set_of_weights_is_fetched(directory, monkeypatch, weights, others):
    asked = {}

    def snapshot_download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(directory)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "list_repo_files", lambda name: [*TOP, *weights, *others, *LEFT])
    model, _ = kis.load("someone/gpt2-small")
    assert_same_models(model, load_model(SOURCE))
    assert set(asked["someone/gpt2-small"]) == TOP | weights


def test_a_hub_name_with_pickles_alone_is_not_fetched(monkeypatch):
    monkeypatch.setattr(hub, "list_repo_files", lambda name: [*TOP, *LEFT])
    monkeypatch.setattr(hub, "snapshot_download", None)
    with pytest.raises(ValueError, match="someone/old: .*if its weights are pickles"):
        kis.load("someone/old")


def test_without_a_network_a_hub_name_is_what_the_cache_has_of_it(directory, monkeypatch):
    def refuse(name):
        raise OSError("no network")

    def snapshot_download(name, local_files_only):
        assert local_files_only
        return str(directory)

    monkeypatch.setattr(hub, "list_repo_files", refuse)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert_same_models(kis.load("someone/gpt2-small")[0], load_model(SOURCE))


def test_without_a_network_the_remedy_is_a_local_directory():
    with pytest.raises(ValueError, match=r"someone/nothing: no such .*pass the path of its dir"):
        kis.load("someone/nothing")
    with pytest.raises(ValueError, match="no such directory"):
        kis.load("/nowhere/at/all")
    with pytest.raises(ValueError, match="found a file"):
        kis.load(SOURCE / "config.json")
