"""Several processes on this machine, each started as a user starts it on a host of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from kis_jax import factlm

pytestmark = pytest.mark.slow

PROGRAM = "from kis_jax.cli import main; main()"
# A host is taken for dead after five seconds of silence, not twenty.
IMPATIENT = f"from kis_jax.passes.hosts import heartbeat; heartbeat.SILENT_SECONDS = 5; {PROGRAM}"
# Whoever started the tests may have had them ignore Ctrl-C, as a shell's background does.
INTERRUPTED = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + IMPATIENT
)
SCAN = ("--num-facts", "3", "--layers", "1,4", "--document-length", "8")
# One device each; programs that one process has compiled are there for the next.
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def start(out, hosts, *options, program=PROGRAM, command=("scan", "factlm", *SCAN), own=((),) * 4):
    """Starts one process for each host; all of them print to files of their own.

    Those of `options` all hosts are given, of `own` one each.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for host in range(hosts):
        cluster = ("--coordinator", f"localhost:{port}", "--num-hosts", str(hosts))
        words = [*command, *cluster, "--host", str(host), "--out", str(out), *options, *own[host]]
        with (out.parent / f"{out.name}_{host}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", program, *words],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=ENVIRONMENT,
                )
            )
    return processes


def log_of(out, host):
    return (out.parent / f"{out.name}_{host}.log").read_text()


def finish(out, processes):
    try:
        for host, process in enumerate(processes):
            assert process.wait(timeout=300) == 0, log_of(out, host)
    finally:
        end(processes)


def end(processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    ENVIRONMENT["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    lines = [line for line in factlm.corpus_path().read_text().splitlines() if len(line) > 90]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(lines[:1100] * 8))  # ten batches: saves after 1, 2, 4, 8 and all
    return path


def assert_same(out, alone):
    for name in ("layer_001.npz", "layer_004.npz"):
        with np.load(out / name) as found, np.load(alone / name) as expected:
            for array in ("superposition", "keys", "gram"):
                np.testing.assert_allclose(
                    found[array], expected[array], rtol=1e-5, atol=1e-5, err_msg=array
                )
    found, expected = (json.loads((path / "scan.json").read_text()) for path in (out, alone))
    assert found["token_count"] == expected["token_count"]
    assert found["second_moment_convergence"], "looked at on many hosts as on one"
    for one, other in zip(found["layers"], expected["layers"], strict=True):
        assert one["kurtosis"] == pytest.approx(other["kurtosis"], rel=1e-4)
    assert not list(out.glob("second_moments/hosts_*")), "all is in one file in the end"


def ours(out):
    """What each of two hosts said of its end; no other program has a word."""
    logs = [log_of(out, host) for host in (0, 1)]
    assert not any("Traceback" in log for log in logs), logs
    return [[line for line in log.splitlines() if line.startswith("kis: ")] for log in logs]


def wait_until_saved(out, processes):
    """Waits until all hosts have saved; then they are in the middle of the pass."""
    hosts = len(processes)
    last = out / "second_moments" / f"hosts_{hosts:05d}" / f"{hosts - 1:05d}_a.npz"
    deadline = time.monotonic() + 300
    while not last.exists() and time.monotonic() < deadline:
        assert processes[0].poll() is None, log_of(out, 0)
        time.sleep(0.02)


def ended(processes, hosts, *, within):
    """Exit statuses of some hosts, which they must have in time."""
    deadline = time.monotonic() + within
    return [processes[host].wait(deadline - time.monotonic()) for host in hosts]


def test_hosts_that_die_hang_or_are_told_to_stop_and_any_number_goes_on(tmp_path, corpus, kis):
    """One of four is killed, and they end; one of two gets SIGTERM, both save; two finish."""
    out = tmp_path / "out"
    options = ("--facts", "factlm", "--corpus", str(corpus), "--model-axis", "2")
    processes = start(out, 4, *options, "--save-every", "0", program=IMPATIENT)
    try:
        wait_until_saved(out, processes)
        processes[2].send_signal(signal.SIGKILL)
        assert 0 not in ended(processes, (0, 1, 3), within=60)
    finally:
        end(processes)
    # In a collective with it, or by its silence.
    assert any("the other hosts, found" in log_of(out, host) for host in (0, 1, 3))
    assert not (out / "scan.json").exists()

    processes = start(out, 2, *options, "--save-every", "0")
    try:
        wait_until_saved(out, processes)
        processes[1].send_signal(signal.SIGTERM)
        assert ended(processes, (0, 1), within=60) == [143, 143]
    finally:
        end(processes)
    assert "stopped by SIGTERM: second moments over" in log_of(out, 0)

    finish(out, start(out, 2, *options))
    assert log_of(out, 0).count("report: ") == 1 and "report: " not in log_of(out, 1)

    alone = tmp_path / "alone"
    status, _, error = kis("scan", "factlm", *SCAN, *options[:4], "--out", alone)
    assert status == 0, error
    assert_same(out, alone)


def test_a_host_that_hangs_ends_the_others(tmp_path, corpus):
    """SIGSTOP leaves its connections open: only its silence tells."""
    out = tmp_path / "out"
    options = ("--facts", "factlm", "--corpus", str(corpus), "--save-every", "0")
    processes = start(out, 2, *options, program=IMPATIENT)
    try:
        wait_until_saved(out, processes)
        processes[1].send_signal(signal.SIGSTOP)
        assert ended(processes, (0,), within=30) == [1]
    finally:
        end(processes)
    assert "error: process 0 of 2: expected to hear from the other" in log_of(out, 0)
    assert "found process 1 silent" in log_of(out, 0)


def test_an_interrupt_on_one_host_is_one_line_on_each(tmp_path, corpus):
    """And what was saved is there: the same command goes on."""
    out = tmp_path / "out"
    options = ("--facts", "factlm", "--corpus", str(corpus), "--save-every", "0")
    processes = start(out, 2, *options, program=INTERRUPTED)
    try:
        wait_until_saved(out, processes)
        processes[1].send_signal(signal.SIGINT)
        assert ended(processes, (1, 0), within=60) == [130, 1]
    finally:
        end(processes)
    first, second = ours(out)
    assert second == [
        "kis: interrupted on process 1 of 2, which ends the others; the same command on every "
        "host goes on from what was saved last"
    ]
    assert len(first) == 1 and first[0].startswith("kis: error: process 0 of 2: expected to ")
    assert "devices: 2 processes x 1 x cpu, 2 copies of the model on 1 each;" in log_of(out, 0)


@pytest.mark.parametrize(("host", "place"), [(0, "store"), (1, "hosts.store")])
def test_a_host_whose_disk_is_full_ends_all_with_the_same_line(tmp_path, corpus, host, place):
    """In the middle of the pass, where each saves its rows, and at its end, where one saves all."""
    out = tmp_path / "out"
    module, _, name = f"kis_jax.passes.{place}".rpartition(".")
    full = (
        f"import sys; from {module} import {name} as place; room_for = place.room_for\n"
        f"if '--host {host} ' in ' '.join(sys.argv):\n"
        "    place.room_for = lambda folder, size: room_for(folder, 10**30)\n"
    )
    options = ("--facts", "factlm", "--corpus", str(corpus), "--num-documents", "3000")
    processes = start(out, 2, *options, "--save-every", "0", program=full + PROGRAM)
    try:
        assert ended(processes, (0, 1), within=300) == [2, 2], log_of(out, 0) + log_of(out, 1)
    finally:
        end(processes)
    first, second = ours(out)
    assert first == second and len(first) == 1
    assert first[0].startswith(f"kis: error: host {host}: ")
    assert "MB to save, found " in first[0] and "the same command goes on" in first[0]
    assert not (out / "scan.json").exists()


def test_hosts_that_were_asked_differently_end_with_the_same_line(tmp_path, corpus):
    """Once one reads another text, once one was given another option."""
    out = tmp_path / "out"
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text() + "one more\n")
    own = [("--corpus", str(corpus)), ("--corpus", str(other))]
    for options, name in ((own, "contents of --corpus"), ([(), ("--ridge", "0.1")], "--ridge")):
        processes = start(out, 2, command=("stats", "collect", "factlm"), own=options)
        try:
            assert ended(processes, (0, 1), within=120) == [2, 2]
        finally:
            end(processes)
        first, second = (log_of(out, host).splitlines()[-1] for host in (0, 1))
        assert first == second
        assert first.startswith(f"kis: error: {name}: expected the same on every host, found ")
        assert not out.exists()
