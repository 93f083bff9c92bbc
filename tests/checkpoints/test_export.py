import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from kis_jax.checkpoints import export
from kis_jax.checkpoints.loading import load_model
from kis_jax.checkpoints.tensors import open_tensors
from kis_jax.checkpoints.writing import Unwritten, write_weights
from tests import golden
from tests.checkpoints.conftest import SOURCE, rewrite, shard, tensors_of, to_msgpack

MEMORY = "transformer.h.1.mlp.c_proj.weight"


def edit(model, layer=1, by=0.25):
    """Adds to a few numbers of one layer's second MLP matrix; gives that layer's new kernel."""
    kernel = model.blocks.mlp.output.kernel
    expert = (0,) * (kernel[...].ndim - 3)  # the first of a mixture
    kernel[...] = kernel[...].at[(layer, *expert, slice(2, 5), 3)].add(by)
    return np.asarray(kernel[...][layer])


def bits(directory):
    """Dtype, shape and bytes of each tensor of a checkpoint."""
    return {
        name: (tensor.dtype.name, tensor.shape, tensor.array().tobytes())
        for name, tensor in open_tensors(directory).items()
    }


def assert_same_bits(directory, source, *, but=()):
    ours, theirs = bits(directory), bits(source)
    assert list(sorted(ours)) == list(sorted(theirs))
    assert {name for name in ours if ours[name] != theirs[name]} == set(but)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_what_is_untouched_keeps_its_bits(directory, stored, dtype):
    """Whatever the dtype of the file and that of the model, layer norms in float32 among halves."""
    tensors = {k: v.astype(stored) for k, v in tensors_of(directory).items()}
    tensors["transformer.ln_f.weight"] = tensors_of(directory)["transformer.ln_f.weight"]
    rewrite(directory, tensors | {"transformer.h.0.attn.bias": np.ones((1, 1, 24, 24), np.uint8)})
    model = load_model(directory, dtype=dtype)
    assert export(model, directory.parent / "out", source=directory) == []
    assert_same_bits(directory.parent / "out", directory)
    kernel = edit(model)
    out = directory.parent / "edited"
    assert export(model, out, source=directory) == [MEMORY]
    assert_same_bits(out, directory, but=[MEMORY])
    before, after = tensors[MEMORY], load_file(out / "model.safetensors")[MEMORY]
    touched = np.zeros(before.shape, bool)
    touched[2:5, 3] = True
    np.testing.assert_array_equal(after[~touched], before[~touched])
    np.testing.assert_array_equal(after[touched], kernel[touched].astype(stored))


def test_one_part_of_a_fused_tensor_is_changed_alone(directory):
    model = load_model(directory)
    value = model.blocks.attention.value.kernel
    value[...] = value[...].at[2].set(7.0)
    name = "transformer.h.2.attn.c_attn.weight"
    assert export(model, directory.parent / "out", source=directory) == [name]
    before, after = tensors_of(directory)[name], tensors_of(directory.parent / "out")[name]
    np.testing.assert_array_equal(after[:, :24], before[:, :24])
    np.testing.assert_array_equal(after[:, 24:], 7.0)


def test_a_tied_head_that_is_stored_all_the_same_follows_the_embedding(directory):
    shutil.rmtree(directory)
    shutil.copytree(golden.DIRECTORY / "gpt2_tied", directory)
    tensors = tensors_of(directory)
    embedding = "transformer.wte.weight"
    rewrite(directory, tensors | {"lm_head.weight": tensors[embedding]})
    model = load_model(directory)
    model.embedding.embedding[...] = model.embedding.embedding[...] + 1
    out = directory.parent / "out"
    assert export(model, out, source=directory) == ["lm_head.weight", embedding]
    after = tensors_of(out)
    np.testing.assert_array_equal(after[embedding], tensors[embedding] + 1)
    np.testing.assert_array_equal(after["lm_head.weight"], after[embedding])


def test_the_other_files_of_the_checkpoint_come_along(directory):
    for name in ("generation_config.json", "tokenizer_config.json", "merges.txt", "LICENSE"):
        (directory / name).write_text(f'{{"name": "{name}"}}')
    (directory / "pytorch_model.bin").write_bytes(b"a pickle")
    (directory / "notes.md").write_text("of somebody's own")
    out = directory.parent / "out"
    export(load_model(directory), out, source=directory, metadata={"edit": "none at all"})
    copied = {path.name for path in out.iterdir()} - {"model.safetensors"}
    assert copied == {path.name for path in directory.iterdir()} & copied
    assert {"config.json", "generation_config.json", "merges.txt", "LICENSE"} <= copied
    assert not {"pytorch_model.bin", "notes.md"} & copied
    for name in copied:
        assert (out / name).read_bytes() == (directory / name).read_bytes()
    with safe_open(out / "model.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["edit"] == "none at all" and metadata["format"] == "pt"
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1


@pytest.mark.parametrize("make", [shard, to_msgpack])
def test_shards_and_flax_files_are_sources_too(directory, make):
    make(directory)
    model = load_model(directory)
    edit(model)
    out = directory.parent / "out"
    export(model, out, source=directory, max_shard_size=20_000)
    assert_same_bits(out, directory, but=[MEMORY])
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 1
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors_of_shards(out).values())
    np.testing.assert_array_equal(
        load_model(out).blocks.mlp.output.kernel[...], model.blocks.mlp.output.kernel[...]
    )


def tensors_of_shards(directory):
    return {k: v for path in directory.glob("*.safetensors") for k, v in load_file(path).items()}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["float32", "bfloat16", "float16", "int64", "bool"]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 400),
)
def test_files_are_those_that_the_formats_library_reads(tmp_path_factory, kinds, max_shard_size):
    folder = tmp_path_factory.mktemp("out")
    tensors = {
        f"t{i}": (np.arange(np.prod(shape)).reshape(shape) * 7 % 5).astype(dtype)
        for i, (dtype, shape) in enumerate(kinds)
    }
    unwritten = {
        name: Unwritten(values.shape, values.dtype, lambda values=values: values)
        for name, values in tensors.items()
    }
    write_weights(folder, unwritten, metadata={"a": "b"}, max_shard_size=max_shard_size)
    found = tensors_of_shards(folder)
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
    for path in folder.glob("*.safetensors"):
        part = load_file(path)
        assert len(part) == 1 or sum(v.nbytes for v in part.values()) <= max_shard_size
    if len(list(folder.glob("*.safetensors"))) > 1:
        assert {n: t.shape for n, t in open_tensors(folder).items()} == {
            n: v.shape for n, v in tensors.items()
        }


def test_a_directory_that_holds_something_else_is_left_alone(directory, tmp_path):
    model = load_model(directory)
    with pytest.raises(ValueError, match="expected another directory than the source"):
        export(model, directory, source=directory)
    foreign = shutil.copytree(SOURCE, tmp_path / "another")
    with pytest.raises(ValueError, match="expected an empty directory, or one .* an earlier"):
        export(model, foreign, source=directory)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="found a file"):
        export(model, tmp_path / "file", source=directory)
    out = tmp_path / "out"
    out.mkdir()
    export(model, out, source=directory)
    edit(model)
    export(model, out, source=directory)
    assert_same_bits(out, directory, but=[MEMORY])
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="and nothing else, found thesis.tex"):
        export(model, out, source=directory)
    assert (out / "thesis.tex").exists() and (foreign / "outputs.npz").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("flax_model.msgpack", b"\x80"),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 64),
        ("model.safetensors", b"\x02" + bytes(7) + b"[]"),
    ],
)
def test_weights_that_are_not_an_exports_are_left_alone(directory, tmp_path, name, content):
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(directory / "config.json", out)
    (out / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"an earlier export and nothing else, found .*{name}"):
        export(load_model(directory), out, source=directory)
    assert (out / name).read_bytes() == content


def test_a_full_disk_leaves_what_was_there(directory, tmp_path):
    """A limit on the size of files stands for the disk."""
    model = load_model(directory)
    out = tmp_path / "out"
    export(model, out, source=directory)
    edit(model)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError):
            export(model, out, source=directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same_bits(out, directory)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


def test_faults_of_the_caller_are_named(directory, tmp_path):
    model = load_model(directory)
    with pytest.raises(ValueError, match="source: expected the checkpoint that the model was"):
        export(model, tmp_path / "out", source=golden.DIRECTORY / "gpt2_tied")
    for metadata in ({"format": "tf"}, {"facts": 3}):
        with pytest.raises(ValueError, match="metadata: expected strings under names other"):
            export(model, tmp_path / "out", source=directory, metadata=metadata)
    edit(model, by=jnp.nan)
    with pytest.raises(ValueError, match=f"finite .* float32, the dtype of {MEMORY}.* in layer 1"):
        export(model, tmp_path / "out", source=directory)
    assert not (tmp_path / "out").exists()


def test_a_number_too_large_for_the_files_dtype_is_refused(directory, tmp_path):
    rewrite(directory, {k: v.astype(np.float16) for k, v in tensors_of(directory).items()})
    model = load_model(directory)
    edit(model, by=1e5)
    with pytest.raises(ValueError, match="fit float16"):
        export(model, tmp_path / "out", source=directory)


@pytest.mark.parametrize("name", golden.NAMES)
def test_any_parameter_may_be_changed(name, tmp_path):
    model = load_model(golden.DIRECTORY / name)
    nnx.update(model, jax.tree.map(lambda leaf: leaf * 2 + 1, nnx.state(model)))
    changed = export(model, tmp_path / "out", source=golden.DIRECTORY / name)
    again = load_model(tmp_path / "out")
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert_same_bits(tmp_path / "out", golden.DIRECTORY / name, but=changed)


@pytest.mark.parametrize("name", golden.NAMES)
def test_torch_computes_with_an_export_what_we_compute(name, tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    source = golden.DIRECTORY / name
    model = load_model(source)
    export(model, tmp_path / "same", source=source)
    edit(model)
    changed = export(model, tmp_path / "edited", source=source)
    tokens = np.random.default_rng(0).integers(3, model.config.vocab_size, (2, 9))  # no pads
    outputs = {}
    for folder in (source, tmp_path / "same", tmp_path / "edited"):
        auto = getattr(transformers, golden.torch_class(model.config))
        how = {} if model.config.experts is None else {"experts_implementation": "eager"}
        network = auto.from_pretrained(folder, dtype=torch.float32, **how).eval()
        with torch.no_grad():
            outputs[folder] = network(torch.from_numpy(tokens))[0].numpy()
    np.testing.assert_array_equal(outputs[source], outputs[tmp_path / "same"])
    ours = np.asarray(model(jnp.asarray(tokens, jnp.int32)))
    np.testing.assert_allclose(outputs[tmp_path / "edited"], ours, atol=1e-5, rtol=1e-5)
    assert np.abs(outputs[tmp_path / "edited"] - outputs[source]).max() > 1e-4
    assert len(changed) == 1
    assert_same_bits(tmp_path / "edited", source, but=changed)
