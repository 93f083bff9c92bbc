"""Finished scans of several models, made into one record that holds all that is drawn of them."""

from __future__ import annotations

import base64
import importlib.metadata
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kis_jax.compare.laws import fitted_laws, layer_numbers, mean_over_layers, width_alone
from kis_jax.compare.pairs import compared_pairs
from kis_jax.compare.scans import ComparedScan, check_comparable
from kis_jax.passes.not_finite import json_number

_MOST_DRAWN = 256  # facts along the side of a heat map: more have no pixel of their own
_DEVIATIONS, _BINS = 12.0, 120  # of the histograms, in units of 1 / sqrt(rank)


def compare_scans(scans: Sequence[ComparedScan], *, depth: float = 0.5) -> dict[str, Any]:
    """What scans of the same facts in different models say together.

    Args:
      scans: one at least; laws need two, their intervals three.
      depth: relative depth of the layer of each model whose P is drawn and whose pairs are
        compared, from 0 to 1.

    Returns:
      The content of `compare.json`, plain JSON values, from which every figure can be drawn.

    Raises:
      ValueError: if `depth` is out of range, or the scans cannot be compared, with the reason.
    """
    if not 0 <= depth <= 1:
        raise ValueError(f"depth: expected a number from 0 to 1, found {depth}")
    if not scans:
        raise ValueError("runs: expected one finished scan at least, found none")
    differences = check_comparable(scans)
    models = [_model(scan) for scan in scans]
    for model, kurtosis in zip(models, width_alone(scans), strict=True):
        model["means"]["kurtosis_width_alone"] = json_number(kurtosis)
    facts = scans[0].record["facts"]
    matrices = []
    for model, scan in zip(models, scans, strict=True):
        layer = scan.layer_at(depth)
        p = scan.superposition(layer)
        model["drawn"] = _drawn(scan, layer, p)
        matrices.append(p)
    return {
        "format": 1,
        "version": importlib.metadata.version("kis_jax"),
        "depth": depth,
        "num_facts": len(facts),
        "position": scans[0].record["settings"].get("position"),
        "differences": differences,
        "models": models,
        "laws": fitted_laws(models, once=_first_of_each_model(scans)),
        "pairs": compared_pairs([scan.label for scan in scans], matrices, facts),
    }


def _first_of_each_model(scans: Sequence[ComparedScan]) -> list[int]:
    """Places of scans, of several of one model the first: the others are no evidence of a law."""
    fingerprints = [scan.record["fingerprints"].get("model", scan.run) for scan in scans]
    return [place for place, found in enumerate(fingerprints) if found not in fingerprints[:place]]


def _model(scan: ComparedScan) -> dict[str, Any]:
    record = scan.record
    shape, layers = record["architecture"], [layer_numbers(layer) for layer in record["layers"]]
    return {
        "label": scan.label,
        "run": scan.run,
        "model": record["model"],
        "family": record["family"],
        **{name: shape.get(name) for name in ("num_layers", "num_parameters", "width")},
        "key_dimension": scan.key_dimension,
        "token_count": record["token_count"],
        "means": {name: json_number(mean_over_layers(layers, name)) for name in layers[0]},
        "layers": [
            {"layer": layer["layer"], "depth": scan.depth(layer["layer"]), **numbers}
            for layer, numbers in zip(record["layers"], layers, strict=True)
        ],
    }


def _drawn(scan: ComparedScan, layer: int, p: np.ndarray) -> dict[str, Any]:
    """P of one layer as far as it can be seen: levels of colour, and a histogram."""
    (measured,) = (found for found in scan.record["layers"] if found["layer"] == layer)
    entries = p[~np.eye(len(p), dtype=bool)] * math.sqrt(scan.key_dimension)
    entries = entries[np.isfinite(entries)]
    counts, _ = np.histogram(entries, _BINS, (-_DEVIATIONS, _DEVIATIONS))
    shown = p[:_MOST_DRAWN, :_MOST_DRAWN]
    return {
        "layer": layer,
        "heatmap": {"side": len(shown), "levels": _levels(shown)},
        "density": {
            "from": -_DEVIATIONS,
            "to": _DEVIATIONS,
            "counts": counts.tolist(),
            "beyond": int(entries.size - counts.sum()),
        },
        "convergence": measured["convergence"],
    }


def _levels(p: np.ndarray) -> str:
    """Entries from -1 to 1 as bytes from 0 to 254, 255 for what is not finite, in base 64."""
    scaled = np.rint(127 * np.clip(np.nan_to_num(p, nan=0.0), -1, 1)) + 127
    levels = np.where(np.isfinite(p), scaled, 255).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()
