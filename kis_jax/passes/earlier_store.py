"""Second moments as kis_jax 0.1 saved them, in one orbax checkpoint: read and converted."""

from __future__ import annotations

import shutil

import orbax.checkpoint as ocp

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.passes.convergence import Look, Spread
from kis_jax.passes.saves import Saved
from kis_jax.passes.store import MomentStore


def take_over(store: MomentStore) -> None:
    """Brings a folder of second moments that kis_jax 0.1 has finished into the form of today.

    Raises:
      ValueError: if that pass was not finished, or the folder is damaged.
    """
    directory, wanted = store.directory, {"identity", "batches", "token_budget", "complete"}
    steps = [path for path in directory.iterdir() if path.name.isdigit()]
    step = max(steps, key=lambda path: int(path.name))
    try:
        about = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(step / "about")
        found = ocp.StandardCheckpointer().restore(step.absolute() / "second_moments")
        moments = SecondMoment(**found)
        whole = wanted <= about.keys() and about["complete"]
    except Exception as error:  # orbax, tensorstore, json and the system raise many kinds
        raise store.damaged(f"{type(error).__name__} while reading {step.name}") from error
    if not whole:
        raise store.damaged("an earlier version of kis_jax left them unfinished")
    spread = about.get("spread")
    store.save(
        Saved(
            moments,
            about["batches"],
            about["token_budget"],
            True,
            None if spread is None else Spread.from_json(spread),
            tuple(Look(**look) for look in about.get("looks", [])),
        ),
        identity=about["identity"],
    )
    for path in steps:
        shutil.rmtree(path)
