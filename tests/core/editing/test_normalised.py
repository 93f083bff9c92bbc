"""Lifelong normalisation against its authors' recursion, token by token."""

import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.core.editing.normalised import Normalised

D, M = 7, 4
pytestmark = pytest.mark.usefixtures("x64")


def blocks(rng):
    for size in (5, 1, 9):
        yield rng.normal(1, 2, size=(size, D)), 1e-3 * rng.normal(0.5, 1, size=(size, M))


@pytest.mark.parametrize("whitened", [False, True])
def test_values_and_updates_are_those_of_running_statistics(rng, whitened):
    state, seen = Normalised.init(D, M, whitened=whitened, dtype="float64"), []
    for keys, gradients in blocks(rng):
        seen.append(np.concatenate([keys, gradients], axis=1))
        state = state.update(jnp.asarray(keys), jnp.asarray(gradients))
        rows = np.concatenate(seen)
        standard = (seen[-1] - rows.mean(axis=0)) / rows.std(axis=0)
        h, g = standard[:, :D], standard[:, D:]
        if whitened:
            values, vectors = np.linalg.eigh(rows[:, D:].T @ rows[:, D:] / len(rows))
            g = gradients @ vectors @ np.diag(values**-0.5) @ vectors.T
        shifts = -(h**2).sum(axis=1, keepdims=True) / D * g / np.sqrt(M)
        found = state.values(jnp.asarray(keys), jnp.asarray(gradients))
        np.testing.assert_allclose(found, shifts, rtol=1e-6, atol=1e-9)
        step, ridge = 0.3, 0.2
        rho = ridge * (keys**2).sum(axis=1).mean()
        expected = np.linalg.solve(keys.T @ keys + rho * np.eye(D), keys.T @ (step * shifts))
        edit = state.edit(
            jnp.asarray(keys), jnp.asarray(gradients), jnp.asarray(step), jnp.asarray(ridge)
        )
        np.testing.assert_allclose(edit.delta, expected, rtol=1e-6, atol=1e-9)


def test_rows_of_padding_change_nothing(rng):
    keys, gradients = next(blocks(rng))
    where = np.array([True, True, False, True, False])
    padded = Normalised.init(D, M, dtype="float64").update(
        *map(jnp.asarray, (keys, gradients, where))
    )
    plain = Normalised.init(D, M, dtype="float64").update(
        jnp.asarray(keys[where]), jnp.asarray(gradients[where])
    )
    np.testing.assert_allclose(padded.keys.variance, plain.keys.variance, rtol=1e-12)
    np.testing.assert_allclose(padded.outer.mean, plain.outer.mean, rtol=1e-12)


def test_the_scale_of_gradients_does_not_matter(rng):
    made = []
    for scale in (1.0, 1e-6):
        state = Normalised.init(D, M, dtype="float64")
        keys, gradients = next(blocks(np.random.default_rng(0)))
        state = state.update(jnp.asarray(keys), jnp.asarray(scale * gradients))
        made.append(state.values(jnp.asarray(keys), jnp.asarray(scale * gradients)))
    np.testing.assert_allclose(made[0], made[1], rtol=1e-8)
