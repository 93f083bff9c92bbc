"""Rows of second moments saved by some hosts and read by as many, or others."""

import shutil

import jax
import numpy as np
import pytest

from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.passes.hosts.store import HostStore
from kis_jax.passes.saves import Saved

LAYERS, D = 2, 12
WHOLE = np.random.default_rng(0).normal(size=(LAYERS, D, D))
COUNT = np.array([5, 5])
IDENTITY = {"model": "m", "corpus": "c"}
# Rows of four hosts, not in their order, one of which has none; and of two.
FOUR = ([2, 3, 8], [0, 1], [], [4, 5, 6, 7, 9, 10, 11])
TWO = ([0, 1, 2, 9, 10, 11], [3, 4, 5, 6, 7, 8])


@pytest.fixture
def on_host(monkeypatch, tmp_path):
    """Makes the store of one of several hosts, as that host has it."""

    def store(host, rows_of_hosts, identity=IDENTITY):
        monkeypatch.setattr(jax, "process_index", lambda: host)
        monkeypatch.setattr(jax, "process_count", lambda: len(rows_of_hosts))
        return HostStore(tmp_path, identity, np.array(rows_of_hosts[host], int), D)

    return store


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nobody to agree with: each host decides from the files that all see."""
    monkeypatch.setattr("kis_jax.passes.hosts.store.from_first", lambda compute: compute())
    monkeypatch.setattr("kis_jax.passes.hosts.store.each", lambda compute: compute())
    monkeypatch.setattr("kis_jax.passes.hosts.store.share", lambda value: [value])


def saved(rows, batches, complete=False):
    moments = SecondMoment(batches * WHOLE[:, np.array(rows, int)], batches * COUNT)
    return Saved(moments, batches, 64, complete)


def save_all(on_host, rows_of_hosts, saves, missing=()):
    """Each host saves after so many batches; some are gone before the last of these."""
    for host, rows in enumerate(rows_of_hosts):
        store = on_host(host, rows_of_hosts)
        for batches in saves[: len(saves) - (host in missing)]:
            store.save(saved(rows, batches))


@pytest.mark.parametrize("readers", [FOUR, TWO, (list(range(D)),)])
def test_any_number_of_hosts_reads_what_four_have_saved(on_host, readers):
    save_all(on_host, FOUR, [1, 2, 4])
    for host, rows in enumerate(readers):
        found = on_host(host, readers).restore()
        np.testing.assert_array_equal(found.moments.total, 4 * WHOLE[:, np.array(rows, int)])
        np.testing.assert_array_equal(found.moments.count, 4 * COUNT)
        assert (found.batches, found.token_budget, found.complete) == (4, 64, False)


@pytest.mark.parametrize("saves", [[1, 2], [1, 2, 4], [1, 2, 4, 8]])
def test_a_save_that_one_host_missed_does_not_count(on_host, saves):
    save_all(on_host, FOUR, saves, missing=(1, 3))
    for host, rows in enumerate(TWO):
        found = on_host(host, TWO).restore()
        assert found.batches == saves[-2]
        np.testing.assert_array_equal(
            found.moments.total, saves[-2] * WHOLE[:, np.array(rows, int)]
        )


def test_the_next_save_spares_the_one_that_was_read(on_host, tmp_path):
    """Were it missed in turn, that one would be all there is."""
    save_all(on_host, TWO, [1, 2, 4], missing=(1,))
    for host, rows in enumerate(TWO):
        store = on_host(host, TWO)
        assert store.restore().batches == 2
        if host == 0:
            store.save(saved(rows, 6))
    assert on_host(0, TWO).restore().batches == 2


def test_nothing_saved_is_nothing_to_go_on_from(on_host):
    assert on_host(0, TWO).restore() is None
    save_all(on_host, TWO, [1], missing=(1,))
    assert on_host(0, TWO).restore() is None


def test_the_longest_pass_is_taken_whoever_made_it(on_host):
    save_all(on_host, FOUR, [1, 2, 4])
    save_all(on_host, TWO, [5])
    assert on_host(0, FOUR).restore().batches == 5


def test_those_of_another_run_are_refused(on_host):
    save_all(on_host, FOUR, [1])
    with pytest.raises(ValueError, match="those of another: corpus differ; choose another"):
        on_host(0, TWO, IDENTITY | {"corpus": "d"}).restore()


def test_a_flipped_bit_is_seen(on_host, tmp_path):
    save_all(on_host, TWO, [1])
    path = tmp_path / "hosts_00002" / "00001_a.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged .* delete .*hosts_00002 and run again"):
        on_host(1, TWO).restore()


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty"])
def test_a_damaged_save_gives_way_to_the_one_before(on_host, tmp_path, harm):
    """And the next save replaces the damaged one, not that which is whole."""
    save_all(on_host, TWO, [1, 2])
    path = tmp_path / "hosts_00002" / "00001_b.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": content, "cut": content[:-100], "empty": b""}[harm])
    store = on_host(1, TWO)
    found = store.restore()
    assert found.batches == 1
    np.testing.assert_array_equal(found.moments.total, WHOLE[:, np.array(TWO[1], int)])
    store.save(saved(TWO[1], 3))
    with np.load(path) as kept:
        np.testing.assert_array_equal(kept["count"], 3 * COUNT)


def test_no_room_is_one_line_with_what_is_needed(on_host, tmp_path, monkeypatch):
    """And the save before it stays."""
    save_all(on_host, TWO, [1])
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("kis_jax.checkpoints.files.shutil.disk_usage", lambda path: free)
    with pytest.raises(
        ValueError, match="expected room for .* MB to save, found 0.0 MB free; what"
    ):
        on_host(1, TWO).save(saved(TWO[1], 2))
    assert not list(tmp_path.rglob("*.partial*"))
    assert on_host(1, TWO).restore().batches == 1


def test_all_files_are_removed_in_the_end(on_host, tmp_path):
    save_all(on_host, FOUR, [1])
    save_all(on_host, TWO, [1])
    on_host(0, TWO).remove()
    assert list(tmp_path.iterdir()) == []
