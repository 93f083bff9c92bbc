import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import kis_jax as kis
from kis_jax.checkpoints.loading import load_model
from kis_jax.models.memory import edited, memory_kernel, with_memory
from tests import golden
from tests.references import TOLERANCE


@pytest.fixture(params=["gpt2_tied", "llama_linear", "bert"])
def model(request):
    return load_model(golden.DIRECTORY / request.param)


def random_edit(rng, model, n=3, dtype=np.float32):
    d, m = model.config.mlp_width, model.config.width
    return kis.Edit(rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(n, m)).astype(dtype))


def leaves(model):
    return {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_the_edited_kernels_differ(model, rng, dtype):
    edits = {layer: random_edit(rng, model, dtype=dtype) for layer in (1, 0)}
    before = {path: np.array(array) for path, array in leaves(model).items()}
    after = edited(model, edits)
    for path, array in leaves(after).items():
        expected = before[path].astype(np.float64)
        if path == ("blocks", "mlp", "output", "kernel"):
            for layer, edit in edits.items():
                for direction, residual in zip(edit.directions, edit.residuals, strict=True):
                    expected[layer] += np.outer(direction, residual)
            np.testing.assert_allclose(array, expected, rtol=TOLERANCE["float32"], atol=1e-5)
            assert array.dtype == before[path].dtype
        else:
            assert array is leaves(model)[path], "shared, not copied"
    for path, array in leaves(model).items():
        np.testing.assert_array_equal(array, before[path])


def test_float64_edits_keep_their_digits(rng):
    """A large edit and its opposite cancel only if they are added in float64."""
    model = load_model(golden.DIRECTORY / "gpt2_tied")
    edit = random_edit(rng, model, dtype=np.float64)
    both = kis.Edit(
        np.concatenate([edit.directions, edit.directions]),
        np.concatenate([1e6 * edit.residuals, -1e6 * edit.residuals]),
    )
    np.testing.assert_allclose(
        memory_kernel(edited(model, {1: both}), 1), memory_kernel(model, 1), atol=1e-8
    )


def test_neither_model_sees_what_is_set_in_the_other(model, rng):
    after = edited(model, {0: random_edit(rng, model)})
    bias = np.array(after.embedding.embedding[...])
    model.embedding.embedding[...] = jnp.zeros_like(model.embedding.embedding[...])
    np.testing.assert_array_equal(after.embedding.embedding[...], bias)


def test_under_jit(rng):
    model = load_model(golden.DIRECTORY / "gpt2_tied")
    edit = jax.tree.map(jnp.asarray, random_edit(rng, model))
    tokens = jnp.array([[3, 1, 4, 1, 5]])
    run = jax.jit(lambda model, edit: edited(model, {1: edit})(tokens))
    expected = edited(model, {1: edit})(tokens)
    np.testing.assert_allclose(run(model, edit), expected, rtol=TOLERANCE["float32"], atol=1e-5)


@pytest.mark.parametrize("layer", [-1, 3])
def test_layers_that_are_not_there(rng, layer):
    model = load_model(golden.DIRECTORY / "gpt2_tied")
    assert model.config.num_layers == 3
    with pytest.raises(ValueError, match=f"one of the model, 0 to 2, found {layer}"):
        edited(model, {layer: random_edit(rng, model)})
    with pytest.raises(ValueError, match="0 to 2"):
        memory_kernel(model, layer)


def test_edits_of_another_shape(rng):
    model = load_model(golden.DIRECTORY / "gpt2_tied")
    d, m = model.config.mlp_width, model.config.width
    with pytest.raises(ValueError, match=r"edits: layer 0: kernel: expected shape \(5, 6\)"):
        edited(model, {0: kis.Edit(np.ones((1, 5)), np.ones((1, 6)))})
    with pytest.raises(ValueError, match=rf"layer 1: expected shape \({d}, {m}\)"):
        with_memory(model, {1: np.ones((m, d))})
