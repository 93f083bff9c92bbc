"""A family's table, expanded for one model and held against the tensors of a checkpoint."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import cast

from kis_jax.checkpoints.files import listed
from kis_jax.checkpoints.mapped import Shape
from kis_jax.models.families import Family
from kis_jax.models.families.family import Layout


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint, as it is needed for one parameter.

    Attributes:
      source: name of the tensor.
      shape: its shape.
      target: path of the parameter.
      layer: place on the parameter's leading axis; None if the tensor is the whole of it.
      expert: place on the axis after that, of a mixture; None if the tensor is of all experts.
      layout: how the parameter lies in the tensor.
    """

    source: str
    shape: Shape
    target: str
    layer: int | None
    layout: Layout
    expert: int | None = None

    @property
    def place(self) -> tuple[int, ...]:
        """What of the parameter the tensor is, by its leading axes."""
        return tuple(index for index in (self.layer, self.expert) if index is not None)


def expand(family: Family, shapes: Mapping[str, Shape]) -> list[Entry]:
    """The entries of all parameters of a model.

    Args:
      family: whose table is expanded, bound to the model's configuration.
      shapes: of each parameter by its path.

    Raises:
      ValueError: if a parameter stands in no row, or in two: a fault of the table.
    """
    rows = {row.target: row for row in family.weights}
    if len(rows) != len(family.weights) or shapes.keys() - rows.keys():
        missing = sorted(shapes.keys() - rows.keys())
        raise ValueError(
            f"table of {family.name}: expected one row for each parameter, found none for "
            f"{missing or 'no parameter'}, and {len(family.weights) - len(rows)} twice"
        )
    entries = []
    for target, shape in shapes.items():
        row = rows[target]
        layout = cast(Layout, row.layout)
        if "{layer}" not in row.source:
            entries.append(Entry(row.source, layout.shape(shape), target, None, layout))
            continue
        for layer in range(shape[0]):
            source = row.source.replace("{layer}", str(layer))
            if "{expert}" not in source:
                entries.append(Entry(source, layout.shape(shape[1:]), target, layer, layout))
                continue
            for expert in range(shape[1]):
                name = source.replace("{expert}", str(expert))
                entries.append(Entry(name, layout.shape(shape[2:]), target, layer, layout, expert))
    return entries


def match(
    family: Family, shapes: Mapping[str, Shape], stored: Mapping[str, Shape], where: object
) -> list[Entry]:
    """The entries of a model under the names that a checkpoint uses, none amiss.

    Args:
      family: whose table is used, bound to the model's configuration.
      shapes: of each parameter by its path.
      stored: of each tensor of the checkpoint by its name.
      where: the checkpoint, for messages.

    Raises:
      ValueError: naming every tensor that is missing, that nothing reads, or that has another
        shape than the configuration says.
    """
    entries = expand(family, shapes)
    bare = not any(name.startswith(family.prefix) for name in stored)
    if bare:
        entries = [
            dataclasses.replace(entry, source=entry.source.removeprefix(family.prefix))
            for entry in entries
        ]
    entries = [
        dataclasses.replace(entry, source=_stored_name(entry.source, family, stored))
        for entry in entries
    ]
    expected = {entry.source: entry.shape for entry in entries}
    shaped = expected | {
        copy: expected[original] for copy, original in copies(family, entries, stored).items()
    }
    patterns = [
        re.escape(name.removeprefix(family.prefix) if bare else name)
        .replace(r"\{layer\}", r"\d+")
        .replace(r"\*", ".*")
        for name in family.ignored
    ]
    extra = [name for name in stored if name not in shaped and not _any_match(patterns, name)]
    faults = [
        *(f"missing {name}" for name in expected if name not in stored),
        *(f"unknown {name}" for name in extra),
        *(
            f"{name} of shape {stored[name]} where config.json asks for {shape}"
            for name, shape in shaped.items()
            if name in stored and stored[name] != shape
        ),
    ]
    if faults:
        raise ValueError(
            f"{where}: expected exactly the tensors of a {family.name} of the shape in "
            f"config.json, found {listed(faults)}; {_remedy(family, entries, stored)}"
        )
    return entries


def _remedy(family: Family, entries: Iterable[Entry], stored: Mapping[str, Shape]) -> str:
    """What to do about a checkpoint that does not match; one without a head alone is not torn."""
    missing = [entry.target for entry in entries if entry.source not in stored]
    if not missing or any(target.partition(".")[0] != "head" for target in missing):
        return "check that weights and config.json belong together and that the download is whole"
    ways = ["save the model again together with its head, as AutoModelForCausalLM loads it"]
    if family.tied_head is not None:
        ways.append(
            "set tie_word_embeddings to true in a copy of config.json, which changes logits but "
            "neither keys nor C"
        )
    return f"the model was saved without its head: {', or '.join(ways)}"


def copies(family: Family, entries: Iterable[Entry], stored: Iterable[str]) -> dict[str, str]:
    """Stored tensors that no parameter reads, as they are to repeat one that some parameter does.

    Such as a head that is tied to the embedding, yet stored beside it. Whether it does repeat the
    embedding is not known before it is read.
    """
    sources = {entry.target: entry.source for entry in entries}
    head = family.tied_head
    if head is None or head in sources.values() or head not in stored:
        return {}
    return {head: sources["embedding.embedding"]}


def _stored_name(name: str, family: Family, stored: Mapping[str, Shape]) -> str:
    """A tensor's name, or the one that older checkpoints give it, if that is the one stored."""
    for ending, old in family.old_endings:
        if name.endswith(ending) and (older := name.removesuffix(ending) + old) in stored:
            return older
    return name


def _any_match(patterns: list[str], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)
