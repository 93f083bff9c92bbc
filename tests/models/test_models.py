import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kis_jax.checkpoints.loading import load_model
from kis_jax.models import Decoder, DecoderConfig, Encoder, EncoderConfig, Shift
from kis_jax.models.rotary import Rotary
from tests import golden


@pytest.fixture(params=["gpt2_tied", "llama_linear", "bert"])
def case(request):
    directory = golden.DIRECTORY / request.param
    with np.load(directory / "outputs.npz") as outputs:
        return directory, dict(outputs)


def test_a_tap_holds_one_layer_at_a_time(case):
    """The compiled program has no array of all layers' keys."""
    directory, expected = case
    model = load_model(directory)

    def gather(tokens, mask):
        return model(tokens, mask, tap=lambda keys, mask: keys[:, -1])[1]

    program = jax.jit(gather).lower(expected["tokens"], expected["mask"]).compile().as_text()
    b, t = expected["tokens"].shape
    d, layers = model.config.mlp_width, model.config.num_layers
    assert f"[{b},{t},{d}]" in program.replace(" ", "") or f"[{b * t},{d}]" in program
    assert f"[{layers},{b},{t},{d}]" not in program
    if model.config.causal:
        size = model.config.vocab_size
        assert f",{size}]" not in program, "logits that nobody asked for"
        whole = jax.jit(model).lower(expected["tokens"], expected["mask"]).compile().as_text()
        assert f",{size}]" in whole


def test_a_shift_adds_to_the_mlp_output_at_its_layer(case):
    """A shift of one layer equals a change of that layer's bias at the chosen token."""
    directory, expected = case
    model = load_model(directory)
    tokens = jnp.asarray(expected["tokens"][:1])
    vector = jnp.linspace(-1, 1, model.config.width)[None]
    everywhere = Shift(jnp.array(1), vector, jnp.ones(tokens.shape, bool))
    run = jax.jit(lambda model, shift: model(tokens, shift=shift))
    shifted = run(model, everywhere)
    bias = model.blocks.mlp.output.bias
    bias[...] = bias[...].at[1].add(vector[0])
    np.testing.assert_allclose(shifted, run(model, None), atol=1e-5)


def test_a_shift_is_differentiable_and_causal(case):
    directory, expected = case
    model = load_model(directory)
    tokens = jnp.asarray(expected["tokens"])
    where = jnp.arange(tokens.shape[1]) == jnp.array([[5], [6], [7], [8]])

    @jax.jit
    def sums(vectors):
        outputs = model(tokens, shift=Shift(jnp.array(0), vectors, where))
        return jnp.sum(outputs[:, :5]), jnp.sum(outputs[:, 8:] ** 2)

    vectors = jnp.ones((4, model.config.width))
    before, gradient = jax.jit(jax.jacrev(sums))(vectors)
    assert jnp.any(before) != model.config.causal
    assert jnp.all(jnp.any(gradient != 0, axis=1))
    step = 1e-2 * gradient / jnp.linalg.norm(gradient)
    difference = sums(vectors + step)[1] - sums(vectors - step)[1]
    np.testing.assert_allclose(2 * jnp.vdot(gradient, step), difference, rtol=2e-2)


def test_is_traced_once_for_one_shape(case):
    directory, expected = case
    model = load_model(directory)
    traces = 0

    @jax.jit
    def logits(model, tokens):
        nonlocal traces
        traces += 1
        return model(tokens)

    for start in range(3):
        logits(model, jnp.asarray(expected["tokens"] - start) % model.config.vocab_size)
    assert traces == 1


def test_bad_tokens_are_named(case):
    model = load_model(case[0])
    with pytest.raises(ValueError, match="tokens: expected at most 24"):
        model(jnp.zeros((1, 25), jnp.int32))
    with pytest.raises(ValueError, match=r"mask: expected shape \(2, 5\)"):
        model(jnp.zeros((2, 5), jnp.int32), jnp.ones((1, 5), bool))
    with pytest.raises(ValueError, match="tokens: expected integers"):
        model(jnp.zeros((1, 5)))


def test_every_model_is_called_and_run_in_one_way():
    for method in ("__call__", "run"):
        assert not any(method in vars(kind) for kind in (Decoder, Encoder))


_SIZES = {
    "family": "none",
    "vocab_size": 31,
    "context_length": 16,
    "width": 12,
    "num_heads": 3,
    "num_kv_heads": 1,
    "head_dim": 6,
    "attention_scale": 0.4,
    "mlp_width": 20,
    "activation": "gelu",
    "norm_epsilon": 1e-5,
}


def decoder(num_layers):
    windows = tuple(5 if layer % 3 else None for layer in range(num_layers))
    config = DecoderConfig(
        **_SIZES,
        num_layers=num_layers,
        rotary=Rotary(6, 1e4),
        local_rotary=Rotary(6, 1e2),
        windows=windows,
        attention_cap=20.0,
        query_key_norm="head",
        gated=True,
        norm="rms_offset",
        norms_after=True,
    )
    return nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))


def encoder(num_layers):
    config = EncoderConfig(**_SIZES, num_layers=num_layers, token_types=2)
    return nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("make", [decoder, encoder])
def test_a_deeper_model_is_no_larger_a_program(make):
    """Layers are scanned whatever alternates between them: windows, positions."""

    def operations(num_layers):
        tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
        run = jax.jit(lambda model, tokens: model(tokens, tap=lambda keys, _: keys[:, -1]))
        return len(run.lower(make(num_layers), tokens).compile().as_text().splitlines())

    assert operations(80) <= 1.02 * operations(12)


def test_a_window_reaches_as_far_back_as_it_says():
    """Two layers with a window of 4 carry a token's influence 6 tokens on, and no further."""
    model = load_model(golden.DIRECTORY / "mistral")
    assert model.config.windows == (4, 4)
    tokens = jnp.stack([jnp.arange(13), jnp.arange(13).at[3].set(20)])
    logits = jax.jit(model)(tokens)
    changed = jnp.any(logits[0] != logits[1], axis=-1)
    assert jnp.flatnonzero(changed).tolist() == list(range(3, 3 + 7))


def test_texts_are_scaled_each_by_its_own_length():
    """What a text gives does not depend on the texts that it shares a batch with."""
    directory = golden.DIRECTORY / "phi3_longrope"
    model = load_model(directory)
    with np.load(directory / "outputs.npz") as stored:
        tokens, mask = stored["tokens"], stored["mask"]
    together = jax.jit(model)(tokens, mask)
    alone = jax.jit(model)(tokens[1:2, :7])
    np.testing.assert_allclose(together[1, :7], alone[0], atol=1e-5)
