"""Hosts that fall silent are noticed; those that are slow, done or alone are left in peace."""

import threading
import time

import jax
import pytest

from kis_jax.passes.hosts import heartbeat
from kis_jax.passes.hosts.heartbeat import Heartbeat, heard_by_the_others


class Board:
    """A coordination service in one process; it may stop to answer, or fail."""

    def __init__(self):
        self.words, self.answers, self.broken = {}, threading.Event(), False
        self.answers.set()

    def key_value_set(self, key, value, allow_overwrite=False):
        self.answers.wait()
        if self.broken:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: nobody is there")
        assert allow_overwrite
        self.words[key] = value

    def key_value_dir_get(self, key):
        self.answers.wait()
        return [(name, word) for name, word in self.words.items() if name.startswith(key)]


@pytest.fixture
def hosts(monkeypatch):
    """Three hosts whose second is short, and what each found silent."""
    monkeypatch.setattr(heartbeat, "_SECOND", 0.02)
    board, found = Board(), {}
    hosts = [
        Heartbeat(board, i, 3, lambda silent, i=i: found.update({i: silent}), silent_seconds=25)
        for i in range(3)
    ]
    for host in hosts:
        host.start()
    yield board, hosts, found
    board.answers.set()
    for host in hosts:
        host.stop()


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_hosts_that_beat_or_are_done_are_not_silent(hosts):
    _, (*_, last), found = hosts
    last.stop()
    time.sleep(1.2)
    assert not found


def test_a_silent_host_is_named_by_the_others(hosts):
    _, (_, _, last), found = hosts
    last._stopped.set()  # as if the process were stopped: no word, not even that it is done
    assert wait_for(lambda: found.keys() >= {0, 1})
    assert found == {0: 2, 1: 2}


def test_who_hears_nothing_at_all_misses_process_0(hosts):
    board, _, found = hosts
    board.answers.clear()
    assert wait_for(lambda: len(found) == 3)
    assert found == {0: 0, 1: 0, 2: 0}


def test_a_board_that_fails_is_no_answer(hosts):
    board, _, found = hosts
    board.broken = True
    assert wait_for(lambda: len(found) == 3)
    assert set(found.values()) == {0}


def test_a_process_alone_hears_nobody():
    before = threading.active_count()
    with heard_by_the_others():
        assert threading.active_count() == before
