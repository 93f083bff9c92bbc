"""Scores of choices by a decoder against sums of its own logits, and by an encoder one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kis_jax.data.puzzles import Puzzle, read_puzzles
from kis_jax.models import Encoder, MultipleChoice
from kis_jax.models.families import bert
from kis_jax.models.memory import with_memory
from kis_jax.passes.choices.scores import head_scores, likelihood_scores
from kis_jax.passes.not_finite import NotFiniteError

PUZZLES = read_puzzles("factlm-test")[:5]


def mean_log_probability(model, tokenizer, prompt, choice):
    """By definition, from the logits of one text."""
    start = len(tokenizer(prompt)["input_ids"])
    tokens = tokenizer(f"{prompt} {choice}")["input_ids"]
    logits = np.asarray(model(np.array([tokens]))[0], np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.mean([log_probabilities[i - 1, tokens[i]] for i in range(start, len(tokens))])


def test_a_decoders_scores_are_means_over_the_choices_tokens(embedded):
    model, tokenizer = embedded
    compiled = jax.jit(model)
    found = likelihood_scores(
        model, tokenizer, PUZZLES, token_budget=512, prompt="Q: {} So", prior_prompt="So"
    )
    for row, puzzle in enumerate(PUZZLES):
        for place, choice in enumerate(puzzle.choices):
            plain = mean_log_probability(compiled, tokenizer, f"Q: {puzzle.question} So", choice)
            prior = mean_log_probability(compiled, tokenizer, "So", choice)
            np.testing.assert_allclose(found.after_question[row, place], plain, atol=1e-4)
            np.testing.assert_allclose(
                found.without_prior[row, place], plain - prior, rtol=0, atol=1e-4
            )


def test_prompts_that_cannot_be_are_named(embedded):
    model, tokenizer = embedded
    for prompt in ("So", "{} {}"):
        with pytest.raises(ValueError, match="prompt: expected one {} for the question"):
            likelihood_scores(model, tokenizer, PUZZLES, token_budget=512, prompt=prompt)
    for prior in (" ", "{}"):
        with pytest.raises(ValueError, match="prior_prompt: expected a text without a question"):
            likelihood_scores(model, tokenizer, PUZZLES, token_budget=512, prior_prompt=prior)


def test_a_broken_model_is_not_scored(embedded):
    model, tokenizer = embedded
    broken = with_memory(model, {0: np.full((512, 128), np.inf, np.float32)})
    with pytest.raises(NotFiniteError):
        likelihood_scores(broken, tokenizer, PUZZLES, token_budget=512)


@pytest.fixture(scope="module")
def encoder():
    config = bert.read_config(
        dict(vocab_size=2048, hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
             intermediate_size=20, max_position_embeddings=64)
    )  # fmt: skip
    shapes = nnx.eval_shape(
        lambda: MultipleChoice(Encoder(config, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)


def test_an_encoders_scores_are_those_of_each_text_alone(encoder, embedded_tokenizer):
    """With the question's tokens of one type, the choice's of the other."""
    puzzles = PUZZLES[:3]
    together = head_scores(encoder, embedded_tokenizer, puzzles, rows=2)
    compiled = jax.jit(encoder)
    for puzzle, logits in zip(puzzles, together, strict=True):
        question = len(embedded_tokenizer(puzzle.question)["input_ids"])
        for choice, logit in zip(puzzle.choices, logits, strict=True):
            text = np.array(embedded_tokenizer(puzzle.question, choice)["input_ids"])
            tokens, mask = np.zeros((1, 1, 64), int), np.arange(64)[None, None] < len(text)
            tokens[..., : len(text)] = text
            types = (np.arange(64) >= question).astype(int)[None, None] * mask
            alone = compiled(tokens, mask, types)[0, 0]
            np.testing.assert_allclose(logit, alone, rtol=0, atol=1e-4)


def test_a_missing_choice_is_never_taken_and_changes_no_other(
    encoder, embedded, embedded_tokenizer
):
    whole = [dataclasses.replace(p, choices=p.choices[:3], answer=0) for p in PUZZLES[:3]]
    lacking = [dataclasses.replace(p, choices=("", *p.choices), answer=1) for p in whole]
    for score in (
        lambda puzzles: head_scores(encoder, embedded_tokenizer, puzzles),
        lambda puzzles: likelihood_scores(*embedded, puzzles, token_budget=512).after_question,
    ):
        alone, found = score(whole), score(lacking)
        np.testing.assert_allclose(found[:, 1:], alone, rtol=0, atol=1e-5)
        assert (found[:, 0] < alone.min(axis=1)).all() and np.isfinite(found).all()


def test_puzzles_that_do_not_fit_are_named(encoder, embedded_tokenizer):
    long = Puzzle("long", "word " * 80, ("a", "b"), 0, order=(0, 1))
    with pytest.raises(ValueError, match="puzzle 'long': expected at most 64 tokens"):
        head_scores(encoder, embedded_tokenizer, [long])
