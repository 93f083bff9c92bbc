"""Every method in closed form, its target values given, against other algorithms."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.facts import Fact
from kis_jax.data.notes import DataNote
from kis_jax.edit.methods import make_edits
from kis_jax.models.memory import memory_kernel, with_memory
from tests import golden, references

LAYER, N = 1, 6
D_WEIGHT, THRESHOLD, RIDGE = 7.0, 0.3, 0.5


@dataclasses.dataclass(frozen=True)
class Search:
    """Settings of a search that is not made."""

    steps: int = 3
    convention: str = "rome"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `make_edits` reads of the settings of a family, where target values are given."""

    layer: int = LAYER
    layers: tuple[int, ...] = (LAYER,)
    weight: float = D_WEIGHT
    null_space: float = THRESHOLD
    null_ridge: float = RIDGE
    units: str = "absolute"
    target: Search = Search()
    batch_target: Search = Search()


@dataclasses.dataclass(frozen=True)
class Targets:
    """Made-up target values."""

    keys: np.ndarray
    prompt_keys: np.ndarray
    values: np.ndarray
    failures: tuple
    layer: int = LAYER
    prefixes: tuple = ("",)
    settings: Search = Search()

    @property
    def losses(self):
        return np.arange(len(self.keys)) / 10

    @property
    def probabilities(self):
        return 1 - self.losses

    @property
    def steps(self):
        return np.arange(len(self.keys))


@pytest.fixture(scope="module")
def model():
    return load_model(golden.DIRECTORY / "gpt2_tied")


@pytest.fixture
def moments(model, rng):
    d, layers = model.config.mlp_width, model.config.num_layers
    return SecondMoment(
        np.stack([1000 * references.spd(rng, d, 1.5) for _ in range(layers)]),
        np.full(layers, 1000),
    )


@pytest.fixture
def targets(model, rng):
    d, m = model.config.mlp_width, model.config.width
    keys = rng.normal(size=(N, d)).astype(np.float32)
    near = keys + 0.1 * rng.normal(size=keys.shape).astype(np.float32)
    return Targets(keys, near, rng.normal(size=(N, m)).astype(np.float32), (None,) * N)


FACTS = [Fact(i, "{} speaks", f"Subject {i}", target_new="Orvish") for i in range(N)]


def edit(model, moments, targets, facts=FACTS, **options):
    return make_edits(model, None, facts, moments, settings=Settings(), targets=targets, **options)


def kernels(model, made):
    """Kernel before and after, in float64."""
    return [np.asarray(memory_kernel(m, LAYER), np.float64) for m in (model, made.model)]


@pytest.mark.parametrize("method", ["sequential", "rome"])
def test_sequential_is_a_literal_loop_of_rank_one_edits_on_the_model(
    model, moments, targets, method
):
    """Each edit reads the value that the model of the moment gives, and writes into that model."""
    made = edit(model, moments, targets, method=method)
    c = moments.total[LAYER] / 1000
    looped = model
    for key, value in zip(targets.keys.astype(float), targets.values, strict=True):
        kernel = np.asarray(memory_kernel(looped, LAYER), np.float64)
        direction = np.linalg.inv(c) @ key
        update = np.outer(direction, value - key @ kernel) / (key @ direction)
        looped = with_memory(looped, {LAYER: kernel + update})
    np.testing.assert_allclose(
        memory_kernel(made.model, LAYER), memory_kernel(looped, LAYER), rtol=2e-4, atol=1e-5
    )
    tokens = jnp.array([[3, 1, 4, 1, 5]])
    np.testing.assert_allclose(made.model(tokens), looped(tokens), rtol=2e-4, atol=1e-4)


def test_constrained_keeps_every_earlier_edit(model, moments, targets):
    made = edit(model, moments, targets, method="constrained")
    before, after = kernels(model, made)
    keys = targets.keys.astype(np.float64)
    residuals = np.linalg.norm(targets.values - keys @ before, axis=1)
    left = np.linalg.norm(targets.values - keys @ after, axis=1)
    assert np.all(left < 1e-4 * residuals)
    c = moments.total[LAYER] / 1000
    expected = references.constrained_edit(before, keys, targets.values.astype(float), c)
    np.testing.assert_allclose(after, expected, rtol=2e-4, atol=1e-5)


def test_batch_is_least_squares_against_ordinary_text(model, moments, targets):
    made = edit(model, moments, targets, method="batch")
    before, after = kernels(model, made)
    penalty = D_WEIGHT * moments.total[LAYER] / 1000
    expected = references.batch_edit(before, targets.keys.astype(float), targets.values, penalty)
    np.testing.assert_allclose(after, expected, rtol=2e-4, atol=1e-5)


def test_null_space_leaves_frequent_directions_alone(model, moments, targets):
    made = edit(model, moments, targets, method="null-space")
    before, after = kernels(model, made)
    eigenvalues, vectors = np.linalg.eigh(moments.total[LAYER] / 1000)
    free = eigenvalues <= THRESHOLD
    assert 0 < free.sum() < len(free)
    np.testing.assert_allclose(vectors[:, ~free].T @ (after - before), 0, atol=1e-6)
    inside = targets.keys @ vectors[:, free]
    values = targets.values - targets.keys @ before
    part = references.batch_edit(
        np.zeros((free.sum(), values.shape[1])), inside, values, RIDGE * np.eye(free.sum())
    )
    np.testing.assert_allclose(after - before, vectors[:, free] @ part, rtol=2e-4, atol=1e-5)


def test_the_original_rome_takes_residuals_from_the_prompt_alone(model, moments, targets):
    made = edit(model, moments, targets, method="rome", original_keys=True)
    before, after = kernels(model, made)
    inverse = np.linalg.inv(moments.total[LAYER] / 1000)
    expected = before
    for average, key, value in zip(
        targets.keys.astype(float), targets.prompt_keys.astype(float), targets.values, strict=True
    ):
        direction = inverse @ average
        update = np.outer(direction, value - key @ expected) / (key @ direction)
        expected = expected + update
    np.testing.assert_allclose(after, expected, rtol=2e-4, atol=1e-5)


def test_any_facts_can_be_taken_back(model, moments, targets):
    """The ledger alone gives the edit that those facts alone would have had."""
    order = [4, 0, 3]
    few = Targets(
        targets.keys[order], targets.prompt_keys[order], targets.values[order], (None,) * 3
    )
    for method in ("sequential", "constrained", "batch", "null-space"):
        whole = edit(model, moments, targets, method=method).ledger
        alone = edit(model, moments, few, [FACTS[i] for i in order], method=method).ledger
        taken = whole.take(order)
        assert taken.facts == alone.facts and whole.exact
        np.testing.assert_allclose(
            taken.edits[LAYER].delta, alone.edits[LAYER].delta, rtol=1e-9, atol=1e-12
        )
        parts = whole.take([0, 1]), whole.take([2, 3, 4, 5])
        merged = parts[0].merge(parts[1])
        assert merged.facts == whole.facts
        np.testing.assert_allclose(
            merged.edits[LAYER].delta, whole.edits[LAYER].delta, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("method", ["sequential", "constrained", "batch", "null-space"])
def test_damage_to_text_is_foreseen_and_bounded(model, moments, targets, method):
    made = edit(model, moments, targets, method=method)
    before, after = kernels(model, made)
    c = moments.total[LAYER] / 1000
    moved, answer = (np.trace(w.T @ c @ w) for w in (after - before, before))
    np.testing.assert_allclose(made.damage, moved / answer, rtol=1e-3)
    assert made.scale == 1
    bounded = edit(model, moments, targets, method=method, at_most_damage=made.damage / 4)
    np.testing.assert_allclose(bounded.scale, 0.5, rtol=1e-9)
    np.testing.assert_allclose(
        bounded.ledger.edits[LAYER].delta, 0.5 * made.ledger.edits[LAYER].delta, atol=1e-9
    )
    assert bounded.ledger.settings["scale"] == bounded.scale
    free = edit(model, moments, targets, method=method, at_most_damage=2 * made.damage)
    assert free.scale == 1 and free.damage == made.damage


@pytest.mark.parametrize("method", ["batch", "null-space"])
def test_a_weight_in_units_of_the_model_is_a_multiple_of_a_mean_over_facts(
    model, moments, targets, method
):
    """Also where two ledgers are put together: that of all facts."""
    relative = dataclasses.replace(Settings(), weight=0.1, null_ridge=0.1, units="model")

    def made(rows):
        some = Targets(
            *(part[rows] for part in (targets.keys, targets.prompt_keys, targets.values)),
            failures=(None,) * len(rows),
        )
        return make_edits(
            *(model, None, [FACTS[i] for i in rows], moments),
            settings=relative, targets=some, method=method,
        ).ledger  # fmt: skip

    whole, parts = made([0, 1, 2, 3, 4, 5]), (made([0, 1]), made([2, 3, 4, 5]))
    merged = parts[0].merge(parts[1])
    np.testing.assert_allclose(merged.weight, whole.weight, rtol=1e-9)
    np.testing.assert_allclose(
        merged.edits[LAYER].delta, whole.edits[LAYER].delta, rtol=1e-7, atol=1e-10
    )
    c = moments.total[LAYER] / 1000
    keys = targets.prompt_keys.astype(float)
    own = np.sum(keys @ np.linalg.inv(c) * keys, axis=1)
    if method == "null-space":
        eigenvalues, vectors = np.linalg.eigh(c)
        free = np.cumsum(eigenvalues) <= THRESHOLD * eigenvalues.sum()
        own = np.sum((keys @ vectors[:, free]) ** 2, axis=1)
    np.testing.assert_allclose(whole.weight, 0.1 * own.mean(), rtol=1e-6)


def test_facts_that_failed_are_left_out_and_the_others_go_on(model, moments, targets):
    values = targets.values.copy()
    values[2] = np.nan
    broken = dataclasses.replace(
        targets, values=values, failures=(None,) * 4 + ("loss became NaN in step 3", None)
    )
    made = edit(model, moments, broken, method="sequential")
    reasons = [outcome.reason for outcome in made.outcomes]
    assert reasons[4] == "loss became NaN in step 3"
    assert reasons[2] == "its key or its target value is not finite"
    assert [reasons[i] for i in (0, 1, 3, 5)] == [None] * 4
    kept = [0, 1, 3, 5]
    few = Targets(targets.keys[kept], targets.prompt_keys[kept], targets.values[kept], (None,) * 4)
    alone = edit(model, moments, few, [FACTS[i] for i in kept], method="sequential")
    np.testing.assert_array_equal(
        memory_kernel(made.model, LAYER), memory_kernel(alone.model, LAYER)
    )
    assert [fact.case_id for fact in made.ledger.facts] == kept
    assert made.outcomes[3].search.steps == 3
    nothing = dataclasses.replace(targets, failures=("NaN",) * N)
    with pytest.raises(ValueError, match="found none of 6; the first: NaN"):
        edit(model, moments, nothing, method="sequential")


def test_constrained_leaves_repeated_keys_out(model, moments, targets):
    keys = targets.keys.copy()
    keys[3] = 2 * keys[1]
    made = edit(model, moments, dataclasses.replace(targets, keys=keys), method="constrained")
    reasons = [outcome.reason for outcome in made.outcomes]
    assert "a combination of those of earlier facts" in reasons[3]
    assert all(reason is None for i, reason in enumerate(reasons) if i != 3)


@pytest.mark.parametrize("method", ["rome", "sequential", "constrained", "batch", "null-space"])
def test_a_key_that_nothing_can_be_written_along_is_left_out(model, moments, targets, method):
    """A key of zeros; of the original ROME also one against the direction of the edit."""
    keys, own = targets.keys.copy(), targets.prompt_keys.copy()
    keys[1] = 0
    own[4] = -keys[4]
    bad = dataclasses.replace(targets, keys=keys, prompt_keys=own)
    made = edit(model, moments, bad, method=method, original_keys=method == "rome")
    left = [i for i, outcome in enumerate(made.outcomes) if outcome.reason is not None]
    assert left == ([1, 4] if method == "rome" else [1])
    assert "its key has no " in str(made.outcomes[1].reason)
    before, after = kernels(model, made)
    assert np.isfinite(after).all() and np.abs(after - before).max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, "layer: expected one of the model, 0 to 2, found 3"),
        ({"layers": [0, 1]}, r"layers: expected one for constrained, found \[0, 1\]"),
        ({"layers": [0]}, "targets: expected target values of layer 0, .* found those of layer 1"),
        ({"method": "magic"}, "method: expected one of rome, sequential"),
        ({"original_keys": True}, "original_keys: expected method rome"),
        ({"facts": []}, "facts: expected one at least"),
        ({"method": "finetune"}, "a method with target values"),
        ({"facts": FACTS[:2]}, "targets: expected one for each of 2 facts.* found 6"),
        ({"facts": [Fact(9, "{} speaks", "A")]}, "fact 9: expected a `target_new`"),
        (
            {"facts": [FACTS[0], Fact(7, "{} speaks", "Subject 0", target_new="Latin")]},
            "fact 7 .'Subject 0 speaks': 'Latin'. contradicts fact 0 .'Subject 0 speaks': 'Orvish'",
        ),
    ],
)
def test_what_makes_no_sense(model, moments, targets, options, message):
    with pytest.raises(ValueError, match=message):
        edit(model, moments, targets, **options)


def test_a_second_moment_that_is_singular_names_its_layer(model, moments, targets):
    moments.total[LAYER, 0] = moments.total[LAYER, 1]  # two neurons that always fire alike
    moments.total[LAYER, :, 0] = moments.total[LAYER, :, 1]
    with pytest.raises(ValueError, match="layer 1: second_moment: expected a positive definite"):
        edit(model, moments, targets)


def test_ledgers_that_do_not_belong_together(model, moments, targets):
    ledger = edit(model, moments, targets).ledger
    assert repr(ledger) == "Ledger(6 edits by constrained in layer 1)"
    with pytest.raises(ValueError, match="in both; take row 0 out of the second"):
        ledger.take([0, 1]).merge(ledger.take([1, 2]))
    with pytest.raises(ValueError, match="with the same method, constrained, found batch"):
        ledger.merge(edit(model, moments, targets, method="batch").ledger)
    for order, message in (
        ([0, 6], "rows of the ledger, 0 to 5, found 6"),
        ([1, 1], "each row at most once"),
        ([], "one row at least"),
    ):
        with pytest.raises(ValueError, match=message):
            ledger.take(order)


@pytest.mark.parametrize("inverse", ["auto", "pseudo"])
@pytest.mark.parametrize("method", ["sequential", "constrained", "batch"])
def test_neurons_that_never_fire_are_not_written(model, moments, targets, method, inverse):
    """As if they were not there; a fact with weight in them alone is left out by name."""
    dead = [3, 11]
    live = [i for i in range(model.config.mlp_width) if i not in dead]
    targets.keys[4, live] = 0
    moments.total[LAYER][dead] = moments.total[LAYER][:, dead] = 0
    with pytest.warns(DataNote, match="layer 1: .* singular in 2 directions, .*dropped by"):
        made = edit(model, moments, targets, method=method, inverse=inverse)
    left_out = [outcome.reason for outcome in made.outcomes]
    assert "directions that were dropped" in left_out[4]
    assert left_out[:4] + left_out[5:] == [None] * 5
    assert made.ledger.settings["inverse"] == inverse
    assert made.ledger.settings["dropped_directions"] == {"1": 2}
    before, after = kernels(model, made)
    np.testing.assert_array_equal(after[dead], before[dead])
    ridged = SecondMoment(moments.total.copy(), moments.count)
    ridged.total[LAYER][dead, dead] = 1e15  # so common that no edit touches them
    rows = np.delete(np.arange(N), 4)
    others = Targets(
        targets.keys[rows], targets.prompt_keys[rows], targets.values[rows], (None,) * 5
    )
    without = edit(model, ridged, others, [FACTS[row] for row in rows], method=method)
    np.testing.assert_allclose(after, kernels(model, without)[1], atol=1e-5)
    assert "dropped_directions" not in without.ledger.settings
    with pytest.raises(ValueError, match="layer 1: .*--inverse pseudo"):
        edit(model, moments, targets, method=method, inverse="cholesky")
