"""Scores by what a model writes by itself: what counts as said, and what is refused."""

import copy
import dataclasses

import numpy as np
import pytest

import kis_jax as kis
from kis_jax.passes.scores import generated
from kis_jax.passes.scores.generated import CHATTED, GENERATED, generated_scores
from kis_jax.passes.scores.generation import generate
from kis_jax.passes.scores.recall import recall


@pytest.fixture(scope="module")
def factlm():
    model, tokenizer = kis.load("factlm")
    return model, tokenizer, kis.read_facts("factlm", 12)


def test_what_the_model_knows_it_says(factlm):
    model, tokenizer, facts = factlm
    true = [dataclasses.replace(fact, target_new=fact.target_true) for fact in facts]
    assert all(recall(model, tokenizer, facts))
    found = generated_scores(model, tokenizer, true, num_tokens=8)
    assert tuple(found) == GENERATED and found["generated_containment"].mean() > 0.9
    false = generated_scores(model, tokenizer, facts, num_tokens=8)
    assert false["generated_containment"].mean() < 0.1


@pytest.mark.parametrize(
    ("written", "names", "exact", "holds"),
    [
        (" Port Ravel.", ("Port Ravel",), 1, 1),
        (" port ravel, which is", ("Port Ravel",), 0, 1),
        (" Port Ravelle", ("Port Ravel",), 0, 0),  # no whole word
        ("", ("Port Ravel",), 0, 0),
        (" the harbour Ravel", ("Port Ravel", "harbour Ravel"), 0, 1),
    ],
)
def test_what_counts_as_said(factlm, monkeypatch, written, names, exact, holds):
    model, tokenizer, facts = factlm
    monkeypatch.setattr(generated, "generate", lambda *_, **__: [written])
    fact = dataclasses.replace(facts[0], target_new=names[0], new_aliases=names[1:])
    found = generated_scores(model, tokenizer, [fact])
    assert [found[name][0] for name in GENERATED] == [exact, holds]


def test_a_chat_template_is_put_around_the_prompt(factlm):
    model, tokenizer, facts = factlm
    with pytest.raises(ValueError, match="chat: expected a tokenizer with a chat template"):
        generated_scores(model, tokenizer, facts, chat=True)
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = "{{ messages[0]['content'] }}"
    true = [dataclasses.replace(fact, target_new=fact.target_true) for fact in facts]
    chatted = generated_scores(model, plain, true, chat=True, num_tokens=8)
    bare = generated_scores(model, tokenizer, true, num_tokens=8)
    assert tuple(chatted) == CHATTED
    for one, other in zip(chatted.values(), bare.values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_tokens_are_taken_as_they_are(factlm):
    model, tokenizer, facts = factlm
    prompts = [fact.text for fact in facts[:2]]
    tokens = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    options = {"num_tokens": 5, "top_k": 1}
    assert generate(model, tokenizer, tokens, **options) == generate(
        model, tokenizer, prompts, **options
    )
