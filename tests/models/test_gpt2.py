import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.models import Shift
from kis_jax.models.families import gpt2
from tests import golden

# Of the largest logit: bfloat16 has 8 bits, and three layers to lose some of them.
BFLOAT16_BOUND = 0.03


@pytest.fixture(params=golden.NAMES)
def case(request):
    directory = golden.DIRECTORY / request.param
    with np.load(directory / "outputs.npz") as outputs:
        return directory, dict(outputs)


def run(model, expected, **options):
    return model(jnp.asarray(expected["tokens"]), jnp.asarray(expected["mask"]), **options)


def test_logits_and_every_layers_keys_equal_torchs(case):
    directory, expected = case
    logits, keys = run(load_model(directory), expected, tap=lambda keys, mask: keys)
    mask = expected["mask"]
    np.testing.assert_allclose(logits[mask], expected["logits"][mask], atol=1e-5)
    np.testing.assert_allclose(keys[:, mask], expected["keys"][:, mask], atol=1e-5)


def test_equals_the_torch_that_is_installed():
    pytest.importorskip("torch")
    from scripts import make_golden

    for name, config in make_golden.CONFIGS.items():
        tokens, mask = make_golden.random_tokens(config, seed=1)
        torch_model = make_golden.random_model(config, seed=0)
        logits, keys = make_golden.torch_outputs(torch_model, tokens, mask)
        model = load_model(golden.DIRECTORY / name)
        found, found_keys = model(
            jnp.asarray(tokens), jnp.asarray(mask), tap=lambda keys, mask: keys
        )
        np.testing.assert_allclose(found[mask], logits[mask], atol=1e-5)
        np.testing.assert_allclose(found_keys[:, mask], keys[:, mask], atol=1e-5)


def test_bfloat16_is_within_its_bound(case):
    directory, expected = case
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms promote bfloat16 themselves
        logits = run(load_model(directory, dtype=jnp.bfloat16), expected)
    mask = expected["mask"]
    bound = BFLOAT16_BOUND * np.abs(expected["logits"]).max()
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[mask], expected["logits"][mask], atol=bound)


def test_padding_on_either_side_changes_nothing(case):
    directory, expected = case
    model = load_model(directory)
    text = jnp.asarray(expected["tokens"][:1])
    alone = model(text)
    left = model(jnp.pad(text, ((0, 0), (4, 0))), jnp.arange(19)[None] >= 4)
    right = model(jnp.pad(text, ((0, 0), (0, 4))), jnp.arange(19)[None] < 15)
    np.testing.assert_allclose(left[:, 4:], alone, atol=1e-5)
    np.testing.assert_allclose(right[:, :-4], alone, atol=1e-5)
    assert jnp.isfinite(left).all()


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
    shifted = model(tokens, shift=everywhere)
    bias = model.blocks.mlp.output.bias
    bias[...] = bias[...].at[1].add(vector[0])
    np.testing.assert_allclose(shifted, model(tokens), atol=1e-5)


def test_a_shift_is_differentiable_and_causal(case):
    directory, expected = case
    model = load_model(directory)
    tokens = jnp.asarray(expected["tokens"])
    where = jnp.arange(tokens.shape[1]) == jnp.array([[5], [6], [7]])

    def loss(vectors, before=False):
        logits = model(tokens, shift=Shift(jnp.array(0), vectors, where))
        return jnp.sum(logits[:, :5] if before else logits[:, 7:] ** 2)

    vectors = jnp.ones((3, model.config.width))
    gradient = jax.grad(loss)(vectors)
    assert jnp.all(jnp.any(gradient != 0, axis=1))
    assert not jnp.any(jax.grad(lambda v: loss(v, before=True))(vectors))
    step = 1e-2 * gradient / jnp.linalg.norm(gradient)
    difference = loss(vectors + step) - loss(vectors - step)
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


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"rotary_dim": 64, "alibi": True}, "alibi=True, rotary_dim=64"),
        ({"activation_function": "mish"}, "activation_function: expected"),
        ({"n_embd": "wide"}, "n_embd: expected int, found 'wide'"),
        ({"n_layer": 0}, "n_layer: expected a positive number"),
        ({"n_head": 5}, "n_embd=768 is not a multiple of n_head=5"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(attributes, message):
    with pytest.raises(ValueError, match=message):
        gpt2.read_config(attributes)


def test_every_attribute_of_transformers_own_gpt2_is_accounted_for():
    """Each attribute is understood, known to change nothing, or refused when it is set."""
    from transformers import GPT2Config

    odd = {"scale_attn_by_inverse_layer_idx", "add_cross_attention"}
    for name, value in GPT2Config().to_dict().items():
        if name in odd:
            with pytest.raises(ValueError, match=name):
                gpt2.read_config({name: True})
        else:
            gpt2.read_config({name: value})
