"""Models laid out over meshes of eight simulated devices, from files, part by part."""

import re

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from kis_jax import factlm
from kis_jax.checkpoints import parts
from kis_jax.checkpoints.loading import load_model
from kis_jax.checkpoints.opening import path_name, read_config
from kis_jax.models.families import FAMILIES
from kis_jax.models.sharding import PLAN, make_mesh, partition
from tests import golden

# Of one golden model each: every family whose keys two devices can share.
NAMES = [
    *("gpt2_tied", "gptj", "gpt_neox_parallel", "llama", "llama_linear", "mistral", "phi3"),
    *("qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "olmo3", "smollm3", "granite"),
    *("ministral3", "mistral3", "bert", "distilbert", "roberta", "deberta_v2"),
]


def leaves(model):
    flat = nnx.to_flat_state(nnx.split(model)[1])
    return {path_name(path): leaf[...] for path, leaf in flat}


def sized(model, pattern):
    return sum(leaf.size for path, leaf in leaves(model).items() if pattern in path)


@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_laid_out_with_the_same_numbers(name):
    directory = golden.DIRECTORY / name
    whole, mesh = leaves(load_model(directory)), make_mesh(model=2)
    found = leaves(load_model(directory, mesh=mesh))
    assert whole.keys() == found.keys()
    for path, array in found.items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(whole[path]), err_msg=path)
        for part in array.addressable_shards:
            np.testing.assert_array_equal(part.data, whole[path][part.index], err_msg=path)
    _, config = read_config(directory)
    assert {
        array.sharding.spec for path, array in found.items() if "mlp.output.kernel" in path
    } == {PartitionSpec(None, "model")}
    assert all(
        array.sharding.spec == partition(path, config, mesh) for path, array in found.items()
    )


def test_the_families_above_are_all_there_are():
    found = {read_config(golden.DIRECTORY / name)[0].name for name in NAMES}
    mixtures = {"mixtral", "olmoe", "qwen3_moe", "gpt_oss"}
    assert found == {family.name for family in FAMILIES.values()} - mixtures


def test_a_mixture_runs_on_one_device():
    with pytest.raises(ValueError, match="found a mixture of experts, which runs on one device"):
        load_model(golden.DIRECTORY / "olmoe", mesh=make_mesh(model=2))


def test_every_row_of_the_plan_stands_for_some_parameter():
    """And no MLP matrix of any family is kept whole."""
    paths = {path for name in NAMES for path in leaves(load_model(golden.DIRECTORY / name))}
    for pattern, _, _ in PLAN:
        assert any(re.fullmatch(pattern, path) for path in paths), pattern
    for path in paths:
        if re.fullmatch(r"blocks\.mlp\..*kernel", path):
            assert any(re.fullmatch(pattern, path) for pattern, _, _ in PLAN), path


@pytest.mark.parametrize("model", [1, 2, 8])
def test_no_device_holds_a_whole_matrix(embedded, model):
    mesh = make_mesh(model=model)
    sharded = load_model(factlm.model_directory(), mesh=mesh)
    for path, array in leaves(sharded).items():
        if path in ("blocks.mlp.input.kernel", "blocks.mlp.output.kernel", "embedding.embedding"):
            for part in array.addressable_shards:
                assert part.data.size * model == array.size, path
    for one, other in zip(jax.tree.leaves(embedded[0]), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_only_the_parts_that_are_held_are_read(monkeypatch):
    """On four of eight devices of a group a host reads half of every matrix that is cut."""
    read = 0

    def count(target, *arguments):
        nonlocal read
        read += target.size
        read_into(target, *arguments)

    read_into = parts.read_into
    monkeypatch.setattr(parts, "read_into", count)
    whole = load_model(factlm.model_directory())
    everything, read = read, 0
    assert everything == sum(leaf.size for leaf in leaves(whole).values())

    sharding_type = jax.sharding.NamedSharding
    of_all = sharding_type.addressable_devices_indices_map

    def of_half(self, shape):
        return dict(list(of_all(self, shape).items())[:4])

    monkeypatch.setattr(sharding_type, "addressable_devices_indices_map", of_half)
    monkeypatch.setattr(parts.Parts, "on_devices", lambda self: np.zeros(self._shape, np.float32))
    load_model(factlm.model_directory(), mesh=make_mesh(model=8))
    cut = sized(whole, "mlp.input") + sized(whole, "mlp.output.kernel")
    cut += sized(whole, "embedding.embedding")
    assert read == everything - cut // 2


def test_a_model_axis_that_does_not_divide_the_keys_is_refused():
    with pytest.raises(ValueError, match="divides 20, the width of the keys, found one of 8 dev"):
        load_model(golden.DIRECTORY / "gpt2_tied", mesh=make_mesh(model=8))


def test_a_mesh_of_other_axes_is_refused():
    with pytest.raises(ValueError, match=r"axes 'data' and 'model', found \('x',\)"):
        load_model(factlm.model_directory(), mesh=jax.make_mesh((8,), ("x",)))


def test_a_mesh_of_explicit_axes_is_taken():
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    model = load_model(factlm.model_directory(), mesh=mesh)
    assert model(np.zeros((1, 3), np.int32)).shape == (1, 3, model.config.vocab_size)


@pytest.mark.parametrize("sizes", [{"model": 3}, {"data": 3, "model": 2}, {"model": 0}])
def test_a_mesh_of_another_number_of_devices_is_refused(sizes):
    with pytest.raises(ValueError, match="expected numbers whose product is 8"):
        make_mesh(**sizes)
