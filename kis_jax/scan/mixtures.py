"""What one layer of a mixture of experts says: P of its memory, and of each expert alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.core.arrays.precision import HOST
from kis_jax.core.arrays.products import inner, lengths
from kis_jax.core.geometry.routed import Routed, by_expert, coordinates_of, routed_gram
from kis_jax.core.geometry.spaces import Identity
from kis_jax.core.geometry.summary import summarize
from kis_jax.core.statistics.bootstrap import kurtosis_convergence
from kis_jax.core.statistics.moments import moments
from kis_jax.passes.means import ExpertMeans, tell_filled
from kis_jax.scan.layers import (
    DRAWS,
    PAIRS,
    LayerScan,
    Measured,
    check_keys,
    convergence_sizes,
    entry_statistics,
    layer_scan,
    strongest,
)


class _Products(NamedTuple):
    """What the factors of all experts give, one after another.

    Attributes:
      whitened: inner products of facts and other tokens in the memory's space, `(n + m, n + m)`.
      random: those of random directions with the same experts and lengths, `(n, n)`.
      condition: the worst of the experts' second moments.
      dropped: directions in which these are singular, of all experts.
      experts: of each, what `scan.json` says.
    """

    whitened: Array
    random: Array
    condition: float
    dropped: int
    experts: list[dict[str, object]]


def scan_mixture(
    facts: Routed,
    others: Routed,
    means: ExpertMeans,
    *,
    duplicate_of: Sequence[int | None],
    layer: int,
) -> LayerScan:
    """Superposition of facts at one layer of a mixture, in float64; experts one after another.

    Beside what `scan_layer` gives, `statistics` has `experts`: of each, the tokens and facts that
    it reads and P among these within it alone; and `sharing`: P between facts by the number of
    experts that they share, against random directions that are routed alike.

    Args:
      facts: `(n, k, d)`, NumPy.
      others: at other tokens, for a control.
      means: the second moments of the layer's experts; asked for those that facts are routed to,
        one at a time.
      duplicate_of: for each fact, the index of an earlier one with the same subject, or None.
      layer: its index, which seeds what is random.

    Raises:
      ValueError: if a second moment cannot be inverted so, or a fact has no meaning in it.
    """
    gated = np.asarray(facts.gated).reshape(len(facts), -1)
    check_keys(gated, "keys with some entry that is not zero")
    n, sizes = len(facts), convergence_sizes(len(facts))
    unique = np.array([first is None for first in duplicate_of])
    directions, draws = jax.random.split(jax.random.key(layer))
    with HOST.active():
        both = jax.tree.map(
            lambda *parts: jnp.asarray(
                np.concatenate(parts), jnp.float64 if parts[0].dtype.kind == "f" else None
            ),
            facts,
            others,
        )
        products = _products(
            both,
            n,
            means,
            rng=directions,
        )
        own = np.asarray(jnp.diagonal(products.whitened))
        check_keys(own[:n, None], "keys with weight outside the directions dropped of every C")
        keys = jax.tree.map(lambda array: array[:n], both)
        measured = _measure(
            keys,
            products.whitened[:n, :n],
            products.whitened[n:, n:][np.ix_(own[n:] > 0, own[n:] > 0)],
            products.random,
            routed_gram(keys),
            jnp.asarray(unique),
            draws,
            sizes=sizes,
        )._replace(condition=jnp.asarray(products.condition))
        sharing = _sharing(
            np.asarray(keys.experts),
            np.asarray(measured.arrays["superposition"]),
            np.asarray(_normalised(products.random)),
        )
    extra: dict[str, object] = {"shrinkage": None, "experts": products.experts, "sharing": sharing}
    if products.dropped:
        extra["dropped_directions"] = products.dropped
    filled = [place for place, one in enumerate(products.experts) if one["filled"] and one["facts"]]
    tell_filled(layer, filled, facts.keys.shape[-1])
    return layer_scan(measured, sizes, extra)


def _products(
    both: Routed,
    n: int,
    means: ExpertMeans,
    *,
    rng: Array,
) -> _Products:
    size, d = len(both), both.keys.shape[-1]
    whitened, random = np.zeros((size, size)), np.zeros((n, n))
    condition, dropped = 1.0, 0
    experts: list[dict[str, object]] = [
        {
            "expert": expert,
            "tokens": int(read),
            "facts": 0,
            "filled": means.is_filled(expert, d),
        }
        for expert, read in enumerate(means.counts)
    ]
    for expert, share in by_expert(both).items():
        whitening = HOST.whitener(means[expert], ridge=means.ridge, inverse=means.inverse)
        white, rows = whitening.whiten(share.keys), np.asarray(share.rows)
        products = np.asarray(inner(white, white))
        whitened[np.ix_(rows, rows)] += products
        of_facts = rows < n
        there, among = rows[of_facts], products[np.ix_(of_facts, of_facts)]
        seed = jax.random.fold_in(rng, expert)
        drawn = jax.random.normal(seed, (len(there), d), jnp.float64)
        own = jnp.sqrt(jnp.diagonal(jnp.asarray(among))) / lengths(drawn)
        drawn = drawn * own[:, None]
        random[np.ix_(there, there)] += np.asarray(inner(drawn, drawn))
        if len(there):
            condition = max(condition, float(whitening.condition))
            dropped += d - int(whitening.rank)
        experts[expert] |= {"facts": len(there), **_within(among)}
    return _Products(jnp.asarray(whitened), jnp.asarray(random), condition, dropped, experts)


def _within(products: np.ndarray) -> dict[str, float | None]:
    """Statistics of P between the facts that one expert reads, were it all of the memory."""
    p = np.asarray(_normalised(jnp.asarray(products)))
    entries = p[~np.eye(len(p), dtype=bool)]
    if not entries.size or not np.isfinite(entries).all():
        return {"mean": None, "std": None, "kurtosis": None, "max": None}
    found = moments(jnp.asarray(entries))
    kurtosis = float(found.kurtosis)
    return {
        "mean": float(found.mean),
        "std": float(jnp.sqrt(found.variance)),
        "kurtosis": kurtosis if np.isfinite(kurtosis) else None,
        "max": float(entries.max()),
    }


def _normalised(products: Array) -> Array:
    """P from inner products."""
    return products / jnp.diagonal(products)[:, None]


@functools.partial(jax.jit, static_argnames="sizes")
def _measure(
    keys: Routed,
    whitened: Array,
    others: Array,
    random: Array,
    raw: Array,
    unique: Array,
    draws: Array,
    *,
    sizes: tuple[int, ...],
) -> Measured:
    """All that is measured at a layer, from inner products."""
    p, of_random = _normalised(whitened), _normalised(random)
    apart = ~jnp.eye(len(p), dtype=bool)
    # As of directions that have nothing to do with one another and are routed like the facts.
    rank = 1 / jnp.mean(jnp.square(of_random), where=apart)
    controls = {
        "random_directions": entry_statistics(of_random, rank),
        "distinct_subjects": entry_statistics(p, rank, unique),
    }
    norms = jnp.sqrt(jnp.diagonal(whitened))
    raw_norms = jnp.sqrt(jnp.diagonal(raw))
    arrays = {
        "superposition": p,
        "gram": raw,
        "whitening_cosine": jnp.clip(whitened / norms / norms[:, None], -1, 1),
        "activation_cosine": jnp.clip(raw / raw_norms / raw_norms[:, None], -1, 1),
        "keys": keys.keys,
        "experts": keys.experts,
        "gates": keys.gates,
        "whitened_norms": norms,
        "strongest_random_directions": strongest(of_random),
    }
    if len(others) > 1:
        of_others = _normalised(others)
        controls["other_tokens"] = entry_statistics(of_others, rank)
        arrays["strongest_other_tokens"] = strongest(of_others)
    return Measured(
        arrays,
        summarize(coordinates_of(whitened).rows, Identity(len(p), jnp.float64), top=PAIRS),
        entry_statistics(p, rank),
        controls,
        jnp.ones(()),
        kurtosis_convergence(draws, p, sizes, resamples=DRAWS) if sizes else None,
    )


def _sharing(experts: np.ndarray, p: np.ndarray, random: np.ndarray) -> list[dict[str, Any]]:
    """P between facts by the number of experts that they share; entries of none are zero."""
    shared = (experts[:, None, :, None] == experts[:, None]).sum(axis=(2, 3))
    np.fill_diagonal(shared, -1)
    found = []
    for number in range(experts.shape[1] + 1):
        entries, control = p[shared == number], random[shared == number]
        if entries.size:
            found.append(
                {
                    "experts_shared": number,
                    "pairs": int(entries.size) // 2,
                    "mean": float(entries.mean()),
                    "std": float(entries.std()),
                    "random_std": float(control.std()),
                    "max": float(entries.max()),
                }
            )
    return found
