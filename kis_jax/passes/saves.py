"""What is saved of second moments, and how a folder of another run is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.passes.convergence import Look, Spread


def check_same_run(
    directory: Path,
    wanted: Mapping[str, object],
    found: Mapping[str, object],
    *,
    of: str = "second moments of this run, found those",
) -> None:
    """Raises ValueError, naming what differs, if a folder holds what another run has saved.

    Args:
      directory: that holds it.
      wanted: the identity of this run; plain JSON values.
      found: of the run that saved; what it has besides is not looked at.
      of: words for what was saved.
    """
    different = sorted(name for name in wanted if found.get(name) != wanted[name])
    if different:
        raise ValueError(
            f"{directory}: expected {of} of another: {', '.join(different)} differ; choose "
            "another folder"
        )


@dataclasses.dataclass(frozen=True)
class Saved:
    """Second moments over the first batches of a corpus.

    Attributes:
      moments: stacked over layers, float64; of one of many hosts, its rows.
      batches: how many batches they contain.
      token_budget: with which these batches were filled; a resumed pass must keep to it.
      complete: whether these are all.
      spread: of the parts of which `moments` are the sum; None if it was not measured.
      looks: at their convergence, as `kis_jax.passes.convergence.Look` has them.
    """

    moments: SecondMoment
    batches: int
    token_budget: int
    complete: bool
    spread: Spread | None = None
    looks: tuple[Look, ...] = ()
