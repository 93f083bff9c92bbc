"""Ways back on checkpoints of other forms: sharded, in bfloat16, from Flax."""

import dataclasses
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.ledger import Base, EditedFact, Ledger, replayed
from kis_jax.checkpoints.ledger_file import load_ledger
from kis_jax.checkpoints.tensors import open_tensors
from kis_jax.core.editing.replay import Asked
from kis_jax.edit.undo import open_base, remaining, restore, rewrite
from tests.checkpoints import conftest as damaged

LAYER, N, NAME = 1, 4, "transformer.h.1.mlp.c_proj.weight"


def in_bfloat16(folder):
    tensors = damaged.tensors_of(folder)
    damaged.rewrite(folder, {name: array.astype(jnp.bfloat16) for name, array in tensors.items()})


@pytest.fixture(params=[damaged.shard, in_bfloat16, damaged.to_msgpack])
def base(request, tmp_path):
    folder = shutil.copytree(damaged.SOURCE, tmp_path / "model")
    request.param(folder)
    return folder


@pytest.fixture
def ledger(base, rng):
    d, m = open_tensors(base)[NAME].shape
    if base.joinpath("flax_model.msgpack").exists():
        d, m = max(d, m), min(d, m)
    keys = rng.normal(size=(N, d))
    asked = Asked(keys, keys / 2, rng.normal(size=(N, m)))
    facts = tuple(EditedFact(i, f"Subject {i}", "{} speaks", "Orvish") for i in range(N))
    return Ledger(
        "constrained",
        facts,
        {LAYER: replayed(asked, "constrained", None)},
        base=Base(str(base), fingerprint.of_model(base)),
    )


def numbers(folder):
    return {name: stored.array() for name, stored in open_tensors(folder).items()}


def test_undo_gives_the_base_byte_for_byte(base, ledger, tmp_path):
    rewrite(ledger, open_base(ledger, None), tmp_path / "edited")
    kept = load_ledger(tmp_path / "edited")
    assert kept.facts == ledger.facts and kept.base == ledger.base
    restore(open_base(kept, None), tmp_path / "restored")
    names = {path.name for path in base.iterdir()} - {"outputs.npz"}
    assert {path.name for path in (tmp_path / "restored").iterdir()} == names
    for name in names:
        assert (tmp_path / "restored" / name).read_bytes() == (base / name).read_bytes()
    assert fingerprint.of_model(tmp_path / "restored") == ledger.base.fingerprint


def test_edits_change_one_tensor_and_keep_its_dtype(base, ledger, tmp_path):
    rewrite(ledger.take([2, 0]), str(base), tmp_path / "edited")
    before, after = numbers(base), numbers(tmp_path / "edited")
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert after[name].dtype == array.dtype
        assert (name == NAME) == (after[name].tobytes() != array.tobytes()), name
    change = np.asarray(ledger.take([2, 0]).edits[LAYER].delta)
    expected = before[NAME].astype(np.float64) + change
    digits = float(jnp.finfo(before[NAME].dtype).eps)
    np.testing.assert_allclose(after[NAME].astype(np.float64), expected, rtol=digits, atol=1e-6)


def test_a_base_that_is_gone_or_changed(base, ledger, tmp_path):
    with pytest.raises(ValueError, match="say by --base where the base is now"):
        open_base(ledger, str(tmp_path / "nowhere"))
    (base / "config.json").write_text((base / "config.json").read_text() + "\n")
    with pytest.raises(ValueError, match="expected the model that was edited"):
        open_base(ledger, None)
    with pytest.raises(ValueError, match="one that names its base"):
        open_base(dataclasses.replace(ledger, base=None), None)
    with pytest.raises(ValueError, match="another folder than the one that is read"):
        restore(str(base), base)


def test_what_remains(base, ledger):
    assert remaining(ledger, keep=2, remove=[]) == [0, 1]
    assert remaining(ledger, keep=None, remove=[3, 0]) == [1, 2]
    with pytest.raises(ValueError, match="keep: expected a number of edits, 0 to 4, found 5"):
        remaining(ledger, keep=5, remove=[])
    with pytest.raises(ValueError, match="remove: expected rows of the ledger, 0 to 3, found -1"):
        remaining(ledger, keep=None, remove=[-1])
