"""A disk that fills up while a state is written, and damaged files: one line, the rest is whole.

One test for each store; `tests/cli/test_kills.py` has processes that are killed meanwhile.
"""

import errno
import itertools
import os
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.lifelong import store as of_lifelong
from kis_jax.mcqa import store as of_training
from kis_jax.passes.saves import Saved
from kis_jax.passes.store import MomentStore

IDENTITY = {"model": "a"}
LAYERS, D = 2, 5


def no_space(*arguments, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class OfMoments:
    """All layers saved at once, as one device and one of many hosts do at the end."""

    def __init__(self, folder):
        self.folder = folder

    def fill_up(self, patch):
        """Once the bytes of the second layer are written."""
        calls = iter((os.fsync, no_space))
        patch.setattr("kis_jax.passes.store.os.fsync", lambda file: next(calls)(file))

    def save(self, number):
        total = np.stack([np.eye(D) * (number + layer) for layer in range(LAYERS)])
        store = MomentStore(self.folder, IDENTITY, num_layers=LAYERS, width=D)
        store.save(Saved(SecondMoment(total, np.array([number] * LAYERS)), number, 64, False))

    def read(self):
        found = MomentStore(self.folder, IDENTITY).restore()
        return found.batches, float(found.moments.total[1][0, 0]) - 1


class OfLayers(OfMoments):
    """One layer after another, as a streamed pass does."""

    def fill_up(self, patch):
        patch.setattr("kis_jax.passes.store.os.fsync", no_space)

    def save(self, number):
        store = MomentStore(self.folder, IDENTITY, num_layers=1, width=D)
        store.add(0, [np.eye(D)], 1, number)

    def read(self):
        found = MomentStore(self.folder, IDENTITY).restore()
        return found.batches, float(found.moments.total[0][0, 0])


class OfLifelong(OfMoments):
    def fill_up(self, patch):
        """Once half of the file is there."""

        def half(path, **arrays):
            path.write_bytes(b"PK" * 100)
            no_space()

        patch.setattr("kis_jax.lifelong.store.np.savez", half)

    def save(self, number):
        store = of_lifelong.LifelongStore(self.folder, IDENTITY)
        store.save("sequential", of_lifelong.Saved({"x": np.full(9, number)}, {"edits": number}))

    def read(self):
        found = of_lifelong.LifelongStore(self.folder, IDENTITY).load("sequential")
        return found.about["edits"], float(found.arrays["x"][8])


class OfTraining(OfMoments):
    def fill_up(self, patch):
        """In the words of the library that writes it."""

        def full(*arguments, **named):
            raise ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left")

        patch.setattr(ocp.CheckpointManager, "save", full)

    def save(self, number):
        with of_training.TrainingStore(self.folder, IDENTITY) as store:
            arrays = {"x": np.full(9, number, np.float32)}
            store.save(number, of_training.Saved(arrays, {"epoch": number}))

    def read(self):
        import jax.numpy as jnp

        with of_training.TrainingStore(self.folder, IDENTITY) as store:
            found = store.restore({"x": jnp.zeros(9)})
        return found.about["epoch"], float(found.arrays["x"][8])


@pytest.mark.parametrize("kind", [OfMoments, OfLayers, OfLifelong, OfTraining])
def test_the_state_before_is_whole(kind, tmp_path, monkeypatch):
    store = kind(tmp_path / "store")
    store.save(1)
    with monkeypatch.context() as patch:
        store.fill_up(patch)
        with pytest.raises(
            ValueError, match="store: expected room for .* MB to save, found .* MB"
        ) as e:
            store.save(2)
    assert "what was saved before is whole: make room, and the same command goes on" in str(e.value)
    assert store.read() == (1, 1.0)
    assert not list(tmp_path.rglob("*.partial*"))
    store.save(2)  # once there is room
    assert store.read() == (2, 2.0)


@pytest.mark.parametrize("kind", [OfMoments, OfLayers, OfLifelong, OfTraining])
def test_a_damaged_save_is_read_right_or_refused_with_a_remedy(kind, tmp_path):
    """Each file of the store cut in half or emptied: in no case another number, or a traceback."""
    whole = kind(tmp_path / "store")
    whole.save(1)
    files = [path for path in whole.folder.rglob("*") if path.is_file()]
    refused = 0
    for place, (path, half) in enumerate(itertools.product(files, (True, False))):
        store = kind(tmp_path / str(place))
        shutil.copytree(whole.folder, store.folder)
        content = path.read_bytes()
        (store.folder / path.relative_to(whole.folder)).write_bytes(
            content[: half * len(content) // 2]
        )
        try:
            assert store.read() == (1, 1.0)
        except ValueError as error:
            refused += 1
            assert str(store.folder) in str(error) and "; delete this f" in str(error)
    assert refused >= 2
