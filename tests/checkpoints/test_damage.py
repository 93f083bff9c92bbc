"""Bad checkpoints: each is refused by an error that names file, fault and remedy."""

import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize
from safetensors.numpy import load_file, save_file

import kis_jax as kis
from kis_jax import factlm
from kis_jax.checkpoints import parts
from kis_jax.checkpoints.loading import load_model
from tests import golden
from tests.checkpoints.conftest import (
    edit_header,
    rewrite,
    shard,
    tensors_of,
    to_msgpack,
    write_index,
)


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


def damage_msgpack_names(directory):
    """Names that are different in Flax, and one in torch."""
    to_msgpack(directory)
    path = directory / "flax_model.msgpack"
    tree = msgpack_restore(path.read_bytes())
    norm = tree["transformer"]["ln_f"]
    norm["weight"] = norm["scale"]
    path.write_bytes(msgpack_serialize(tree))


def damage_model_type(directory):
    (directory / "config.json").write_text('{"model_type": "xlnet"}')


def damage_attribute(directory):
    config = json.loads((directory / "config.json").read_text())
    changed = config | {"scale_attn_by_inverse_layer_idx": True}
    (directory / "config.json").write_text(json.dumps(changed))


def damage_no_config(directory):
    (directory / "config.json").unlink()


def damage_config(directory):
    (directory / "config.json").write_text('{"model_type": "gpt2",\n n_layer: 3}')


def damage_both_shards(directory):
    """A tensor in the shard that the index names, and in the other too."""
    index = shard(directory)["weight_map"]
    twice = next(name for name in index if index[name] == "a.safetensors")
    other = load_file(directory / "b.safetensors")
    save_file(
        other | {twice: load_file(directory / "a.safetensors")[twice]},
        directory / "b.safetensors",
    )


def damage_index_of_nothing(directory):
    index = shard(directory)["weight_map"]
    write_index(directory, {"weight_map": index | {next(iter(index)): ""}})


def damage_index_stale(directory):
    """Shards and a single file: which of them is out of date cannot be told."""
    shard(directory)
    rewrite(directory, {"x": np.ones(1, np.float32)})


def damage_twice_in_header(directory):
    name = "transformer.ln_f.bias"

    def edit(header):
        text = json.dumps(header)
        return text[:-1] + f', "{name}": {json.dumps(header[name])}}}'

    edit_header(directory, edit)


def damage_overlap(directory):
    def edit(header):
        header["transformer.ln_f.bias"]["data_offsets"] = header["transformer.ln_f.weight"][
            "data_offsets"
        ]
        return header

    edit_header(directory, edit)


def damage_shape_in_header(directory):
    def edit(header):
        header["transformer.ln_f.bias"]["shape"] = [11]
        return header

    edit_header(directory, edit)


def damage_dtype_in_header(directory):
    def edit(header):
        header["transformer.ln_f.bias"]["dtype"] = "Q4"
        return header

    edit_header(directory, edit)


def damage_length_of_header(directory):
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[6] ^= 0x10
    path.write_bytes(content)


def damage_bit_of_name(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"ln_f.weight", b"ln_f.wehght"))


def damage_quantized(directory):
    tensors = tensors_of(directory)
    name = "transformer.h.2.mlp.c_proj.weight"
    rewrite(directory, tensors | {name: np.ones(tensors[name].shape, np.int8)})


def damage_float8(directory):
    tensors = tensors_of(directory)
    name = "transformer.h.2.mlp.c_proj.weight"
    rewrite(directory, tensors | {name: tensors[name].astype(ml_dtypes.float8_e4m3fn)})


def damage_bit_of_exponent(directory):
    """In the body, a flip is seen if it gives a number that is not finite."""
    tensors = tensors_of(directory)
    bits = tensors["transformer.h.1.attn.c_attn.weight"].view(np.uint32)
    bits[3, 4] |= 0x7F800000
    rewrite(directory, tensors)


def damage_body_msgpack(directory):
    tensors = tensors_of(directory)
    tensors["transformer.wte.weight"][60, 11] = -np.inf
    rewrite(directory, tensors)
    to_msgpack(directory)


def damage_layers(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"n_layer": 10**9}))


def damage_a_digit_of_layers(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"n_layer": 9000}))


def damage_sizes(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": 10**30}))


def damage_everything(directory):
    rewrite(directory, {f"some.other.tensor.{i}": np.ones(1, np.float32) for i in range(500)})


def damage_link(directory):
    elsewhere = directory.parent / "secret"
    (directory / "model.safetensors").rename(elsewhere)
    (directory / "model.safetensors").symlink_to(elsewhere)


def damage_shard_link(directory):
    shard(directory)
    (directory / "a.safetensors").rename(directory.parent / "a")
    (directory / "a.safetensors").symlink_to("../a")


def damage_config_link(directory):
    (directory / "config.json").rename(directory.parent / "config.json")
    (directory / "config.json").symlink_to(directory.parent / "config.json")


def damage_dangling_link(directory):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("gone")


def damage_circle(directory):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("model.safetensors")


def damage_pipe(directory):
    (directory / "model.safetensors").unlink()
    os.mkfifo(directory / "model.safetensors")


def damage_directory(directory):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").mkdir()


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
    damage_msgpack_names: "the name 'transformer.ln_f.weight' twice",
    damage_model_type: "model_type: expected one of gpt2, .*found 'xlnet'",
    damage_attribute: "scale_attn_by_inverse_layer_idx=True",
    damage_no_config: "config.json: no such file",
    damage_config: "expected JSON, found .* at line 2",
    damage_both_shards: r"index and shards to agree, .* differ in \S* in b\.safe",
    damage_index_of_nothing: "found '', which points elsewhere",
    damage_index_stale: "found both model.safetensors and shards, such as a.safetensors; remove",
    damage_twice_in_header: "truncated or corrupt .the name 'transformer.ln_f.bias' twice",
    damage_overlap: "tensor .* at byte .* where the one before ends at",
    damage_shape_in_header: "ln_f.bias: 48 bytes where F32.11. has 44",
    damage_dtype_in_header: "expected tensors of BOOL.*ln_f.bias: dtype 'Q4', which .* quantized",
    damage_length_of_header: "truncated or corrupt .a header of .* bytes in a file of",
    damage_bit_of_name: "missing transformer.ln_f.weight; unknown transformer.ln_f.wehght",
    damage_quantized: "h.2.mlp.c_proj.weight: expected float32, .* found int8; quantized",
    damage_float8: "h.2.mlp.c_proj.weight: expected float32, .* found float8_e4m3fn; quantized",
    damage_bit_of_exponent: "h.1.attn.c_attn.weight: expected finite weights, .* SHA-256",
    damage_body_msgpack: "wte.weight: expected finite weights",
    damage_layers: "n_layer: expected at most 10000 layers, found 1000000000",
    damage_a_digit_of_layers: "expected tensors for the 9000 layers .* found 41 tensors",
    damage_sizes: "expected sizes of a model|vocab_size|where config.json asks for",
    damage_everything: "; and 5[0-9][0-9] more; check that",
    damage_link: "expected a file within .*/model, found a link to .*/secret",
    damage_shard_link: "names 'a.safetensors': .*expected a file within",
    damage_config_link: "config.json: expected a file within",
    damage_dangling_link: "found a link to gone, which is missing",
    damage_circle: "cannot be opened: Symlink loop",
    damage_pipe: "expected a regular file",
    damage_directory: "expected a regular file",
}
SEEN_IN_THE_BODY = {damage_bit_of_exponent, damage_body_msgpack}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_damage_is_named(directory, damage, monkeypatch):
    damage(directory)
    reads = []
    monkeypatch.setattr(parts, "read_into", lambda *arguments: reads.append(arguments))
    if damage in SEEN_IN_THE_BODY:
        monkeypatch.undo()
    with pytest.raises(ValueError, match=DAMAGES[damage]) as raised:
        load_model(directory)
    assert str(directory) in str(raised.value) and len(str(raised.value)) < 1200
    assert not reads, "refused before a tensor is read"


@pytest.mark.parametrize("name", golden.NAMES)
def test_an_absurd_number_of_layers_is_refused_at_once(name, tmp_path):
    """By families that list their layers, too."""
    directory = shutil.copytree(golden.DIRECTORY / name, tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    of_text = config.get("text_config", config)
    names = {"num_hidden_layers", "n_layer", "n_layers"} & of_text.keys()
    assert len(names) == 1
    of_text |= dict.fromkeys(names, 10**9)
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="expected at most 10000 layers, found 1000000000"):
        load_model(directory)


def test_what_torch_needs_and_we_do_not_may_be_of_any_dtype(directory):
    mask = {"transformer.h.0.attn.bias": np.ones((1, 1, 24, 24), np.uint8)}
    rewrite(directory, tensors_of(directory) | mask)
    load_model(directory)


def test_an_index_that_was_left_behind_is_no_harm(directory):
    write_index(directory, {"weight_map": {"x": "model-00001-of-00002.safetensors"}})
    load_model(directory)


def test_links_of_the_hubs_cache_are_followed(directory):
    """`snapshots/<revision>/` holds links to `blobs/`, beside it in the model's own folder."""
    home = directory.parent / "models--someone--gpt2"
    blobs, snapshot = home / "blobs", home / "snapshots" / "0123abcd"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(directory.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    load_model(snapshot)
    (directory.parent / "latest").symlink_to(snapshot)
    load_model(directory.parent / "latest")
    (blobs / "1").rename(directory.parent / "1")
    (blobs / "1").symlink_to(directory.parent / "1")
    with pytest.raises(ValueError, match="expected a file within .*models--someone--gpt2, found"):
        load_model(snapshot)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "tokenizer_config.json"])
def test_a_tokenizer_must_not_be_linked_from_elsewhere(directory, name):
    (directory.parent / name).write_text("{}")
    (directory / name).symlink_to(f"../{name}")
    with pytest.raises(ValueError, match=f"{name}: expected a file within"):
        kis.load(directory)


@pytest.mark.parametrize("name", ["tokenizer.4.0.json", "additional_chat_templates/x.jinja"])
def test_what_a_tokenizer_may_open_besides_must_not_be_linked_from_elsewhere(directory, name):
    """Names that tokenizer_config.json gives, and a folder of templates."""
    shutil.copy(factlm.model_directory() / "tokenizer.json", directory)
    settings = {"fast_tokenizer_files": ["tokenizer.4.0.json"]}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    secret = directory.parent / "secret"
    shutil.copy(directory / "tokenizer.json", secret)
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).symlink_to(secret)
    with pytest.raises(ValueError, match=f"{name}: expected a file within .*, found a link to"):
        kis.load(directory)


def test_a_folder_of_templates_in_the_hubs_cache_is_followed(directory):
    home = directory.parent / "models--someone--gpt2"
    snapshot = shutil.copytree(directory, home / "snapshots" / "0123abcd")
    shutil.copy(factlm.model_directory() / "tokenizer.json", snapshot)
    (home / "blobs").mkdir()
    (home / "blobs" / "1").write_text("{{ messages }}")
    (snapshot / "additional_chat_templates").mkdir()
    (snapshot / "additional_chat_templates" / "x.jinja").symlink_to("../../../blobs/1")
    _, tokenizer = kis.load(snapshot)
    assert tokenizer is not None


@pytest.mark.parametrize("name", ["", "\0", "x" * 5000, "..\\x", "a/b/c"])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match="no such directory|expected a directory"):
        kis.load(name)


@pytest.mark.parametrize(
    ("model_type", "hint"),
    [
        ("gemma3", "gemma3_text, is supported"),
        ("qwen2_moe", "of mixtures of experts, mixtral,"),
        ("qwen3_5_text", "most of its layers are gated delta nets"),
    ],
)
def test_families_near_to_a_supported_one_are_told_apart(directory, model_type, hint):
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=f"found '{model_type}'; .*{hint}"):
        load_model(directory)
