"""Target values of many facts at once, against one fact at a time with the whole model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.data.facts import Fact
from kis_jax.data.rewrites import tokenize_rewrites
from kis_jax.models import Shift
from kis_jax.passes.targets.values import TargetSettings, target_values
from tests import golden

SETTINGS = TargetSettings(steps=6, learning_rate=0.1, clamp=1.5, weight_decay=0.1, kl_weight=0.3)
OWN = dataclasses.replace(SETTINGS, convention="own", stop_below=0.0, clamp=0.5)
PREFIXES = ("", "b", "cd e")
# Subjects at the start, within and at the end; targets of one to three tokens.
FACTS = (
    Fact(0, "{} ab c", "de", target_new="f"),
    Fact(1, "a b {} c d", "g h", target_new="ij k"),
    Fact(2, "c {}", "h", target_new="abc"),
    Fact(3, "{} is", "hi", target_new="e"),
    Fact(4, "e {} e", "a", target_new="b"),
)
# What a step on top of a past could get wrong: rotary positions, windows, norms after the MLP,
# caps, scaling by the length of the text. (`models/test_past.py` has the others.)
STRUCTURES = ("gptj", "gemma2", "gemma3", "phi3_longrope")


def given(texts):
    """The tokens that are read, `(b, t)`: nothing is predicted from a target's last one."""
    tokens, _, starts, lengths = texts
    return jnp.arange(tokens.shape[1]) < (lengths - (starts < lengths).astype(int))[:, None]


@jax.jit
def whole_model(model, vector, texts, before, norm, layer, settings):
    """Loss, probability and gradient of one fact: the whole model on its whole texts."""

    def loss(vector):
        tokens, subjects, starts, lengths = texts
        here = jnp.arange(tokens.shape[1])
        vectors = jnp.broadcast_to(vector, (len(tokens), len(vector)))
        shift = Shift(layer, vectors, here == subjects[:, None])
        log_p = jax.nn.log_softmax(model(tokens, given(texts), shift=shift))
        said = jnp.take_along_axis(log_p[:, :-1], tokens[:, 1:, None], axis=2)[..., 0]
        target = (here[1:] >= starts[:, None]) & (here[1:] < lengths[:, None])
        likely = jnp.mean(said, axis=1, where=target)[:-1]
        after = log_p[-1, lengths[-1] - 1]
        drift = optax.losses.kl_divergence_with_log_targets(before, after)
        length = jnp.linalg.norm(jnp.where(jnp.any(vector), vector, 1))
        length = jnp.where(jnp.any(vector), length, 0)  # torch's norm has no slope at zero
        decay = settings["weight_decay"] * length ** settings["power"] / norm**2
        total = -jnp.mean(likely) + settings["kl_weight"] * drift + decay
        return total, (jnp.exp(likely), after)

    return jax.value_and_grad(loss, has_aux=True)(vector)


@jax.jit
def tapped(model, tokens, mask, layer):
    """Keys of one layer, and the stream after it."""
    _, keys = model(tokens, mask, tap=lambda keys, mask: keys)
    streams = model.run(
        model.embed(tokens, mask),
        mask,
        watch=lambda g: (g.rest, g.values),
    )[1]
    return keys[layer], *(stream[layer] for stream in streams)


def reference(model, rewrite, layer, settings):
    """One fact at a time, whole texts and the whole model at each step, with a shift."""
    own = settings.convention == "own"
    essence = rewrite.essence
    if not own:  # of "h is a" the authors read what follows the subject
        stop = essence.index + 1
        essence = dataclasses.replace(essence, tokens=essence.tokens[:stop], start=stop)
    texts = [*(text for text in rewrite.texts if text is not None), essence]
    tokens = np.zeros((len(texts), 16), np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text.tokens)] = text.tokens
    places = [
        np.array([value(text) for text in texts])
        for value in (lambda t: t.index, lambda t: t.start, lambda t: len(t.tokens))
    ]
    keys, rest, values = (
        np.asarray(part)[np.arange(len(texts)), places[0]]
        for part in tapped(model, tokens, given((tokens, *places)), jnp.array(layer))
    )
    keys = keys[:-1].astype(np.float64)
    stream = rest[0] + values[0]
    norm = np.linalg.norm(stream if settings.convention == "memit" else values[0])
    v0 = keys[0] @ np.asarray(model.blocks.mlp.output.kernel[...][layer], np.float64)
    numbers = {"weight_decay": settings.weight_decay, "kl_weight": settings.kl_weight}
    numbers["power"] = 2 if own else 1

    def look(vector, before):
        return whole_model(
            model, vector, (tokens, *places), before, norm, jnp.array(layer), numbers
        )

    vector = jnp.zeros(model.config.width)
    (_, (_, before)), _ = look(vector, jnp.zeros(model.config.vocab_size))
    rate = settings.learning_rate * (norm / np.sqrt(model.config.width) if own else 1)
    adam = optax.adam(rate)
    state = adam.init(vector)
    last, earlier = vector, 0.0
    for step in range(settings.steps):
        (value, (said, _)), slope = look(vector, before)
        least = float(min(said[0], jnp.mean(said)))
        likely = least > settings.stop_at
        if likely and own:  # back to where the line between the last two log-odds passes it
            odds = [np.log(p / (1 - p)) for p in (max(earlier, 1e-30), least, settings.stop_at)]
            share = np.clip((odds[2] - odds[0]) / (odds[1] - odds[0]), 0, 1)
            vector = last + float(share) * (vector - last)
        if value < settings.stop_below or likely or step == settings.steps - 1:
            break
        with jax.numpy_dtype_promotion("standard"):
            change, state = adam.update(slope, state)
        last, earlier = vector, least
        vector = vector + change
        vector = vector * min(
            1.0, settings.clamp * norm / max(1e-30, float(jnp.linalg.norm(vector)))
        )
    weights = np.ones(len(keys))
    if settings.convention != "rome":
        weights[1:] = 1 / (len(keys) - 1)
    average = np.average(keys, axis=0, weights=weights)
    if own:
        v0 = average @ np.asarray(model.blocks.mlp.output.kernel[...][layer], np.float64)
    return {
        "keys": average,
        "prompt_keys": keys[0],
        "initial": v0,
        "values": v0 + np.asarray(vector, np.float64),
        "losses": value,
        "probabilities": jnp.mean(said),
        "steps": step,
    }


def assert_equals_reference(model, tokenizer, facts, layer, settings, budget=None):
    found = target_values(
        *(model, tokenizer, facts),
        layer=layer,
        settings=settings,
        prefixes=PREFIXES,
        token_budget=budget,
    )
    length = model.config.context_length
    rewrites = tokenize_rewrites(
        facts, PREFIXES, tokenizer, context_length=length, position=settings.position
    )
    for place, rewrite in enumerate(rewrites):
        for name, expected in reference(model, rewrite, layer, settings).items():
            np.testing.assert_allclose(
                getattr(found, name)[place],
                expected,
                rtol=1e-4,
                atol=1e-4 * np.abs(expected).max(),
                err_msg=f"{name} of fact {place}",
            )
    assert found.failures == len(facts) * (None,)
    return found


@pytest.mark.parametrize("name", STRUCTURES)
def test_equal_one_fact_at_a_time_in_every_structure(name, letters):
    model = load_model(golden.DIRECTORY / name)
    found = assert_equals_reference(model, letters, FACTS[:2], 0, SETTINGS, budget=64)
    assert np.linalg.norm(found.values - found.initial, axis=1).min() > 0


def test_equal_one_fact_at_a_time_at_the_prompts_last_token(letters):
    model = load_model(golden.DIRECTORY / "gpt2_untied")
    settings = dataclasses.replace(SETTINGS, position="last")
    assert_equals_reference(model, letters, FACTS, 1, settings, budget=4096)


@pytest.mark.parametrize("name", ["gptj", "gemma2"])
def test_own_convention_in_lengths_of_the_value_and_by_probability(name, letters):
    """The likelier of two facts has stopped where it was likely enough, the other goes on."""
    model = load_model(golden.DIRECTORY / name)
    free = target_values(
        *(model, letters, FACTS[:2]), layer=0, settings=OWN, prefixes=PREFIXES, token_budget=64
    )
    bound = float(np.mean(np.sort(free.probabilities))) * 0.9
    settings = dataclasses.replace(OWN, stop_at=bound)
    found = assert_equals_reference(model, letters, FACTS[:2], 0, settings, budget=64)
    assert found.steps.min() < OWN.steps - 1


@pytest.mark.parametrize(("layer", "convention"), [(0, "memit"), (1, "rome"), (2, "own")])
def test_first_and_last_layer_in_all_conventions(layer, convention, letters):
    model = load_model(golden.DIRECTORY / "gpt2_tied")
    settings = dataclasses.replace(SETTINGS, convention=convention)
    assert_equals_reference(model, letters, FACTS, layer, settings, budget=48)


@pytest.fixture(scope="module")
def small():
    return load_model(golden.DIRECTORY / "gpt2_untied")


def found_for(model, tokenizer, facts, **changes):
    arguments = {"layer": 1, "settings": SETTINGS, "prefixes": ("",)} | changes
    return target_values(model, tokenizer, facts, **arguments)


def test_each_fact_stops_by_itself(small, letters):
    """One whose loss is under the bound at once is not moved; others are what they are alone."""
    free = found_for(small, letters, FACTS[:3])
    bound = float(np.median(free.losses)) + 0.3
    settings = dataclasses.replace(SETTINGS, stop_below=bound)
    found = found_for(small, letters, FACTS[:3], settings=settings)
    assert len(set(found.steps.tolist())) > 1
    for place, fact in enumerate(FACTS[:1]):
        alone = found_for(small, letters, [fact], settings=settings)
        assert alone.steps[0] == found.steps[place]
        np.testing.assert_allclose(alone.values[0], found.values[place], rtol=1e-4, atol=1e-5)
    done = found.losses < bound
    assert np.all(found.steps[~done] == SETTINGS.steps - 1)


def test_the_shift_is_clamped(small, letters):
    settings = dataclasses.replace(SETTINGS, clamp=0.01)
    found = found_for(small, letters, FACTS[:3], settings=settings)
    bias = np.asarray(small.blocks.mlp.output.bias[...][1])
    shares = np.linalg.norm(found.values - found.initial, axis=1) / np.linalg.norm(
        found.initial + bias, axis=1
    )
    np.testing.assert_allclose(shares, 0.01, rtol=1e-3)


def test_a_fact_whose_loss_is_nan_is_named_and_the_others_go_on(small, letters):
    """A token that only one fact holds has an embedding of NaN."""
    broken = jax.tree.map(lambda leaf: leaf, small)
    (token,) = letters("q")["input_ids"]
    table = broken.embedding.embedding
    table[...] = table[...].at[token].set(jnp.nan)
    facts = (FACTS[0], Fact(9, "{} ab c", "dq", target_new="f"), FACTS[3])
    found = found_for(broken, letters, facts)
    whole = found_for(small, letters, [FACTS[0], FACTS[4], FACTS[3]])
    assert [failure is None for failure in found.failures] == [True, False, True]
    assert "loss was nan after 0 steps" in found.failures[1]
    assert np.isnan(found.values[1]).all() and np.isnan(found.keys[1]).all()
    np.testing.assert_allclose(found.values[[0, 2]], whole.values[[0, 2]], rtol=1e-4, atol=1e-5)


def test_prefixes_that_do_not_fit_are_left_out_and_named(small, letters):
    long = ("", "b", "abcdefgh abcdefgh ab")
    found = found_for(small, letters, FACTS[:2], prefixes=long)
    assert found.left_out == ((2,), (2,))
    fitting = found_for(small, letters, FACTS[:2], prefixes=long[:2])
    np.testing.assert_allclose(found.values, fitting.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.keys, fitting.keys, rtol=1e-4, atol=1e-6)


def test_selection_progress_and_no_facts(small, letters):
    seen = []
    facts = [dataclasses.replace(FACTS[0], subject=subject) for subject in ("de", "fg", "hi")]
    found = found_for(
        *(small, letters, facts), token_budget=1, on_progress=lambda *now: seen.append(now)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    part = found[np.array([True, False, True])]
    np.testing.assert_array_equal(part.values, found.values[[0, 2]])
    assert len(part) == 2 and part.failures == (None, None) and part.prefixes == ("",)
    np.testing.assert_array_equal(found[1:3].steps, found.steps[1:3])
    assert len(found_for(small, letters, [])) == 0


def test_what_cannot_be_sought(small, letters):
    encoder = load_model(golden.DIRECTORY / "bert")
    with pytest.raises(ValueError, match="expected a decoder, .* found an encoder .bert."):
        found_for(encoder, letters, FACTS)
    with pytest.raises(ValueError, match="layer: expected one of the model, 0 to 2, found 3"):
        found_for(small, letters, FACTS, layer=3)
