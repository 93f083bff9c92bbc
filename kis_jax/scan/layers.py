"""What one layer's keys and second moment say: P, its relatives, and their statistics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kis_jax.core.arrays.precision import HOST, Inverse
from kis_jax.core.arrays.products import lengths
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.shrinkage import shrink
from kis_jax.core.geometry.summary import Summary, summarize
from kis_jax.core.geometry.superposition import cosine_similarity, gram, superposition
from kis_jax.core.geometry.whitening import Whitener
from kis_jax.core.statistics.bootstrap import KurtosisCurve, kurtosis_convergence
from kis_jax.core.statistics.bulk import bulk, isotropic_superposition
from kis_jax.core.statistics.moments import moments
from kis_jax.passes.not_finite import json_number

DRAWS = 100  # random subsets and resamples of each size, for the convergence of kurtosis
PAIRS = 30  # colliding pairs kept


@dataclasses.dataclass(frozen=True)
class LayerScan:
    """Superposition at one layer.

    Attributes:
      arrays: `superposition, gram, whitening_cosine, activation_cosine` `(n, n)`, `keys` `(n, d)`,
        `whitened_norms` `(n,)`, the roots of k C^-1 k, and `strongest_random_directions` and
        `strongest_other_tokens`: of each key of a control its largest |P|; float64.
      statistics: plain JSON values, as `scan.json` holds them.
    """

    arrays: dict[str, np.ndarray]
    statistics: dict[str, object]


class Measured(NamedTuple):
    """What the program of a layer gives, as arrays."""

    arrays: dict[str, Array]
    summary: Summary
    overall: dict[str, Array]
    controls: dict[str, dict[str, Array]]
    condition: Array
    curve: KurtosisCurve | None


def scan_layer(
    keys: np.ndarray,
    second_moment: np.ndarray,
    *,
    ridge: float,
    inverse: Inverse = "auto",
    duplicate_of: Sequence[int | None],
    others: np.ndarray | None = None,
    count: int | None = None,
    seed: int = 0,
) -> LayerScan:
    """Superposition of facts at one layer, in float64 on the host whatever the device.

    Args:
      keys: `(n, d)`.
      second_moment: C, `(d, d)`.
      ridge: added to the diagonal of C.
      inverse: how C is inverted; see `Precision.whitener`.
      duplicate_of: for each fact, the index of an earlier one with the same subject, or None.
      others: keys at other tokens, `(m, d)`, for a control; none if None or fewer than two.
      count: the tokens over which C was measured, to shrink it by; None not to shrink it.
      seed: of the random directions and of the draws of facts.

    Raises:
      ValueError: if C cannot be inverted so, or a key is zero, or has weight only in directions
        that were dropped: P has no meaning for it.
    """
    check_keys(keys, "keys with some entry that is not zero")
    unique = np.array([first is None for first in duplicate_of])
    others = keys[:0] if others is None else others[others.any(axis=1)]
    sizes = convergence_sizes(len(keys))
    with HOST.active():
        c, intensity = jnp.asarray(second_moment, jnp.float64), None
        if count is not None:
            c, shrunk = shrink(SecondMoment(c * count, jnp.asarray(count)))
            intensity = float(shrunk)
        whitening = HOST.whitener(c, ridge=ridge, inverse=inverse)
        del c, second_moment  # `8 d^2` bytes, if the caller holds them no longer
        if dropped := whitening.width - int(whitening.rank):
            white, other = (np.asarray(whitening.whiten(rows)) for rows in (keys, others))
            check_keys(white, f"keys with weight outside the {dropped} directions dropped of C")
            others = others[other.any(axis=1)]
        measured = _measure(
            jnp.asarray(keys, jnp.float64),
            jnp.asarray(others, jnp.float64),
            whitening,
            jnp.asarray(unique),
            jax.random.key(seed),
            sizes=sizes,
        )
    extra: dict[str, object] = {"dropped_directions": dropped} if dropped else {}
    return layer_scan(measured, sizes, {**extra, "shrinkage": intensity})


def layer_scan(
    measured: Measured, sizes: tuple[int, ...], extra: Mapping[str, object]
) -> LayerScan:
    """A layer as it is written, from what was measured at it and what there is to say besides."""
    found = jax.tree.map(np.asarray, measured)
    p = found.arrays["superposition"]
    statistics = {
        "num_facts": len(p),
        **_numbers(found.overall),
        "condition": json_number(found.condition),
        "kurtosis_without_duplicates": json_number(found.controls["distinct_subjects"]["kurtosis"]),
        **extra,
        "controls": {name: _control(numbers) for name, numbers in found.controls.items()},
        "pairs": [
            {
                "edit": int(i),
                "touched": int(j),
                "superposition": json_number(p[i, j]),
                "reverse": json_number(p[j, i]),
            }
            for i, j in found.summary.pairs
        ],
        "convergence": _steps(sizes, found.curve),
    }
    return LayerScan(found.arrays, statistics)


def check_keys(keys: np.ndarray, expected: str) -> None:
    """Raises ValueError naming the first of the facts whose key is zero."""
    """Raises ValueError naming the first of the facts whose key is zero."""
    if (dead := np.flatnonzero(~keys.any(axis=1))).size:
        raise ValueError(
            f"expected {expected}, found none in that of fact {dead[0]} (counted from 0) and "
            f"{dead.size - 1} more; leave these facts out, or take the keys at another position"
        )


@functools.partial(jax.jit, static_argnames="sizes")
def _measure(
    keys: Array,
    others: Array,
    whitening: Whitener,
    unique: Array,
    rng: Array,
    *,
    sizes: tuple[int, ...],
) -> Measured:
    """All that is measured at a layer, as one program compiled once for all layers.

    Statistics too: NumPy's float64 handed to jax outside would be cut to float32.
    """
    directions, draws = jax.random.split(rng)
    p = superposition(keys, whitening)
    arrays = {
        "superposition": p,
        "gram": gram(keys),
        "whitening_cosine": cosine_similarity(keys, whitening),
        "activation_cosine": cosine_similarity(keys),
        "keys": keys,
    }
    norms = lengths(whitening.whiten(keys))
    random = isotropic_superposition(directions, norms, whitening.width)
    rank = whitening.rank
    controls = {
        "random_directions": entry_statistics(random, rank),
        "distinct_subjects": entry_statistics(p, rank, unique),
    }
    arrays |= {"whitened_norms": norms, "strongest_random_directions": strongest(random)}
    if len(others) > 1:
        of_others = superposition(others, whitening)
        controls["other_tokens"] = entry_statistics(of_others, rank)
        arrays["strongest_other_tokens"] = strongest(of_others)
    return Measured(
        arrays,
        summarize(keys, whitening, top=PAIRS),
        entry_statistics(p, rank),
        controls,
        whitening.condition,
        kurtosis_convergence(draws, p, sizes, resamples=DRAWS) if sizes else None,
    )


def strongest(p: Array) -> Array:
    """For each key the largest share, of either sign, of an edit of it that lands on another."""
    return jnp.max(jnp.where(jnp.eye(len(p), dtype=bool), 0, jnp.abs(p)), axis=1)


def entry_statistics(p: Array, rank: Array, kept: Array | None = None) -> dict[str, Array]:
    """Of the entries of P between different facts, of those that are kept."""
    where = ~jnp.eye(len(p), dtype=bool)
    if kept is not None:
        where = where & kept[:, None] & kept
    of_all = moments(p, where=where)
    return {
        "count": jnp.asarray(len(p)) if kept is None else jnp.sum(kept),
        "mean": of_all.mean,
        "std": jnp.sqrt(of_all.variance),
        "skewness": of_all.skewness,
        "kurtosis": of_all.kurtosis,
        "max": jnp.max(jnp.where(where, p, -jnp.inf)),
        **bulk(p, rank, where=where)._asdict(),
    }


def convergence_sizes(num_facts: int) -> tuple[int, ...]:
    """Numbers of facts at which kurtosis is looked at: 8, 16, 32 ... and all of them.

    Examples:
      >>> convergence_sizes(40)
      (8, 16, 32, 40)
    """
    smaller = tuple(2**k for k in range(3, 31) if 2**k < num_facts)
    return (*smaller, num_facts) if num_facts > 2 else ()


def _steps(sizes: tuple[int, ...], curve: KurtosisCurve | None) -> list[dict[str, Any]]:
    """A line of JSON for each size."""
    if curve is None:
        return []
    names = ("kurtosis", "low", "high", "bootstrap_low", "bootstrap_high")
    return [
        {
            "num_facts": size,
            **{name: json_number(value) for name, value in zip(names, row, strict=True)},
        }
        for size, row in zip(sizes, np.stack(curve, axis=1), strict=True)
    ]


def _control(found: dict[str, np.ndarray]) -> dict[str, object]:
    return {"num_keys": int(found["count"]), **_numbers(found)}


def _numbers(found: dict[str, np.ndarray]) -> dict[str, float | None]:
    return {name: json_number(value) for name, value in found.items() if name != "count"}
