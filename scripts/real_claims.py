"""The paper's claims 6 to 11 on scans of real models: `python scripts/real_claims.py SCAN...`.

For each scan and layer what `scan.json` says, with intervals and controls; how much of P is a
direction that all facts share, and what is left without it; and, with --text, where that direction
comes from: keys of the same facts after other text, and keys of ordinary text early and late in it.
Writes claims.json into --out; `--only-draw` draws claims.png again from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from matplotlib.figure import Figure

import kis_jax as kis
from kis_jax.compare.evidence import layer_evidence
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.statistics.bootstrap import kurtosis_interval
from kis_jax.data.batches import token_budget
from kis_jax.data.corpora import open_corpus, tokenize_corpus
from kis_jax.data.prompts import Prompt
from kis_jax.models import Decoder
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.store import MomentStore, store_of
from kis_jax.report.style import BLUE, GREEN, GREY, INK, ORANGE, WIDTH, png, styled

ROOT = Path(__file__).resolve().parent.parent
_EARLY, _LATE = 4, 48  # places in a text, from 0


def main(
    scans: Annotated[list[Path] | None, typer.Argument(help="Folders of finished scans.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Ordinary text, for where the common direction comes from.")
    ] = None,
    out: Annotated[Path, typer.Option(help="For claims.json and claims.png.")] = ROOT / "docs/real",
    only_draw: Annotated[bool, typer.Option("--only-draw", help="From claims.json.")] = False,
) -> None:
    """Reads the scans; prints a line a layer."""
    path = out / "claims.json"
    if not only_draw:
        found = {}
        for folder in scans or []:
            record = json.loads((folder / "scan.json").read_text())
            found[folder.name] = _claims(folder, record)
            if text is not None and (places := _places(folder, record, text)):
                found[folder.name]["places"] = places
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    found = json.loads(path.read_text())
    for name, scan in found.items():
        print(name, scan["tokens"], "tokens")
        for layer in scan["layers"]:
            print(*(f"{n} {v:.3g}" for n, v in layer.items() if isinstance(v, float | int)))
    (out / "claims.png").write_bytes(png(figure(found)))


def _claims(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    layers = []
    for told in record["layers"]:
        with np.load(folder / f"layer_{told['layer']:03d}.npz") as arrays:
            evidence = layer_evidence(arrays, record["facts"])
            common = common_direction(arrays["superposition"])
            cosine = np.asarray(arrays["whitening_cosine"])
        controls, last = told["controls"], told["convergence"][-1]
        layers.append(
            {
                "layer": told["layer"],
                "kurtosis": told["kurtosis"],
                "kurtosis_low": last["bootstrap_low"],
                "kurtosis_high": last["bootstrap_high"],
                "kurtosis_of_cosines": _kurtosis(cosine),
                **{
                    f"{name}_{what}": controls[name][what]
                    for name in ("other_tokens", "random_directions")
                    for what in ("mean", "kurtosis")
                },
                "mean": told["mean"],
                "bulk": told["bulk_std_times_sqrt_rank"],
                "tail": told["tail_fraction"],
                **evidence,
                **common,
            }
        )
    return {
        "model": record["family"],
        "tokens": record["token_count"],
        "facts": len(record["facts"]),
        "layers": layers,
    }


def common_direction(superposition: np.ndarray) -> dict[str, float]:
    r"""What the direction that all facts share adds to P, and P without it.

    P gives the Gram matrix G of keys in whitening space up to a factor: $G_{jj} / G_{ii} = p_{ij} /
    p_{ji}$. The direction is the mean key of one half of the facts, P that between facts of the
    other half, so that a mean of zero is no consequence of how the direction was found; both ways
    round, and the mean of the two. Of n keys, a direction is known up to their spread over n:
    `left_by_chance` is the mean that this leaves where the facts share nothing else.
    """
    p = np.asarray(superposition, np.float64)
    n = len(p)
    strength = np.minimum(np.abs(p), np.abs(p.T))
    np.fill_diagonal(strength, 0)
    best = np.argmax(strength.min(axis=1) + strength.mean(axis=1))
    ratio = np.where(np.arange(n) == best, 1.0, p[best] / p[:, best])
    gram = p * np.abs(ratio)[:, None]
    gram = (gram + gram.T) / 2
    places = np.random.default_rng(0).permutation(n)
    halves = np.array_split(places, 2)
    found: dict[str, list[float]] = {}
    for ours, theirs in (halves, halves[::-1]):
        along = gram[np.ix_(ours, theirs)].mean(axis=0)
        size = gram[np.ix_(ours, ours)].mean()
        whole = gram[np.ix_(theirs, theirs)]
        left = whole - np.outer(along, along) / size
        own = np.trace(gram[np.ix_(ours, ours)]) / len(ours)
        true = max((size * len(ours) - own) / (len(ours) - 1), 0.0)
        error = (own - true) / len(ours)
        chance = true * error / (true + error) * np.mean(1 / np.diagonal(whole))
        found.setdefault("left_by_chance", []).append(float(chance))
        parts = {"half": whole, "without_common": left}
        for name, part in parts.items():
            own = part / np.diagonal(part)[:, None]
            apart = own[~np.eye(len(own), dtype=bool)]
            found.setdefault(f"{name}_mean", []).append(float(apart.mean()))
            found.setdefault(f"{name}_kurtosis", []).append(_kurtosis(own))
            with HOST.active():
                limits = kurtosis_interval(jax.random.key(0), own, resamples=200)
            found.setdefault(f"{name}_kurtosis_low", []).append(float(limits.lower))
            found.setdefault(f"{name}_kurtosis_high", []).append(float(limits.upper))
            found.setdefault(f"{name}_std", []).append(float(apart.std()))
        found.setdefault("common_share", []).append(
            float(np.mean(along**2 / size / np.diagonal(whole)))
        )
    return {name: float(np.mean(values)) for name, values in found.items()}


def _kurtosis(matrix: np.ndarray) -> float:
    apart = matrix[~np.eye(len(matrix), dtype=bool)]
    squares = (apart - apart.mean()) ** 2
    return float(np.mean(squares**2) / np.mean(squares) ** 2 - 3)


def _places(folder: Path, record: Mapping[str, Any], text: str) -> list[dict[str, float]]:
    """Mean and kurtosis of P of keys at other places, by layer; of a decoder.

    An encoder's tokens would look ahead to the end of the text, and its texts begin and end with
    tokens of their own.
    """
    model, tokenizer = kis.load(record["model"])
    assert tokenizer is not None
    if not isinstance(model, Decoder):
        return []
    budget, n = token_budget(model.config), len(record["facts"])
    told = [fact["prompt"].replace("{}", fact["subject"]) for fact in record["facts"]]
    prompts = [tokenizer(text)["input_ids"] for text in told]
    index = [fact["token_index"] for fact in record["facts"]]
    documents = open_corpus(text).documents()
    texts = []
    for tokens in tokenize_corpus(documents, tokenizer, context_length=_LATE + 1):
        if len(tokens) > _LATE:
            texts.append(tokens)
        if len(texts) == 2 * n:
            break
    before, other = texts[:n], texts[n : 2 * n]
    kinds = {
        "facts": [Prompt(tokens, place) for tokens, place in zip(prompts, index, strict=True)],
        "facts_after_text": [
            Prompt([*start[:_LATE], *tokens], _LATE + place)
            for start, tokens, place in zip(before, prompts, index, strict=True)
        ],
        "text_early": [Prompt(tokens[: _EARLY + 1], _EARLY) for tokens in other],
        "text_late": [Prompt(tokens[: _LATE + 1], _LATE) for tokens in other],
    }
    keys = {
        name: fact_keys(model, asked, token_budget=min(budget, 1024))
        for name, asked in kinds.items()
    }
    saved = MomentStore(store_of(folder), {}).restore()
    assert saved is not None
    found = []
    for layer in record["layers"]:
        at = layer["layer"]
        whitener = HOST.whitener(np.asarray(saved.moments.total[at]) / int(saved.moments.count[at]))
        numbers: dict[str, float] = {"layer": at}
        for name, rows in keys.items():
            p = np.asarray(HOST.run(kis.superposition, rows[at].astype(np.float64), whitener))
            numbers[f"{name}_mean"] = float(p[~np.eye(len(p), dtype=bool)].mean())
            numbers[f"{name}_kurtosis"] = _kurtosis(p)
        found.append(numbers)
    return found


@styled
def figure(found: Mapping[str, Any]) -> Figure:
    """Mean and kurtosis of P by layer, with what was held against them, a row a model."""
    drawn = Figure(figsize=(WIDTH, 0.6 + 2.5 * len(found)))
    rows = drawn.subplots(len(found), 2, squeeze=False)
    drawn.subplots_adjust(
        left=0.11, right=0.98, top=1 - 0.55 / (0.6 + 2.5 * len(found)),
        bottom=0.4 / (0.6 + 2.5 * len(found)), wspace=0.27, hspace=0.4,
    )  # fmt: skip
    for (name, scan), (mean, kurtosis) in zip(found.items(), rows, strict=True):
        layers = scan["layers"]
        at = [layer["layer"] for layer in layers]
        _band(mean, at, layers, "mean", ORANGE, "P of facts")
        _line(mean, at, layers, "without_common_mean", BLUE, "without their common direction")
        _line(mean, at, layers, "other_tokens_mean", GREEN, "other tokens of the prompts")
        _band(kurtosis, at, layers, "kurtosis", ORANGE, None)
        _line(kurtosis, at, layers, "without_common_kurtosis", BLUE, None)
        _line(kurtosis, at, layers, "other_tokens_kurtosis", GREEN, None)
        _line(kurtosis, at, layers, "random_directions_kurtosis", GREY, "random directions")
        if "places" in scan:
            _line(mean, at, scan["places"], "facts_after_text_mean", INK, "facts after other text")
            _line(kurtosis, at, scan["places"], "facts_after_text_kurtosis", INK, None)
        mean.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        mean.set_title(f"{name}: mean of P")
        kurtosis.set_title("excess kurtosis of P")
        kurtosis.set_yscale("symlog", linthresh=1)
        for axes in (mean, kurtosis):
            axes.set_xlabel("layer")
    handles = [*rows[0, 0].get_legend_handles_labels(), *rows[0, 1].get_legend_handles_labels()]
    drawn.legend(
        [*handles[0], *handles[2]], [*handles[1], *handles[3]], loc="upper left", ncols=3,
        bbox_to_anchor=(0.02, 1.0), fontsize=7,
    )  # fmt: skip
    return drawn


def _line(
    axes: Any, at: Sequence[int], layers: Sequence[Any], name: str, colour: str, label: str | None
) -> None:
    values = [layer[name] for layer in layers]
    axes.plot(at, values, "o-", color=colour, markersize=2.5, linewidth=1, label=label)


def _band(
    axes: Any, at: Sequence[int], layers: Sequence[Any], name: str, colour: str, label: str | None
) -> None:
    _line(axes, at, layers, name, colour, label)
    low, high = ([layer[f"{name}_{end}"] for layer in layers] for end in ("low", "high"))
    axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)


if __name__ == "__main__":
    typer.run(main)
