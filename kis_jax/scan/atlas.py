"""The numbers of a scan as its page carries them: compact, and enough to draw every layer."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from kis_jax.report import words
from kis_jax.report.scan_files import Scan
from kis_jax.scan.clusters import clustered_order

# Entries of P that a page may hold, two bytes each: 512 facts at 30 layers make 21 MB of text.
MOST_ENTRIES = 8_000_000
# The measures at a glance: entry of a layer, its name, decimals and factor.
MEASURES = (
    ("kurtosis", "Excess kurtosis", 2, 1.0),
    ("bulk_std_times_sqrt_rank", "Bulk × √r", 3, 1.0),
    ("tail_fraction", "Tail, %", 2, 100.0),
)
CONTROLS = {
    "random_directions": "random directions",
    "other_tokens": "other tokens of the same texts",
}
_NOT_FINITE = -32768  # `NOT_FINITE` of matrix.js


def content(scan: Scan, *, most_entries: int = MOST_ENTRIES) -> dict[str, Any]:
    """What `script/scan.js` draws, as plain JSON values.

    P is kept in 16-bit parts of its largest entry of a layer: to 3e-5 of that. Where all facts
    are too many for a page, those of the strongest collisions are taken.

    Args:
      scan: finished.
      most_entries: of P over all layers.

    Returns:
      A JSON object.
    """
    layers = [layer.index for layer in scan.layers]
    kept = _kept(scan, most_entries)
    levels, scales, similarity = [], [], np.zeros((len(kept), len(kept)))
    extras: dict[str, list[Any]] = {name: [] for name in ("whitened_norms", *_strongest_names())}
    for layer in layers:
        arrays = scan.matrices(layer)
        inside = np.ix_(kept, kept)
        level, scale = quantized(arrays["superposition"][inside])
        levels.append(level)
        scales.append(scale)
        similarity += np.nan_to_num(np.abs(arrays["whitening_cosine"][inside]))
        for name, found in extras.items():
            found.append(arrays.get(name))
    cluster = clustered_order(1 - similarity / len(layers))
    place = np.argsort(cluster)
    relations = [scan.facts[index].relation for index in kept]
    by_relation = sorted(range(len(kept)), key=lambda at: (relations[at], place[at]))
    norms = extras.pop("whitened_norms")
    return {
        "layers": layers,
        "facts": _facts(scan, kept),
        "measures": [_measure(scan, *measure) for measure in MEASURES],
        "names": CONTROLS,
        "superposition": {
            "levels": base64.b64encode(np.stack(levels).astype("<i2").tobytes()).decode(),
            "scales": scales,
        },
        "orders": {
            "facts": list(range(len(kept))),
            "relation": by_relation,
            "cluster": cluster.tolist(),
        },
        "norms": None
        if any(row is None for row in norms)
        else [_short(row[kept]) for row in norms],
        "strongest": {
            name.removeprefix("strongest_"): [_short(np.sort(row)) for row in found]
            for name, found in extras.items()
            if not any(row is None for row in found)
        },
        "start": _start(scan, kept),
    }


def _strongest_names() -> list[str]:
    return [f"strongest_{name}" for name in CONTROLS]


def _kept(scan: Scan, most_entries: int) -> np.ndarray:
    """The facts that a page holds, in their order."""
    most = max(2, int((most_entries / len(scan.layers)) ** 0.5))
    count = len(scan.facts)
    if count <= most:
        return np.arange(count)
    largest = np.full(count, -np.inf)
    for layer in scan.layers:
        p = scan.matrices(layer.index)["superposition"]
        np.fill_diagonal(p, -np.inf)
        p = np.nan_to_num(p, nan=-np.inf)
        largest = np.maximum(largest, np.maximum(p.max(axis=0), p.max(axis=1)))
    return np.sort(np.argsort(-largest, kind="stable")[:most])


def quantized(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """A matrix in whole parts of its largest entry, and the size of a part.

    Examples:
      >>> quantized(np.array([[1.0, -0.5], [np.nan, 0.0]]))[0].tolist()
      [[32767, -16384], [-32768, 0]]
    """
    finite = np.isfinite(matrix)
    scale = float(np.abs(matrix[finite]).max(initial=0)) / 32767 or 1.0
    parts = np.rint(np.where(finite, matrix, 0) / scale)
    return np.where(finite, parts, _NOT_FINITE).astype(np.int16), scale


def _facts(scan: Scan, kept: np.ndarray) -> list[list[Any]]:
    """A row for each: number, prompt around the subject, target, relation, token, first place."""
    chosen = [scan.facts[index] for index in kept]
    first: dict[int, int] = {}
    for place, fact in enumerate(chosen):
        first.setdefault(fact.first_of_subject, place)
    return [
        [
            fact.index,
            fact.sides[0],
            fact.subject,
            fact.sides[1],
            fact.target,
            fact.relation,
            fact.token,
            first[fact.first_of_subject],
        ]
        for fact in chosen
    ]


def _measure(scan: Scan, key: str, name: str, digits: int, factor: float) -> dict[str, Any]:
    def of(control: str) -> np.ndarray:
        found = [getattr(layer.controls.get(control), key, np.nan) for layer in scan.layers]
        return factor * np.array(found, dtype=np.float64)

    facts = factor * np.array([getattr(layer, key) for layer in scan.layers])
    controls = {control: of(control) for control in CONTROLS}
    controls = {control: row for control, row in controls.items() if np.isfinite(row).any()}
    distinct = of("distinct_subjects")
    known = np.concatenate([facts, *controls.values()])
    known = known[np.isfinite(known)]
    middle = np.median(np.abs(known)) if known.size else 0.0
    return {
        "key": key,
        "name": name,
        "digits": digits,
        "scale": "asinh" if key == "kurtosis" and known.max(initial=0) > 6 * middle else "linear",
        "facts": _short(facts),
        "distinct": _short(distinct) if _has_duplicates(scan) else None,
        "controls": {control: _short(row) for control, row in controls.items()},
    }


def _has_duplicates(scan: Scan) -> bool:
    return any(fact.duplicate_of is not None for fact in scan.facts)


def _start(scan: Scan, kept: np.ndarray) -> dict[str, Any]:
    """Where the page opens: at the strongest collision, with a threshold that a graph can bear."""
    place = {int(index): at for at, index in enumerate(kept)}
    strongest = words.strongest(scan.layers, distinct=True)
    layer, pair = (scan.layers[0], None) if strongest is None else _of(*strongest)
    p = scan.matrices(layer.index)["superposition"]
    np.fill_diagonal(p, np.nan)
    larger = np.fmax(np.abs(p), np.abs(p.T))
    steps = [round(0.05 * step, 2) for step in range(1, 20)]
    few = [t for t in steps if np.count_nonzero(larger >= t) <= 4 * len(kept)]
    return {
        "layer": [each.index for each in scan.layers].index(layer.index),
        "pair": None
        if pair is None
        else [place.get(pair.edit.index), place.get(pair.touched.index)],
        "threshold": few[0] if few else steps[-1],
    }


def _of(layer: Any, place: int) -> tuple[Any, Any]:
    return layer, layer.pairs[place]


def _short(row: np.ndarray) -> list[float | None]:
    """Numbers to six digits; None for what is not finite."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in row]
