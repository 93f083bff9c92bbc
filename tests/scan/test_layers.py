import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import kis_jax as kis
from kis_jax.scan.layers import scan_layer
from tests import references


@pytest.fixture
def case(rng):
    keys = rng.normal(size=(30, 12)).astype(np.float32)
    keys[20] = keys[3]
    return keys, references.spd(rng, 12, 2.0), [3 if i == 20 else None for i in range(30)]


def test_statistics_are_those_of_the_matrix(case):
    keys, c, duplicate_of = case
    scanned = scan_layer(keys, c, ridge=0.0, duplicate_of=duplicate_of)
    p = references.superposition(keys, c)
    entries = references.off_diagonal(p)
    numbers = scanned.statistics
    np.testing.assert_allclose(scanned.arrays["superposition"], p, atol=1e-10)
    np.testing.assert_allclose(scanned.arrays["gram"], keys @ keys.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        scanned.arrays["whitening_cosine"], references.cosine(keys, c), atol=1e-9
    )
    np.testing.assert_allclose(
        scanned.arrays["activation_cosine"], references.cosine(keys), atol=1e-9
    )
    assert numbers["num_facts"] == 30
    np.testing.assert_allclose(numbers["mean"], entries.mean(), rtol=1e-9)
    np.testing.assert_allclose(numbers["std"], entries.std(), rtol=1e-9)
    np.testing.assert_allclose(numbers["skewness"], scipy.stats.skew(entries), rtol=1e-9)
    np.testing.assert_allclose(numbers["kurtosis"], scipy.stats.kurtosis(entries), rtol=1e-9)
    np.testing.assert_allclose(numbers["max"], entries.max(), rtol=1e-9)
    np.testing.assert_allclose(numbers["condition"], np.linalg.cond(c), rtol=1e-6)
    unique = [i for i in range(30) if i != 20]
    without = scipy.stats.kurtosis(references.off_diagonal(p[np.ix_(unique, unique)]))
    np.testing.assert_allclose(numbers["kurtosis_without_duplicates"], without, rtol=1e-9)


def test_pairs_and_convergence(case):
    keys, c, duplicate_of = case
    numbers = scan_layer(keys, c, ridge=0.0, duplicate_of=duplicate_of).statistics
    p = references.superposition(keys, c)
    strengths = [abs(pair["superposition"]) for pair in numbers["pairs"]]
    best = np.maximum(np.abs(p), np.abs(p.T))[np.triu_indices(30, 1)]
    np.testing.assert_allclose(strengths, np.sort(best)[::-1][:30])
    for pair in numbers["pairs"]:
        np.testing.assert_allclose(pair["superposition"], p[pair["edit"], pair["touched"]])
        np.testing.assert_allclose(pair["reverse"], p[pair["touched"], pair["edit"]])
    rows = numbers["convergence"]
    assert [row["num_facts"] for row in rows] == [8, 16, 30]
    assert rows[-1]["kurtosis"] == pytest.approx(numbers["kurtosis"])
    assert all(row["low"] <= row["kurtosis"] <= row["high"] for row in rows)


def test_measures_free_of_the_width_and_controls(case, rng):
    keys, c, duplicate_of = case
    others = rng.normal(size=(9, 12)).astype(np.float32)
    others[4] = 0  # no key to speak of, and so none that is counted
    numbers = scan_layer(keys, c, ridge=0.0, duplicate_of=duplicate_of, others=others).statistics
    unique = [i for i in range(30) if i != 20]
    expected = {
        "distinct_subjects": references.superposition(keys[unique], c),
        "other_tokens": references.superposition(np.delete(others, 4, 0), c),
    }
    for found, p in [
        (numbers, references.superposition(keys, c)),
        *((numbers["controls"][name], p) for name, p in expected.items()),
    ]:
        entries = references.off_diagonal(p)
        width = scipy.stats.median_abs_deviation(entries, scale="normal")
        beyond = np.abs(entries - np.median(entries)) > 6 * width
        for name, value in {
            "bulk_std_times_sqrt_rank": width * np.sqrt(12),
            "tail_fraction": beyond.mean(),
            "kurtosis": scipy.stats.kurtosis(entries),
            "std": entries.std(),
            "max": entries.max(),
        }.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    counts = {name: found["num_keys"] for name, found in numbers["controls"].items()}
    assert counts == {"random_directions": 30, "distinct_subjects": 29, "other_tokens": 8}
    random = numbers["controls"]["random_directions"]
    assert 0.8 < random["bulk_std_times_sqrt_rank"] < 1.2 and random["tail_fraction"] < 0.01
    alone = scan_layer(keys, c, ridge=0.0, duplicate_of=duplicate_of).statistics["controls"]
    assert alone.keys() == {"random_directions", "distinct_subjects"}


def test_shrinkage_is_that_of_the_core(case, x64):
    keys, c, duplicate_of = case
    scanned = scan_layer(keys, c, ridge=0.0, duplicate_of=duplicate_of, count=15)
    mean, intensity = kis.shrink(kis.SecondMoment(15 * jnp.asarray(c), jnp.asarray(15)))
    expected = references.superposition(keys, np.asarray(mean))
    np.testing.assert_allclose(scanned.arrays["superposition"], expected, atol=1e-9)
    assert 0 < scanned.statistics["shrinkage"] == pytest.approx(float(intensity))


def test_ridge_is_added_to_c(case):
    keys, c, duplicate_of = case
    scanned = scan_layer(keys, c, ridge=0.7, duplicate_of=duplicate_of)
    expected = references.superposition(keys, c, ridge=0.7)
    np.testing.assert_allclose(scanned.arrays["superposition"], expected, atol=1e-10)


def test_one_program_serves_all_layers(case):
    keys, c, duplicate_of = case
    scan_layer(keys, c, ridge=0.0, duplicate_of=duplicate_of)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr(
            "jax._src.interpreters.pxla.logger.log",
            lambda level, message, *rest: compiled.append(message % rest),
        )
        scan_layer(2 * keys, 3 * c, ridge=0.0, duplicate_of=duplicate_of)
    assert not [line for line in compiled if line.startswith("Compiling")]


def test_a_fact_with_a_zero_key_is_an_error(case):
    keys, c, duplicate_of = case
    keys[7] = 0
    with pytest.raises(ValueError, match="in that of fact 7 .* and 0 more"):
        scan_layer(keys, c, ridge=0.0, duplicate_of=duplicate_of)


def test_a_singular_second_moment_is_an_error(case):
    keys, c, duplicate_of = case
    with pytest.raises(ValueError, match="positive definite"):
        scan_layer(keys, np.ones_like(c), ridge=0.0, duplicate_of=duplicate_of)


@pytest.mark.parametrize("inverse", ["auto", "pseudo"])
def test_neurons_that_never_fire_are_dropped_and_counted(case, rng, inverse):
    keys, c, duplicate_of = case
    live = [i for i in range(12) if i not in (2, 9)]
    dead = np.zeros_like(c)
    dead[np.ix_(live, live)] = c[np.ix_(live, live)]
    others = rng.normal(size=(9, 12)).astype(np.float32)
    others[4, live] = 0  # no key to speak of, where only the others count
    scanned = scan_layer(
        keys, dead, ridge=0.0, inverse=inverse, duplicate_of=duplicate_of, others=others
    )
    part = c[np.ix_(live, live)]
    expected = references.superposition(keys[:, live], part)
    np.testing.assert_allclose(scanned.arrays["superposition"], expected, atol=1e-9)
    assert scanned.statistics["dropped_directions"] == 2
    assert scanned.statistics["controls"]["other_tokens"]["num_keys"] == 8
    np.testing.assert_allclose(scanned.statistics["condition"], np.linalg.cond(part), rtol=1e-6)
    whole = scan_layer(keys, c, ridge=0.0, inverse=inverse, duplicate_of=duplicate_of)
    assert "dropped_directions" not in whole.statistics
    keys[7, live] = 0
    with pytest.raises(ValueError, match="outside the 2 directions dropped.*fact 7 .* and 0 more"):
        scan_layer(keys, dead, ridge=0.0, inverse=inverse, duplicate_of=duplicate_of)
    with pytest.raises(ValueError, match="--inverse pseudo"):
        scan_layer(keys, dead, ridge=0.0, inverse="cholesky", duplicate_of=duplicate_of)


def test_what_an_edit_would_move_and_how_strongly_controls_collide(case, rng):
    keys, c, duplicate_of = case
    others = rng.normal(size=(7, 12)).astype(np.float32)
    arrays = scan_layer(keys, c, ridge=0.0, duplicate_of=duplicate_of, others=others).arrays
    # An edit of unit residual moves text, of second moment C, by one over the whitened norm.
    for key, norm in zip(keys.astype(np.float64), arrays["whitened_norms"], strict=True):
        direction = np.linalg.solve(c, key) / (key @ np.linalg.solve(c, key))
        np.testing.assert_allclose(1 / norm, np.sqrt(direction @ c @ direction), rtol=1e-6)
    p = np.abs(references.superposition(others, c))
    np.fill_diagonal(p, 0)
    np.testing.assert_allclose(arrays["strongest_other_tokens"], p.max(axis=1), rtol=1e-6)
    assert arrays["strongest_random_directions"].shape == (30,)
