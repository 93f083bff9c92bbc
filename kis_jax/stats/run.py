"""Second moments as things of their own: read, merged, and brought in and out of ROME's files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.adapter import MEMORY
from kis_jax.checkpoints.files import write_atomically
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.opening import read_config
from kis_jax.checkpoints.tokenizers import load_tokenizer
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.models.families import Family
from kis_jax.passes.convergence import Look, Spread, Watch
from kis_jax.passes.store import MomentStore, packed_rows, store_of

_SAME = ("model", "tokenizer", "dtype", "document_length")  # of parts that may be merged
_ROWS = 512  # of a sum that are looked at together
_SLACK = 1e-3  # of what float32 sums leave of symmetry, beside the sizes of the two keys
_COUNT, _SUM = "mom2.count", "mom2.mom2"  # ROME's names


@dataclasses.dataclass(frozen=True)
class Stats:
    """Second moments that a run left on disk.

    Attributes:
      directory: where they lie.
      identity: of the run.
      moments: stacked over layers; a layer is read as it is asked for where they are large.
      complete: whether that run came to its end.
      spread: of the parts that they were summed from; None if that is not known.
      looks: at their convergence.
    """

    directory: Path
    identity: dict[str, Any]
    moments: SecondMoment
    complete: bool
    spread: Spread | None
    looks: tuple[Look, ...]

    @property
    def corpora(self) -> list[str]:
        """Fingerprints of the corpora that they were measured over."""
        return list(self.identity.get("corpora", [self.identity["corpus"]]))


def open_stats(directory: Path) -> Stats:
    """The second moments in a folder: of a scan, of `kis stats collect`, merged or imported.

    Raises:
      ValueError: if there are none, or they are damaged.
    """
    place = store_of(directory)
    if not place.is_dir():
        raise ValueError(f"{directory}: expected a folder of second moments, found none")
    store = MomentStore(place, {})
    saved = store.restore()
    if saved is None:
        raise ValueError(
            f"{directory}: expected second moments, found none; name the folder of a scan or of "
            "kis stats"
        )
    return Stats(
        place, store.saved_identity(), saved.moments, saved.complete, saved.spread, saved.looks
    )


def merge_stats(parts: Sequence[Stats], out: Path) -> Stats:
    """Adds up second moments of one model over different corpora, layer by layer, on disk.

    Raises:
      ValueError: if there are fewer than two; if they are of different models or settings, of one
        corpus twice, or unfinished; or if the output folder is not empty.
    """
    first, *others = _mergeable(parts)
    corpora = sorted(corpus for part in parts for corpus in part.corpora)
    layers, d = len(first.moments.count), first.moments.total.shape[-1]
    identity = {
        **{name: first.identity.get(name) for name in _SAME},
        "corpus": hashlib.sha256("\n".join(corpora).encode()).hexdigest(),
        "corpora": corpora,
        "until": None,
    }
    store = _new_store(out, identity, layers, d)
    for layer in range(layers):
        for number, part in enumerate((first, *others), 1):
            count = int(part.moments.count[layer])
            if count:
                total = np.asarray(part.moments.total[layer])
                spread = _of_layer(part.spread, layer)
                store.add(layer, packed_rows(total), count, number, spread)
    _finish(store)
    return open_stats(out)


def import_rome(
    files: Sequence[Path],
    model: str,
    out: Path,
    *,
    dtype: str = "float32",
    layer: int | None = None,
) -> Stats:
    """Takes over the `.npz` files that ROME's `layer_stats` writes, one a layer.

    What they do not tell is taken as given: that they are of this model and of its tokenizer. They
    stand for a corpus by their own bytes. Layers without a file stay empty.

    Args:
      files: with ROME's entries `mom2.mom2`, the sum, and `mom2.count`.
      model: whose keys they are of: a local directory or a hub name.
      out: a folder that is empty or not there.
      dtype: of the forward pass that they come from.
      layer: whose they are, for one file whose name does not tell.

    Raises:
      ValueError: if a file is damaged, of another width, of no layer of the model, or no sum of
        products of keys: not finite, not symmetric, negative on its diagonal, or zero.
    """
    directory, family, config = _model(model)
    tokenizer = load_tokenizer(directory)
    found: dict[int, Path] = {}
    for path in files:
        place = layer if layer is not None and len(files) == 1 else _layer_of(path, family)
        if not 0 <= place < config.num_layers or place in found:
            raise ValueError(
                f"{path}: expected each of the layers 0 to {config.num_layers - 1} once at most, "
                f"found layer {place}{' again' if place in found else ''}"
            )
        found[place] = path
    digest = hashlib.sha256()
    for place in sorted(found):
        digest.update(f"{place}:".encode() + hashlib.sha256(found[place].read_bytes()).digest())
    identity = {
        "model": fingerprint.of_model(directory),
        "tokenizer": None if tokenizer is None else fingerprint.of_tokenizer(tokenizer),
        "corpus": digest.hexdigest(),
        "dtype": dtype,
        "document_length": None,
        "until": None,
    }
    for place, path in found.items():  # all of them, before the folder is begun
        _read_rome(path, config.mlp_width, place)
    store = _new_store(out, identity, config.num_layers, config.mlp_width)
    for place, path in sorted(found.items()):
        total, count = _read_rome(path, config.mlp_width, place)
        store.add(place, packed_rows(total), count, 1)
    _finish(store)
    return open_stats(out)


def export_rome(
    stats: Stats, model: str, out: Path, *, corpus: str = "wikipedia", sample_size: int = 100_000
) -> list[Path]:
    """Writes second moments as ROME's `layer_stats` caches them, one file a layer.

    Args:
      stats: of any layers; those without a token are left out.
      model: whose they are, for the names of its modules.
      out: the folder that ROME calls its `stats_dir`.
      corpus: the name that ROME gives the corpus, `wikipedia` or `wikitext`.
      sample_size: the number of documents that ROME asks for; it takes a file of no other.

    Returns:
      The files written.

    Raises:
      ValueError: if the second moments are of another model.
    """
    directory, family, _ = _model(model)
    if stats.identity.get("model") != fingerprint.of_model(directory):
        raise ValueError(
            f"model: expected the one whose second moments {stats.directory} holds, found "
            f"{model}; name that one"
        )
    folder = out / model.strip("/").replace("/", "_") / f"{corpus}_stats"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for layer, count in enumerate(map(int, stats.moments.count)):
        if not count:
            continue
        module = _module(family).format(layer=layer)
        path = folder / f"{module}_float32_mom2_{sample_size}.npz"
        arrays = {
            "mom2.constructor": np.array("util.runningstats.SecondMoment()"),
            _COUNT: np.array(count),
            _SUM: np.asarray(stats.moments.total[layer]).astype(np.float32),
            "sample_size": np.array(sample_size),
        }
        with write_atomically(path) as temporary:
            np.savez(temporary, **arrays)
        written.append(path)
    return written


def _mergeable(parts: Sequence[Stats]) -> Sequence[Stats]:
    if len(parts) < 2:
        raise ValueError(f"expected two folders of second moments or more, found {len(parts)}")
    first = parts[0]
    for part in parts:
        if not part.complete:
            raise ValueError(
                f"{part.directory}: expected second moments of a run that came to its end, found "
                "those of one that was cut short; let it finish"
            )
        different = [n for n in _SAME if part.identity.get(n) != first.identity.get(n)]
        if different or part.moments.total.shape != first.moments.total.shape:
            raise ValueError(
                f"{part.directory}: expected second moments of the same model and settings as "
                f"{first.directory}, found {', '.join(different) or 'shape'} to differ; merge "
                "only parts of one corpus"
            )
    corpora = [corpus for part in parts for corpus in part.corpora]
    if len(set(corpora)) < len(corpora):
        raise ValueError(
            f"{', '.join(str(part.directory) for part in parts)}: expected parts of different "
            "text, found one corpus in two of them; each may be counted once"
        )
    return parts


def _new_store(out: Path, identity: Mapping[str, object], layers: int, d: int) -> MomentStore:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: expected an empty folder, found {out} with other things; name one")
    return MomentStore(out, identity, num_layers=layers, width=d)


def _finish(store: MomentStore) -> None:
    """A last look at convergence where all layers have it, and the end."""
    states = store.layers
    count = np.array([state.count for state in states])
    if store.spread.parts > 1:
        convergence = Watch().start()
        norms = np.array([state.norm for state in states])
        convergence.look(store.spread, norms, count, store.read)
        store.note(convergence.looks)
    store.finish()


def _of_layer(spread: Spread | None, layer: int) -> Spread | None:
    return None if spread is None else Spread(spread.parts, spread.squares[layer : layer + 1])


def _model(model: str) -> tuple[Path, Family, Any]:
    directory = locate(model)
    family, config = read_config(directory)
    config.check_one_mlp("kis stats")
    return directory, family, config


def _module(family: Family) -> str:
    """The name of the module whose input the keys are, with `{layer}` in it."""
    source = next(row.source for row in family.weights if row.target == MEMORY)
    return source.removesuffix(".weight")


def _layer_of(path: Path, family: Family) -> int:
    """The layer in the name that ROME gives a file."""
    before, _, after = _module(family).partition("{layer}")
    pattern = rf"{re.escape(before)}(\d+){re.escape(after)}"
    found = re.search(pattern, path.name)
    if found is None:
        raise ValueError(
            f"{path}: expected a name with a layer in it, such as "
            f"{_module(family).format(layer=3)}_float32_mom2_100000.npz, found none; rename it, or "
            "pass --layer with a single file"
        )
    return int(found[1])


def _read_rome(path: Path, d: int, layer: int) -> tuple[np.ndarray, int]:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            total, stored = np.asarray(arrays[_SUM], np.float64), arrays[_COUNT]
            count = int(stored)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: expected {_SUM} and {_COUNT} as ROME's layer_stats writes them, found that "
            f"they cannot be read ({error})"
        ) from error
    if total.shape != (d, d) or count < 1:
        raise ValueError(
            f"{path}: expected a sum of shape {(d, d)} over one token or more, found "
            f"{total.shape} over {count}; it belongs to another model"
        )
    if fault := _fault(total, stored):
        raise ValueError(
            f"{path}: expected a sum of products of keys for layer {layer}, found {fault}; the "
            "file is damaged or holds something else: measure it again, or leave the layer out"
        )
    # Summed in float32, the two halves may differ in their last digits.
    return (total + total.T) / 2, count


def _fault(total: np.ndarray, count: np.ndarray) -> str:
    """What a sum of k kT and a number of tokens cannot be; "" if nothing is amiss.

    Looked at in rows, as whole copies of a sum may not fit beside it.
    """
    if not np.issubdtype(count.dtype, np.integer):
        return f"a number of tokens that is no whole number, {count} of {count.dtype}"
    diagonal = np.diagonal(total)
    if not np.isfinite(diagonal).all() or (diagonal < 0).any():
        place = int(np.flatnonzero(~(np.isfinite(diagonal) & (diagonal >= 0)))[0])
        return f"{diagonal[place]} on its diagonal, at {place}"
    if not diagonal.any():
        return "zeros alone"
    size = np.sqrt(diagonal)
    for start in range(0, len(total), _ROWS):
        rows = total[start : start + _ROWS]
        bound = size[start : start + _ROWS, None] * size
        for bad, what in (
            (~np.isfinite(rows), "a number that is not finite"),
            (np.abs(rows - total.T[start : start + _ROWS]) > _SLACK * bound, "no symmetry"),
            (np.abs(rows) > (1 + _SLACK) * bound, "a product larger than those of its factors"),
        ):
            if bad.any():
                i, j = np.argwhere(bad)[0]
                return f"{what}, {rows[i, j]} at {start + i}, {j}"
    return ""


def describe(stats: Stats) -> Iterator[dict[str, Any]]:
    """A line for each layer that has tokens: plain JSON values.

    `size` is the mean square of a key, the trace of C; `error` is that of `Spread.error`; `top` is
    the part of the trace that the largest diagonal entry has.
    """
    moments = stats.moments
    for layer, count in enumerate(map(int, moments.count)):
        if not count:
            continue
        total = np.asarray(moments.total[layer])
        diagonal = np.diagonal(total) / count
        error = np.nan
        if (spread := _of_layer(stats.spread, layer)) is not None:
            norm = np.array([np.vdot(total, total) ** 0.5])
            error = float(spread.error(norm, np.array([count]))[0])
        yield {
            "layer": layer,
            "tokens": count,
            "tokens_for_each_dimension": count / len(diagonal),
            "size": float(diagonal.sum()),
            "top": float(diagonal.max() / diagonal.sum()),
            "error": None if np.isnan(error) else error,
        }
