import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file

import kis_jax as kis
from kis_jax.checkpoints import hub, save
from kis_jax.checkpoints.loading import load_model
from tests import golden

SOURCE = golden.DIRECTORY / "gpt2_untied"


@pytest.fixture
def directory(tmp_path):
    return shutil.copytree(SOURCE, tmp_path / "model")


def tensors_of(directory):
    return load_file(directory / "model.safetensors")


def rewrite(directory, tensors):
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def shard(directory, names=("a.safetensors", "b.safetensors")):
    """Splits a checkpoint in two, with an index; gives the index."""
    tensors = tensors_of(directory)
    (directory / "model.safetensors").unlink()
    parts = {name: dict(list(tensors.items())[i::2]) for i, name in enumerate(names)}
    for name, part in parts.items():
        save_file(part, directory / name)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    return write_index(directory, index)


def write_index(directory, index):
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


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


def test_flax_msgpack_equals_safetensors(directory):
    """Written by transformers' rule from torch to Flax names: kernels transposed."""
    flat = {}
    for name, tensor in tensors_of(directory).items():
        *parent, leaf = name.split(".")
        if parent[-1] in ("wte", "wpe"):
            leaf = "embedding"
        elif parent[-1].startswith("ln_"):
            leaf = {"weight": "scale"}.get(leaf, leaf)
        elif leaf == "weight":
            leaf, tensor = "kernel", np.ascontiguousarray(tensor.T)
        flat[(*parent, leaf)] = tensor
    (directory / "model.safetensors").unlink()
    (directory / "flax_model.msgpack").write_bytes(msgpack_serialize(unflatten_dict(flat)))
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
        assert ours.keys() == torchs.keys()
        modes = {path.stat().st_mode for path in (tmp_path / name).iterdir()}
        assert len(modes) == 1, "as readable as any other file"
        for tensor in ours:
            np.testing.assert_array_equal(ours[tensor], torchs[tensor])
        with pytest.raises(ValueError, match="config: expected the attributes of this model"):
            save(model, tmp_path / name, config | {"n_layer": 7})


def test_load_gives_no_tokenizer_where_there_is_none(directory):
    model, tokenizer = kis.load(str(directory))
    assert tokenizer is None and model.config.num_layers == 3
    with pytest.raises(ValueError, match="dtype: expected float32 or bfloat16"):
        kis.load(directory, dtype=jnp.int8)


def damage_missing(directory):
    tensors = tensors_of(directory)
    del tensors["transformer.h.1.mlp.c_proj.bias"], tensors["transformer.ln_f.weight"]
    rewrite(directory, tensors)


def damage_extra(directory):
    extra = {"transformer.h.3.ln_1.bias": np.ones(12, np.float32), "score": np.ones(1, np.float32)}
    rewrite(directory, tensors_of(directory) | extra)


def damage_shape(directory):
    tensors = tensors_of(directory)
    tensors["transformer.wte.weight"] = np.ones((60, 12), np.float32)
    rewrite(directory, tensors)


def damage_body(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_header(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20])


def damage_empty(directory):
    (directory / "model.safetensors").write_bytes(b"")


def damage_no_weights(directory):
    (directory / "model.safetensors").unlink()


def damage_pickle(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def damage_shard_missing(directory):
    shard(directory)
    (directory / "b.safetensors").unlink()


def damage_index_outside(directory):
    index = shard(directory)
    first = next(iter(index["weight_map"]))
    write_index(directory, {"weight_map": index["weight_map"] | {first: "../a.safetensors"}})


def damage_index_absolute(directory):
    write_index(directory, {"weight_map": {"x": "/etc/passwd"}})
    (directory / "model.safetensors").unlink()


def damage_index_disagrees(directory):
    index = shard(directory)["weight_map"]
    first = next(iter(index))
    write_index(directory, {"weight_map": index | {first: "b.safetensors"}})


def damage_index_not_json(directory):
    shard(directory)
    (directory / "model.safetensors.index.json").write_text('{"weight_map":\n {]')


def damage_msgpack(directory):
    (directory / "model.safetensors").unlink()
    (directory / "flax_model.msgpack").write_bytes(b"\x81\xa1")


def damage_model_type(directory):
    (directory / "config.json").write_text('{"model_type": "xlnet"}')


def damage_attribute(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"rope_theta": 10000}))


def damage_no_config(directory):
    (directory / "config.json").unlink()


def damage_config(directory):
    (directory / "config.json").write_text('{"model_type": "gpt2",\n n_layer: 3}')


DAMAGES = {
    damage_missing: r"missing transformer\.h\.1\.mlp\.c_proj\.bias; missing transformer\.ln_f",
    damage_extra: r"unknown (score|transformer\.h\.3.*); unknown (score|transformer\.h\.3.*)",
    damage_shape: r"wte\.weight of shape \(60, 12\) where config.json asks for \(61, 12\)",
    damage_body: "truncated or corrupt",
    damage_header: "truncated or corrupt",
    damage_empty: "truncated or corrupt",
    damage_no_weights: "found none; download the whole",
    damage_pickle: r"pytorch_model\.bin, a format that can run code.*save_pretrained",
    damage_shard_missing: "b.safetensors, which is missing",
    damage_index_outside: r"'\.\./a\.safetensors', which points elsewhere",
    damage_index_absolute: "'/etc/passwd', which points elsewhere",
    damage_index_disagrees: "index and shards to agree",
    damage_index_not_json: "expected JSON, found .* at line 2",
    damage_msgpack: "truncated or corrupt",
    damage_model_type: "model_type: expected one of gpt2, found 'xlnet'",
    damage_attribute: "rope_theta=10000",
    damage_no_config: "config.json: no such file",
    damage_config: "expected JSON, found .* at line 2",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_damage_is_named(directory, damage):
    damage(directory)
    with pytest.raises(ValueError, match=DAMAGES[damage]) as raised:
        load_model(directory)
    assert str(directory) in str(raised.value)


def test_a_hub_name_is_fetched_without_pickles(directory, monkeypatch):
    asked = {}

    def snapshot_download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(directory)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    model, _ = kis.load("someone/gpt2-small")
    assert_same_models(model, load_model(SOURCE))
    assert "*.safetensors" in asked["someone/gpt2-small"]
    assert not any("bin" in pattern or "pt" in pattern for pattern in asked["someone/gpt2-small"])


def test_without_a_network_the_remedy_is_a_local_directory():
    with pytest.raises(ValueError, match=r"someone/nothing: no such .*pass the path of its dir"):
        kis.load("someone/nothing")
    with pytest.raises(ValueError, match="no such directory"):
        kis.load("/nowhere/at/all")
    with pytest.raises(ValueError, match="found a file"):
        kis.load(SOURCE / "config.json")
