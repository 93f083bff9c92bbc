"""What shrinkage gains on keys of a trained model, which are not what it is derived for."""

import jax.numpy as jnp
import numpy as np
import pytest

import kis_jax as kis
from kis_jax import factlm
from kis_jax.core.arrays.precision import HOST
from kis_jax.data.facts import read_facts
from kis_jax.data.prompts import tokenize_facts
from kis_jax.passes.keys import fact_keys

LAYERS = (0, 3, 5)


@pytest.fixture(scope="module")
def errors(embedded):
    """Relative errors of P from some 1,900 tokens, against P from ten times as many others."""
    model, tokenizer = embedded
    prompts = tokenize_facts(read_facts("factlm", 64), tokenizer, context_length=96)
    keys = fact_keys(model, prompts, token_budget=2048)
    texts = factlm.corpus_path().read_text().splitlines()
    few, many = (
        kis.second_moments(model, tokenizer, part) for part in (texts[:40], texts[300:700])
    )
    off = ~np.eye(64, dtype=bool)

    def mean(moments, layer):
        return jnp.asarray(moments.total[layer] / int(moments.count[layer]), jnp.float64)

    def p(c, layer):
        rows = jnp.asarray(keys[layer], jnp.float64)
        return np.asarray(kis.superposition(rows, kis.whitener(c)))[off]

    found = {}
    with HOST.active():
        for layer in LAYERS:
            true, c, n = p(mean(many, layer), layer), mean(few, layer), int(few.count[layer])
            moment = kis.SecondMoment(c * n, jnp.asarray(n))
            tried = {
                "as it is": c,
                "shrunk": kis.shrink(moment).mean,
                "an eighth": kis.shrink(moment, count=n / 8).mean,
            }
            found[layer] = {
                name: np.linalg.norm(p(one, layer) - true) / np.linalg.norm(true)
                for name, one in tried.items()
            }
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_p_from_few_tokens_comes_nearer_to_p_from_many(errors, layer):
    assert errors[layer]["shrunk"] < 0.95 * errors[layer]["as it is"]


def test_counting_tokens_of_one_text_as_one_would_shrink_too_much(errors):
    """So the docstring says: tokens of a text are alike, and yet n is the better count for P."""
    assert all(found["an eighth"] > found["as it is"] for found in errors.values())
