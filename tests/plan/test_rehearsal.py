"""Rehearsals against a run of the whole model, one prompt at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.core.editing.ledger import Edit
from kis_jax.data.facts import read_facts
from kis_jax.models.memory import edited
from kis_jax.plan.rehearsal import Rehearsal, Rehearsals
from tests.references import TOLERANCE

OTHERS = ["Tomas Corvin was born in", "The mother tongue of Vera Holm is", "Bread"]


def next_tokens(model, tokens):
    """Log-probabilities after each token of one text, `(t, v)`."""
    return np.asarray(jax.nn.log_softmax(model(jnp.asarray([tokens]))[0]), np.float64)


def probability(model, tokenizer, prompt, target):
    """Geometric mean over the tokens of the target."""
    start, whole = (tokenizer(text)["input_ids"] for text in (prompt, f"{prompt} {target}"))
    told = next_tokens(model, whole)
    return np.exp(np.mean([told[i - 1, whole[i]] for i in range(len(start), len(whole))]))


def test_a_rehearsal_is_what_the_edited_model_says(embedded, rng):
    model, tokenizer = embedded
    facts = read_facts("factlm", 5)
    stage = Rehearsals(model, tokenizer, facts, OTHERS, token_budget=64)
    edit = Edit(
        jnp.asarray(rng.normal(size=(2, 512)), jnp.float32),
        jnp.asarray(0.3 * rng.normal(size=(2, 128)), jnp.float32),
    )
    after = edited(model, {2: edit})
    found = stage.of(after, [1, 4])

    close = dict(rtol=10 * TOLERANCE["float32"])
    chosen = [facts[1], facts[4]]
    effect = [probability(after, tokenizer, fact.text, fact.target_new) for fact in chosen]
    carried = [
        probability(after, tokenizer, prompt, fact.target_new)
        for fact in chosen
        for prompt in fact.paraphrase_prompts
    ]
    common = []
    for text in OTHERS:
        tokens = tokenizer(text)["input_ids"]
        both = [np.exp(next_tokens(each, tokens)[-1]) for each in (model, after)]
        common.append(np.minimum(*both).sum())
    np.testing.assert_allclose(found.effect, np.mean(effect), **close)
    np.testing.assert_allclose(found.carried, np.mean(carried), **close)
    np.testing.assert_allclose(found.stays, np.mean(common), **close)
    assert found.stays < 0.9


def test_an_unedited_model_says_what_it_said(embedded):
    model, tokenizer = embedded
    stage = Rehearsals(model, tokenizer, read_facts("factlm", 2), OTHERS, token_budget=64)
    assert stage.of(model, [0, 1]).stays == pytest.approx(1.0, abs=1e-5)


def test_without_paraphrases_the_effect_stands_for_them(embedded):
    model, tokenizer = embedded
    (fact,) = read_facts("factlm", 1)
    bare = type(fact)(0, fact.prompt, fact.subject, target_new=fact.target_new)
    found = Rehearsals(model, tokenizer, [bare], OTHERS, token_budget=64).of(model, [0])
    assert found.carried == found.effect


def test_there_is_something_to_be_left_alone(embedded):
    model, tokenizer = embedded
    with pytest.raises(ValueError, match="others: expected at least one"):
        Rehearsals(model, tokenizer, read_facts("factlm", 1), [], token_budget=64)


def test_scores_are_harmonic_means():
    assert Rehearsal(1.0, 0.5, 0.5).score == pytest.approx(0.6)
    assert Rehearsal(0.0, 0.5, 0.5).score == 0.0
