"""The error of second moments in each precision, against a pass that is float64 throughout."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import kis_jax as kis
from kis_jax import factlm
from kis_jax.checkpoints.streamed import StreamedModel
from kis_jax.data.batches import fill_batches
from kis_jax.passes.second_moments import SecondMomentPass
from kis_jax.passes.store import MomentStore
from kis_jax.passes.streaming import streamed_keys_and_moments
from tests import references

LINES = 150


def layer_norm(x, scale, bias, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + epsilon) * scale + bias


def keys_in_float64(weights, config, tokens):
    """MLP keys of one text at all layers by GPT-2's formulas, in NumPy: `(layers, t, d)`."""
    t, heads, width = len(tokens), config["n_head"], config["n_embd"]
    epsilon, found = config.get("layer_norm_epsilon", 1e-5), []
    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][:t]
    for layer in range(config["n_layer"]):
        part = {
            name.split(f".h.{layer}.")[1]: value
            for name, value in weights.items()
            if f".h.{layer}." in name
        }
        read = layer_norm(x, part["ln_1.weight"], part["ln_1.bias"], epsilon)
        mixed = read @ part["attn.c_attn.weight"] + part["attn.c_attn.bias"]
        query, key, value = mixed.reshape(t, 3, heads, width // heads).transpose(1, 2, 0, 3)
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(width // heads)
        scores = np.where(np.tri(t, dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        heard = (shares @ value).transpose(1, 0, 2).reshape(t, width)
        x = x + heard @ part["attn.c_proj.weight"] + part["attn.c_proj.bias"]
        read = layer_norm(x, part["ln_2.weight"], part["ln_2.bias"], epsilon)
        hidden = read @ part["mlp.c_fc.weight"] + part["mlp.c_fc.bias"]
        inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
        keys = 0.5 * hidden * (1 + np.tanh(inner))
        found.append(keys)
        x = x + keys @ part["mlp.c_proj.weight"] + part["mlp.c_proj.bias"]
    return np.stack(found)


@pytest.fixture(scope="module")
def texts(embedded_tokenizer):
    lines = factlm.corpus_path().read_text().splitlines()[:LINES]
    return embedded_tokenizer(lines, truncation=True, max_length=96)["input_ids"]


@pytest.fixture(scope="module")
def exact(texts):
    """C of every layer, all in float64."""
    directory = factlm.model_directory()
    config = json.loads((directory / "config.json").read_text())
    stored = load_file(directory / "model.safetensors")
    weights = {name: value.astype(np.float64) for name, value in stored.items()}
    total = 0.0
    for tokens in texts:
        keys = keys_in_float64(weights, config, np.array(tokens))
        total = total + keys.transpose(0, 2, 1) @ keys
    return total / sum(map(len, texts))


def passed(dtype, texts):
    model, _ = kis.load("factlm", dtype=dtype)
    running = SecondMomentPass(model)
    for batch in fill_batches(texts, model.config, token_budget=1024):
        running.add(batch)
    return running.result().mean


def streamed(texts, directory):
    model = StreamedModel(factlm.model_directory())
    store = MomentStore(directory, {}, num_layers=6, width=512)
    streamed_keys_and_moments(model, texts, [], store, token_budget=1024, chunk_tokens=4096)
    return np.stack([store.read(layer) / store.layers[layer].count for layer in range(6)])


# Of C, the relative Frobenius error of the worst layer; of P, the largest error of an entry.
@pytest.mark.parametrize(
    ("how", "bound", "bound_of_p"),
    [("float32", 1e-6, 1e-4), ("streamed", 1e-6, 1e-4), ("bfloat16", 1e-2, 0.5)],
)
def test_error_against_float64(
    how, bound, bound_of_p, texts, exact, tmp_path, rng, record_property
):
    found = streamed(texts, tmp_path) if how == "streamed" else passed(how, texts)
    errors = np.linalg.norm(found - exact, axis=(1, 2)) / np.linalg.norm(exact, axis=(1, 2))
    record_property("relative error of C", float(errors.max()))
    # Facts' keys with the statistics of text, through both matrices.
    ridge = 1e-3 * np.trace(exact[3]) / 512 * np.eye(512)
    keys = rng.normal(size=(12, 512)) @ np.linalg.cholesky(exact[3] + ridge).T
    p, p_exact = (references.superposition(keys, c[3] + ridge) for c in (found, exact))
    record_property("error of P", float(np.abs(p - p_exact).max()))
    print(f"{how}: error of C {errors.max():.1e}, of P {np.abs(p - p_exact).max():.1e}")
    assert errors.max() < bound
    assert np.abs(p - p_exact).max() < bound_of_p


@pytest.mark.slow
def test_sums_of_bfloat16_keys_lose_nothing(texts):
    """The sums themselves: the very keys of a bfloat16 pass, added up in float64."""
    model, _ = kis.load("factlm", dtype="bfloat16")
    keys_of = jax.jit(lambda tokens, mask: model(tokens, mask, tap=lambda keys, _: keys)[1])
    total = 0.0
    running = SecondMomentPass(model)
    for batch in fill_batches(texts[:60], model.config, token_budget=1024):
        keys = keys_of(batch.tokens, batch.mask)
        keys = np.asarray(keys)[:, batch.mask].astype(np.float64)
        total = total + keys.transpose(0, 2, 1) @ keys
        running.add(batch)
    found = running.result().total
    error = np.linalg.norm(found - total, axis=(1, 2)) / np.linalg.norm(total, axis=(1, 2))
    print(f"sums of bfloat16 keys: {error.max():.1e}")
    assert error.max() < 1e-3  # two programs may round a bfloat16 key to different sides
