"""Hosts of a run in one process: threads that share what stands for jax's coordinator."""

import threading

from kis_jax.passes.hosts.agreement import agree
from kis_jax.passes.hosts.board import Seat


class FakeBoard:
    """A key-value store as jax's coordinator keeps it."""

    def __init__(self):
        self.words, self.lock = {}, threading.Lock()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.lock:
            assert allow_overwrite or key not in self.words, f"{key} is there already"
            self.words[key] = value

    def key_value_dir_get(self, key):
        with self.lock:
            return [(name, word) for name, word in self.words.items() if name.startswith(key)]


def agree_on(subject, *states, seconds=20.0, tell=lambda line: None, absent=()):
    """What each host ends with, None or a message; `states` are what hosts say, or functions."""
    board, found = FakeBoard(), [None] * len(states)

    def run(host):
        state = states[host]
        say = state if callable(state) else lambda: state
        place = Seat(board, host, len(states))
        try:
            agree(subject, say, seat=lambda: place, seconds=seconds, tell=tell)
        except ValueError as error:
            found[host] = str(error)

    present = [host for host in range(len(states)) if host not in absent]
    threads = [threading.Thread(target=run, args=(host,)) for host in present]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found
