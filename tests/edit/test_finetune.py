import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kis_jax.data.facts import read_facts
from kis_jax.edit.finetune import FinetuneSettings, finetune
from kis_jax.models.memory import memory_kernel, with_memory

LAYER, FACTS = 2, 3


def test_equals_adam_on_the_whole_model_one_fact_at_a_time(embedded):
    """The reference runs all layers and differentiates through the stacked model."""
    model, tokenizer = embedded
    facts = read_facts("factlm", FACTS)
    asked = []
    for fact in facts:
        prompt = tokenizer(fact.text)["input_ids"]
        whole = tokenizer(f"{fact.text} {fact.target_new}")["input_ids"]
        asked.append((np.array([whole]), len(prompt)))

    def loss(kernel, tokens, start):
        logits = with_memory(model, {LAYER: kernel})(tokens)[0]
        log_p = jax.nn.log_softmax(logits)[jnp.arange(tokens.shape[1] - 1), tokens[0, 1:]]
        return -log_p[start - 1 :].mean()

    gradient_of = jax.jit(jax.grad(loss), static_argnums=2)
    kernel = memory_kernel(model, LAYER)
    adam = optax.adam(1e-3)
    state = adam.init(kernel)
    for _ in range(3):
        gradient = sum(gradient_of(kernel, *one) for one in asked) / FACTS
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(gradient, state)
        kernel = kernel + updates
    tuned = finetune(model, tokenizer, facts, layer=LAYER, settings=FinetuneSettings(3, 1e-3, 0.0))
    assert tuned.steps == 3
    # Adam divides by a root of squares: where a gradient is rounding, so is its direction.
    off = np.abs(tuned.kernel - kernel) > 1e-5
    assert off.mean() < 1e-3
    expected = [loss(kernel, *one) for one in asked]
    np.testing.assert_allclose(tuned.losses, expected, rtol=1e-3)


def test_learns_the_facts_and_stops(embedded):
    model, tokenizer = embedded
    facts = read_facts("factlm", FACTS)
    tuned = finetune(model, tokenizer, facts, layer=LAYER)
    assert tuned.losses.mean() < 0.05 and 0 < tuned.steps < 100


def test_a_bound_on_the_change_is_kept(embedded):
    model, tokenizer = embedded
    settings = FinetuneSettings(steps=4, learning_rate=1e-2, largest_change=5e-3)
    tuned = finetune(model, tokenizer, read_facts("factlm", 1), layer=LAYER, settings=settings)
    change = np.abs(tuned.kernel - np.asarray(memory_kernel(model, LAYER)))
    assert 4.9e-3 < change.max() <= 5e-3 + 1e-6


def test_a_loss_that_is_not_finite_is_an_error(embedded):
    model, tokenizer = embedded
    broken = with_memory(model, {LAYER: jnp.full_like(memory_kernel(model, LAYER), jnp.nan)})
    with pytest.raises(ValueError, match="a finite loss, found nan after 0 steps"):
        finetune(broken, tokenizer, read_facts("factlm", 1), layer=LAYER)
