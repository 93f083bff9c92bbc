"""Forecasts against kernels that were edited, and probes against a run of the whole model."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.core.editing.edits import (
    edit_batch,
    edit_constrained,
    edit_null_space,
    edit_sequential,
)
from kis_jax.core.geometry.null_space import null_space
from kis_jax.core.geometry.whitening import whitener
from kis_jax.passes.targets.settings import TargetSettings, edit_settings
from kis_jax.passes.targets.values import TargetValues
from kis_jax.plan.forecasts import Outlook, forecast_layer
from kis_jax.plan.probes import Probe, probe_layers
from tests import references
from tests.references import TOLERANCE

N, D, M, TOKENS = 6, 12, 5, 9


def made_up(rng, failed=()):
    """Target values, a kernel, C and a probe of three texts, at random."""
    keys, values = rng.normal(size=(N, D)), rng.normal(size=(N, M))
    keys[list(failed)] = values[list(failed)] = np.nan
    probabilities = rng.uniform(0.2, 1.0, N)
    probabilities[list(failed)] = np.nan
    targets = TargetValues(
        keys=keys,
        prompt_keys=keys,
        values=values,
        initial=values,
        losses=-np.log(probabilities),
        probabilities=probabilities,
        steps=np.ones(N, int),
        failures=tuple("failed" if i in failed else None for i in range(N)),
        left_out=((),) * N,
        layer=0,
        prefixes=("",),
        settings=TargetSettings(steps=1, learning_rate=1.0, clamp=1.0, weight_decay=0.0),
    )
    ordinary = rng.normal(size=(80, D)) * np.geomspace(1, 0.03, D)
    probe = Probe(
        rng.normal(size=(TOKENS, D)), rng.uniform(1, 3, TOKENS), np.repeat([0, 1, 2], TOKENS // 3)
    )
    return targets, rng.normal(size=(D, M)), ordinary.T @ ordinary / 80, probe


@pytest.fixture
def settings(embedded):
    found = edit_settings(embedded[0].config)
    return dataclasses.replace(found, weight=3.0, null_ridge=0.5, null_space=0.2, units="absolute")


@pytest.mark.parametrize("method", ["sequential", "constrained", "batch", "null-space"])
def test_an_outlook_is_what_the_edited_kernel_does(rng, settings, x64, method):
    targets, kernel, c, probe = made_up(rng)
    found = forecast_layer(targets, kernel, c, probe, settings)
    order = np.array([4, 0, 5, 2])
    outlook = found.outlook(method, order)

    keys, values = targets.keys[order], targets.values[order]
    w = whitener(jnp.asarray(c))
    edit = {
        "sequential": lambda: edit_sequential(kernel, keys, values, w),
        "constrained": lambda: edit_constrained(kernel, keys, values, w),
        "batch": lambda: edit_batch(kernel, keys, values, w, 3.0),
        "null-space": lambda: edit_null_space(
            *(kernel, keys, values),
            *(null_space(jnp.asarray(c), threshold=0.2 / np.diag(c).mean()), 0.5),
        ),
    }[method]()
    after = np.asarray(edit.apply(jnp.asarray(kernel)))
    texts = {0: 0.0, 1: 0.0, 2: 0.0}
    for key, norm, text in zip(probe.keys, probe.stream_norms, probe.text, strict=True):
        texts[text] = max(texts[text], np.linalg.norm(key @ after - key @ kernel) / norm)
    kept = []
    for key, value in zip(keys, values, strict=True):
        wanted, got = value - key @ kernel, key @ after - key @ kernel
        kept.append(np.clip(got @ wanted / (wanted @ wanted), 0, 1))
    assert outlook.num_edits == 4
    close = dict(rtol=1e-7)
    np.testing.assert_allclose(outlook.displacement, np.mean(list(texts.values())), **close)
    each = found.displaced(method, order)
    np.testing.assert_allclose(each, [texts[text] for text in sorted(texts)], **close)
    np.testing.assert_allclose(outlook.kept, np.mean(kept), **close)
    np.testing.assert_allclose(
        outlook.effect, np.mean(np.array(kept) * targets.probabilities[order]), **close
    )
    if method == "constrained":
        np.testing.assert_allclose(outlook.kept, 1.0, **close)


def test_facts_without_target_values_are_left_out_and_count_as_without_effect(rng, settings):
    targets, kernel, c, probe = made_up(rng, failed=(1,))
    found = forecast_layer(targets, kernel, c, probe, settings)
    for method in ("sequential", "constrained", "batch"):
        without, all_of_them = np.array([0, 2, 3]), np.array([0, 1, 2, 3])
        alone, outlook = found.outlook(method, without), found.outlook(method, all_of_them)
        np.testing.assert_allclose(outlook.displacement, alone.displacement)
        np.testing.assert_allclose(outlook.effect, alone.effect * 3 / 4)
    assert found.outlook("sequential", np.array([1])) == Outlook(1, 0.0, 0.0, 0.0, 0.0)
    assert found.order()[-1] == 1


def test_a_key_that_repeats_another_is_left_out_of_constrained_edits(rng, settings):
    targets, kernel, c, probe = made_up(rng)
    targets.keys[3] = targets.keys[0]
    found = forecast_layer(targets, kernel, c, probe, settings)
    both, alone = np.array([0, 1, 3]), np.array([0, 1])
    outlook = found.outlook("constrained", both)
    np.testing.assert_allclose(
        outlook.displacement, found.outlook("constrained", alone).displacement
    )
    np.testing.assert_allclose(found.superposition[0, 3], 1.0)


def test_edits_within_a_bound_end_where_the_next_would_pass_it(rng, settings):
    targets, kernel, c, probe = made_up(rng)
    found = forecast_layer(targets, kernel, c, probe, settings)
    order = np.arange(N)
    curve = [found.outlook("constrained", order[:t]).displacement for t in range(1, N + 1)]
    assert found.edits_within("constrained", order, max(curve)) == N
    assert found.edits_within("constrained", order, 0.5 * min(curve)) == 0
    within = found.edits_within("constrained", order, curve[0])
    assert curve[within - 1] <= curve[0] and (within == N or curve[within] > curve[0])


def test_what_is_carried_is_the_best_token_of_each_paraphrase(rng, settings):
    targets, kernel, c, probe = made_up(rng)
    kernel_of = np.linalg.inv(c)
    paraphrased = [0, 2, 2]  # of fact 1 there is none
    found = forecast_layer(
        targets, kernel, c, probe, settings, paraphrases=probe, paraphrased=paraphrased
    )
    order = np.array([2, 1])
    asked = targets.values - targets.keys @ kernel
    keys, wanted = targets.keys[order], asked[order]
    gram = keys @ kernel_of @ keys.T
    update = kernel_of @ keys.T @ np.linalg.solve(gram, wanted)  # constrained
    carried = []
    for text in (1, 2):
        parts = [
            np.clip(key @ update @ asked[2] / (asked[2] @ asked[2]), 0, 1)
            for key in probe.keys[probe.text == text]
        ]
        carried.append(max(parts) * targets.probabilities[2])
    outlook = found.outlook("constrained", order)
    np.testing.assert_allclose(outlook.carried, np.mean(carried), rtol=1e-7)
    alone = found.outlook("constrained", np.array([1]))
    assert alone.carried == alone.effect


def test_parts_of_a_probe_are_texts_counted_anew(rng):
    probe = made_up(rng)[3]
    part = probe.part(1, 3)
    assert part.text.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(part.keys, probe.keys[3:])


def test_where_text_leaves_no_direction_free_there_is_no_null_space(rng, settings):
    targets, kernel, c, probe = made_up(rng)
    assert "null-space" not in forecast_layer(targets, kernel, np.eye(D), probe, settings).asked
    with pytest.raises(ValueError, match="finetune.*no closed form"):
        forecast_layer(targets, kernel, c, probe, settings, methods=["finetune"])


def test_scores_are_harmonic_means():
    assert Outlook(1, displacement=10.0, kept=1.0, effect=0.5, carried=0.5).score == pytest.approx(
        0.5
    )
    assert Outlook(1, displacement=0.0, kept=0.0, effect=0.0, carried=0.0).score == 0.0


def test_probes_are_keys_and_streams_of_the_whole_model(embedded):
    model, tokenizer = embedded
    texts = tokenizer(["The mother tongue of Vera Holm is", "Bread", "The Heron Toaster is"])
    texts = texts["input_ids"]
    probes = list(probe_layers(model, texts, token_budget=32))
    assert len(probes) == model.config.num_layers
    for row, text in enumerate(texts):
        tokens = jnp.asarray([text])
        _, keys = model(tokens, tap=lambda keys, mask: keys[0])
        mask = jnp.ones(tokens.shape, bool)
        last, _ = model.run(model.embed(tokens, mask), mask)
        for layer, probe in enumerate(probes):
            np.testing.assert_allclose(
                probe.keys[probe.text == row],
                keys[layer],
                rtol=TOLERANCE["float32"],
                atol=TOLERANCE["float32"],
            )
        np.testing.assert_allclose(
            probes[-1].stream_norms[probes[-1].text == row],
            jnp.linalg.norm(last[0], axis=-1),
            rtol=TOLERANCE["float32"],
        )
    with pytest.raises(ValueError, match="texts: expected at least one"):
        next(probe_layers(model, [], token_budget=32))


@pytest.mark.parametrize("inverse", ["auto", "pseudo"])
def test_a_forecast_where_neurons_never_fire_is_that_without_them(rng, settings, inverse):
    targets, kernel, c, probe = made_up(rng)
    live = np.arange(D) != 5
    c[5] = c[:, 5] = 0
    found = forecast_layer(targets, kernel, c, probe, settings, inverse=inverse)
    part = dataclasses.replace(targets, keys=targets.keys[:, live])
    assert found.dropped == 1
    np.testing.assert_allclose(
        found.superposition,
        references.superposition(part.keys, c[np.ix_(live, live)]),
        atol=1e-9,
    )
    targets.keys[3, live] = 0  # a fact that cannot be edited: it moves nothing, and spoils nothing
    found = forecast_layer(targets, kernel, c, probe, settings, inverse=inverse)
    for method in ("sequential", "constrained", "batch"):
        edit, made = found.edit(method, found.order())
        assert edit is not None and sorted(made) == [0, 1, 2, 4, 5], method
        assert np.isfinite(found.outlook(method, found.order()).score), method
    assert np.isnan(found.superposition[3]).all()
    with pytest.raises(ValueError, match="--inverse pseudo"):
        forecast_layer(targets, kernel, c, probe, settings, inverse="cholesky")
