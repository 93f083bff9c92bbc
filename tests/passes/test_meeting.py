"""Hosts meet over sockets of this machine; whoever is missing, twice there or lost is named."""

import socket
import threading

import pytest

from kis_jax.passes.hosts import meeting
from kis_jax.passes.hosts.meeting import meet


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name, seconds in (("_PAUSE", 0.02), ("_SPEAKS", 0.5), ("TOLD_EVERY", 0.3), ("_NAMED", 0.2)):
        monkeypatch.setattr(meeting, name, seconds)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def meet_all(*processes, seconds=20.0, tell=lambda line: None, coordinator=None):
    """What becomes of processes, `(count, index)` each: None or a message."""
    coordinator = coordinator or f"localhost:{free_port()}"
    found = [None] * len(processes)

    def run(place):
        count, index = processes[place]
        try:
            meet(coordinator, count, index, seconds=seconds, tell=tell)
        except ValueError as error:
            found[place] = str(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(processes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_all_come_in_any_order_and_the_port_is_free_again():
    coordinator = f"localhost:{free_port()}"
    for _ in range(2):  # at once again, as jax takes the port
        assert meet_all((4, 3), (4, 1), (4, 0), (4, 2), coordinator=coordinator) == [None] * 4


def test_a_host_that_never_comes_is_named_in_time_and_before():
    told = []
    first, second = meet_all((3, 0), (3, 1), seconds=1.0, tell=told.append)
    assert first == second and "expected 3 hosts in 1 s, found none that is host 2 of 3" in first
    assert any(line.startswith("waiting for host 2 of 3 at localhost:") for line in told)


def test_host_0_that_never_comes_is_named():
    told = []
    (line,) = meet_all((2, 1), seconds=0.8, tell=told.append)
    assert line.startswith("--coordinator: expected host 0 at localhost:") and "refused" in line
    assert any(line.startswith("waiting for host 0 of 2 at localhost:") for line in told)


def test_hosts_that_count_differently_all_say_so():
    first, second = meet_all((2, 0), (3, 1))
    assert first == second
    assert first.startswith(
        "--num-hosts: expected the same on every host, found 2 on host 0 and 3 on"
    )


def test_two_of_one_number_are_refused():
    found = meet_all((3, 0), (3, 1), (3, 1))
    assert len(set(found)) == 1
    assert found[0].startswith("--host: expected each number from 0 to 2 once, found 1 of ")


def test_host_0_twice_on_one_machine_finds_its_port_taken():
    coordinator = f"localhost:{free_port()}"
    taken = meeting._listening(coordinator, int(coordinator.rpartition(":")[2]))
    with taken:
        (line,) = meet_all((2, 0), coordinator=coordinator)
    assert line.startswith("--coordinator: expected a free port of this machine, host 0, found")
    assert "--host 0" in line


def test_a_name_that_nobody_knows_is_told_soon():
    for index in (0, 1):
        (line,) = meet_all((2, index), coordinator="no-such-host.invalid:9000")
        assert line.startswith("--coordinator: expected the name or address of host 0, found")


def test_strangers_and_silence_do_no_harm():
    port = free_port()
    with socket.create_server(("localhost", 0)):
        pass
    errors = []

    def disturb():
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"x" * 9000, b'{"kis": "a"}\n', b""):
            try:
                with socket.create_connection(("localhost", port), timeout=5) as connection:
                    connection.sendall(words)
            except OSError as error:  # it has met already
                errors.append(error)

    first = threading.Thread(target=meet, args=(f"localhost:{port}", 2, 0))
    first.start()
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=5).close()
            break
        except ConnectionRefusedError:
            pass
    disturb()
    meet(f"localhost:{port}", 2, 1)
    first.join(20)
    assert not first.is_alive()


def test_a_host_0_that_ends_is_told_of():
    with socket.create_server(("localhost", 0)) as server:
        lost = threading.Thread(target=lambda: server.accept()[0].close())
        lost.start()
        (line,) = meet_all((2, 1), coordinator=f"localhost:{server.getsockname()[1]}")
        lost.join()
    assert line.startswith("--coordinator: expected word from host 0 at localhost:")
