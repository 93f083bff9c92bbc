import json
import shutil

import pytest
from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file

from tests import golden

SOURCE = golden.DIRECTORY / "gpt2_untied"


@pytest.fixture
def directory(tmp_path):
    """A checkpoint of a tiny GPT-2, written by torch transformers, to be damaged."""
    return shutil.copytree(SOURCE, tmp_path / "model")


def tensors_of(directory):
    return load_file(directory / "model.safetensors")


def rewrite(directory, tensors):
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def edit_header(directory, edit, name="model.safetensors"):
    """Rewrites the header of a file: `edit` takes its object and gives another, or its text."""
    path = directory / name
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = edit(json.loads(content[8 : 8 + length]))
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


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


def to_msgpack(directory):
    """Turns a checkpoint to Flax's format by transformers' rule: kernels transposed."""
    flat = {}
    for name, tensor in tensors_of(directory).items():
        *parent, leaf = name.split(".")
        if parent[-1] in ("wte", "wpe"):
            leaf = "embedding"
        elif parent[-1].startswith("ln_"):
            leaf = {"weight": "scale"}.get(leaf, leaf)
        elif leaf == "weight":
            leaf, tensor = "kernel", tensor.T.copy()
        flat[(*parent, leaf)] = tensor
    (directory / "model.safetensors").unlink()
    (directory / "flax_model.msgpack").write_bytes(msgpack_serialize(unflatten_dict(flat)))
