import json

import numpy as np
import pytest
import scipy.stats

from kis_jax.passes.convergence import Look, Spread, Watch, kurtosis_of
from tests import references


def parts_of(rng, count, tokens, d=12):
    """Parts of different sizes of one text, and the matrix that they are drawn from."""
    root = rng.normal(size=(d, d))
    sizes = rng.integers(tokens // 2, 2 * tokens, count)
    keys = [rng.normal(size=(size, d)) @ root.T for size in sizes]
    return [part.T @ part for part in keys], sizes, root @ root.T


def spread_of(parts, sizes):
    spread = Spread.zeros(1)
    for part, size in zip(parts, sizes, strict=True):
        spread = spread.add(np.array([np.linalg.norm(part)]), int(size))
    return spread


def test_the_error_is_that_of_many_repetitions():
    """The root mean square of the true error over 200 repetitions, within a tenth."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12))
    told, true = [], []
    for _ in range(200):
        keys = [rng.normal(size=(size, 12)) @ root.T for size in rng.integers(20, 80, 16)]
        parts = [part.T @ part for part in keys]
        total, count = sum(parts), sum(map(len, keys))
        spread = spread_of(parts, map(len, keys))
        told.append(spread.error(np.array([np.linalg.norm(total)]), np.array([count]))[0])
        exact = root @ root.T
        true.append(np.linalg.norm(total / count - exact) / np.linalg.norm(exact))
    np.testing.assert_allclose(np.mean(np.square(told)), np.mean(np.square(true)), rtol=0.15)


def test_it_is_the_variance_of_parts_of_one_size(rng):
    """A plain formula: the variance of the means of the parts, over their number."""
    keys = rng.normal(size=(9, 30, 5))
    parts = np.einsum("ptd,pte->pde", keys, keys)
    total = parts.sum(axis=0)
    found = spread_of(parts, [30] * 9).error(np.array([np.linalg.norm(total)]), np.array([270]))
    means = parts / 30
    variance = np.sum(np.var(means, axis=0, ddof=1)) / 9
    expected = np.sqrt(variance) / np.linalg.norm(total / 270)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_merged_and_through_json_it_is_the_same(rng):
    parts, sizes, _ = parts_of(rng, 10, 40)
    whole = spread_of(parts, sizes)
    halves = spread_of(parts[:4], sizes[:4]).merge(spread_of(parts[4:], sizes[4:]))
    assert halves.parts == whole.parts == 10
    np.testing.assert_allclose(halves.squares, whole.squares, rtol=1e-12)
    again = Spread.from_json(json.loads(json.dumps(whole.as_json())))
    np.testing.assert_array_equal(again.squares, whole.squares)


def test_of_one_part_or_none_nothing_is_known():
    assert np.isnan(Spread.zeros(3).error(np.ones(3), np.ones(3))).all()
    one = Spread.zeros(2).add(np.ones(2), 5)
    assert np.isnan(one.error(np.ones(2), np.full(2, 5))).all()
    assert one.add(np.ones(2), 0) is one, "a batch of padding is no part"


def look(error, kurtosis=None):
    return Look(100, [error, error / 2], {"0": kurtosis} if kurtosis is not None else {})


@pytest.mark.parametrize(
    ("looks", "watched", "ended"),
    [
        ([], False, False),
        ([look(0.02)], False, False),
        ([look(0.009)], False, True),
        ([look(0.009, 5.0)], True, False),
        ([look(0.02, 5.0), look(0.009, 5.04)], True, True),
        ([look(0.02, 5.0), look(0.009, 5.06)], True, False),
        ([look(0.02, 5.0), look(0.011, 5.0)], True, False),
    ],
)
def test_when_a_pass_may_end(looks, watched, ended):
    kurtosis = (lambda layer, c: 0.0) if watched else None
    assert Watch(0.01, kurtosis, (0,)).start(looks).converged is ended
    assert not Watch(None, kurtosis, (0,)).start(looks).converged


@pytest.mark.parametrize("until", [0.0, 1.0, -1.0, float("nan")])
def test_errors_that_cannot_be_asked_for(until):
    with pytest.raises(ValueError, match="until: expected a relative error between 0 and 1"):
        Watch(until)


def test_kurtosis_is_that_of_p_and_unknown_without_an_inverse(rng):
    keys, text = rng.normal(size=(2, 20, 8)), rng.normal(size=(500, 8))
    c = text.T @ text / 500
    found = kurtosis_of(keys)(1, c)
    p = references.off_diagonal(references.superposition(keys[1], c))
    np.testing.assert_allclose(found, scipy.stats.kurtosis(p), rtol=1e-8)
    assert np.isnan(kurtosis_of(keys)(1, np.outer(text[0], text[0])))
