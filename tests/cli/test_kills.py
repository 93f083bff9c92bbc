"""A signal at a chosen moment of a run; after SIGKILL the same command gives the same bits."""

import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kis_jax import factlm
from kis_jax.data.puzzles import VARIANTS

pytestmark = pytest.mark.slow

# Started as a user starts it, but for the moment at which it ends itself, as `kill -9` would: at a
# call of a function, "before" or "after" it, or as soon as there is a "file" of some name.
PROGRAM = """
import functools, importlib, itertools, os, signal, sys, threading, time
from pathlib import Path

when, place, number, *words = sys.argv[1:]
when, _, by = when.partition(" ")
kill = functools.partial(os.kill, os.getpid(), getattr(signal, by or "SIGKILL"))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
calls = itertools.count(1)

if when == "file":
    def look():
        while not list(Path(number).rglob(place)):
            time.sleep(1e-4)
        kill()
    threading.Thread(target=look, daemon=True).start()
elif when != "never":
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function = getattr(owner, name)

    @functools.wraps(function)
    def watched(*arguments, **named):
        this = next(calls) == int(number)
        if this and when == "before":
            kill()
        found = function(*arguments, **named)
        if this and when == "after":
            kill()
        return found

    setattr(owner, name, watched)

sys.argv = ["kis", *words]
if words[0] == "lifelong":  # target values that take no search
    from kis_jax.lifelong import targets
    from tests.lifelong.lifelong_runs import made_up_targets

    targets.target_values = made_up_targets
if words[0] == "mcqa":  # a model that takes no time
    from kis_jax.mcqa import scratch

    scratch._SIZES |= {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
from kis_jax.cli import main
main()
"""
STORE = "kis_jax.passes.store:MomentStore"
LIFE = "kis_jax.lifelong.store:LifelongStore"
TRAINING = "kis_jax.mcqa.store:TrainingStore"
STARTS = int(os.environ.get("KIS_TEST_STARTS", "4"))  # of two runs in one folder
REFUSED = (
    r"out: expected a folder that no other run writes into, found that of (another process|process "
    r"\d+ on \S+); wait for its end, or choose another folder$"
)
PASS = ("--layers", "1,4", "--num-facts", "3", "--facts", "factlm", "--document-length", "8")
COMMANDS = {
    "scan": ("scan", "factlm", *PASS, "--save-every", "0"),
    "small": ("scan", "factlm", *PASS, "--layers", "1", "--num-documents", "300"),
    "streamed": ("scan", "factlm", *PASS, "--layers", "all", "--stream"),
    "stats": ("stats", "collect", "factlm", "--document-length", "8", "--save-every", "0"),
    "edit": (
        *("edit", "factlm", "--facts", "factlm", "--layer", "2", "--num-facts", "2"),
        *("--num-documents", "300", "--document-length", "8"),
    ),
    "lifelong": (
        *("lifelong", "factlm", "--facts", "factlm", "--layer", "2", "--steps", "1,3"),
        *("--method", "sequential,batch", "--num-documents", "300", "--num-held-out", "5"),
        *("--num-others", "5", "--document-length", "8"),
    ),
    "mcqa": ("mcqa", "train", "scratch", "--epochs", "4", "--batch-size", "8", "--devices", "1"),
}
MOMENTS = [
    # Between two saves; while one is written, its file there and not yet named by any; after one.
    ("scan", "after", f"{STORE}._write", 8),
    ("streamed", "before", f"{STORE}.add", 3),
    ("streamed", "after", f"{STORE}._write", 4),
    ("stats", "after", f"{STORE}.save", 2),
    ("edit", "after", f"{STORE}.save", 1),
    ("edit", "before", "kis_jax.checkpoints.ledger_file:save_ledger", 1),
    ("lifelong", "before", f"{LIFE}.save", 3),
    ("lifelong", "after", "numpy:savez", 3),
    ("mcqa", "file", "2.*tmp*", None),
    ("mcqa", "before", f"{TRAINING}.save", 3),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A corpus of several batches, and puzzles of one length."""
    folder = tmp_path_factory.mktemp("inputs")
    lines = [line for line in factlm.corpus_path().read_text().splitlines() if len(line) > 40]
    (folder / "corpus.txt").write_text("\n".join(lines[:700]) + "\n")
    words = "oak elm ash fir yew".split()
    puzzles = (
        {
            "id": f"{group}-{variant}", "group": f"g{group}", "variant": variant,
            "question": f"Not {words[group % 5]}, {variant} {words[group % 4]}?",
            "choices": words[:4], "answer": (group * 7 + place) % 4,
        }
        for group in range(8)
        for place, variant in enumerate(VARIANTS)
    )  # fmt: skip
    (folder / "puzzles.jsonl").write_text("\n".join(map(json.dumps, puzzles)))
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of all processes here: one device, products in one order, programs compiled once."""
    return {
        **os.environ,
        "XLA_FLAGS": "",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.getcwd(),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }


def words_of(name, inputs):
    """The command, but for its folder."""
    file = inputs / "puzzles.jsonl"
    of_mcqa = ("--train", file, "--validation", file)
    return map(
        str,
        (*COMMANDS[name], *(of_mcqa if name == "mcqa" else ("--corpus", inputs / "corpus.txt"))),
    )


@pytest.fixture(scope="module")
def start(inputs, environment):
    """Starts a command in a process; gives that."""

    def started(name, out, *moment):
        moment = [str(part) for part in moment or ("never", "", "")]
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            *moment,
            *words_of(name, inputs),
            "--out",
            str(out),
        ]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, **pipe)

    return started


def finished(process):
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """The folder of an undisturbed run of a command."""
    folders = {}

    def of(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "out"
            finished(start(name, folders[name]))
        return folders[name]

    return of


def contents(out):
    """What a run left: the bytes of each file that does not tell the time, numbers as such."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if "progress/" in name and not path.name.endswith(".npz"):  # of orbax, which tells the time
            continue
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{name}:{key}": arrays[key].tobytes() for key in arrays.files}
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def assert_the_same(out, undisturbed):
    found, expected = contents(out), contents(undisturbed)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not list(out.parent.glob(".out.lock")) and not list(out.rglob(".*.partial*"))


@pytest.mark.parametrize(("name", "when", "place", "number"), MOMENTS)
def test_a_killed_run_ends_with_the_same_bits(name, when, place, number, whole, start, tmp_path):
    out = tmp_path / "out"
    process = start(name, out, when, place, out if number is None else number)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, printed
    assert list(tmp_path.iterdir()), "something was saved"
    finished(start(name, out))
    assert_the_same(out, whole(name))


@pytest.mark.parametrize(
    ("name", "by", "place", "number"),
    [
        ("scan", "SIGTERM", f"{STORE}.save", 2),
        ("streamed", "SIGINT", f"{STORE}.add", 3),
        ("stats", "SIGTERM", f"{STORE}.save", 2),
        ("edit", "SIGINT", f"{STORE}.save", 1),
        ("lifelong", "SIGTERM", f"{LIFE}.save", 3),
        ("mcqa", "SIGTERM", f"{TRAINING}.save", 2),
    ],
)
def test_a_signal_in_the_middle_is_one_line(name, by, place, number, start, tmp_path):
    """That says what stopped it, and how it goes on."""
    process = start(name, tmp_path / "out", f"after {by}", place, number)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == {"SIGTERM": 143, "SIGINT": 130}[by], printed
    lines = [line for line in printed.splitlines() if line.startswith("kis: ")]
    assert len(lines) == 1 and "Traceback" not in printed, printed
    said = {"SIGTERM": "kis: stopped by SIGTERM", "SIGINT": "kis: interrupted"}[by]
    assert lines[0].startswith(said) and "the same command goes on " in lines[0]
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.rglob("*.partial*"))


# As PROGRAM, but runs are forks of a process that has imported what they need, which is half of a
# small run's time. A line of input is a folder, and for each run when it starts; of output, how
# each of them ended.
FORKS = """
import importlib, os, sys, time

for module in ("matplotlib.figure", "kis_jax.cli.measuring", "kis_jax.passes.hosts.opening",
               "kis_jax.passes.measuring", "kis_jax.passes.scores.recall", "kis_jax.scan.command",
               "kis_jax.scan.page", "kis_jax.scan.run"):
    importlib.import_module(module)
from kis_jax.cli import main

def run(out, number, wait):
    time.sleep(wait)
    os.dup2(os.open(f"{out}-printed-{number}", os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    sys.argv = ["kis", *sys.argv[1:], "--out", out]
    main()  # which ends by `sys.exit`

for line in sys.stdin:
    out, *waits = line.split()
    runs = []
    for number, wait in enumerate(waits):
        runs.append(os.fork())
        if not runs[-1]:
            run(out, number, float(wait))
    print(*[os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in runs], flush=True)
"""


@pytest.fixture
def forked(inputs, environment):
    """Runs scans that write one folder, each after so many seconds; gives statuses and words."""
    command = [sys.executable, "-c", FORKS, *words_of("small", inputs)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as server:

        def run(out, *waits):
            out.parent.mkdir()
            print(out, *waits, file=server.stdin, flush=True)
            statuses = map(int, server.stdout.readline().split())
            printed = (Path(f"{out}-printed-{number}").read_text() for number in range(len(waits)))
            return list(zip(statuses, printed, strict=True))

        yield run
        server.stdin.close()


def test_of_two_in_one_folder_one_goes_through(forked, tmp_path):
    """The other is refused by name, or comes when the first has ended, and finds its work done.

    Half of them start within 50 ms of each other, half anywhere in the other's time or after it.
    """
    draw, undisturbed = random.Random(0), tmp_path / "undisturbed" / "out"
    begun, ends = time.monotonic(), collections.Counter()
    assert [status for status, _ in forked(undisturbed, 0)] == [0]
    span = time.monotonic() - begun  # compiling included
    for number in range(STARTS):
        out = tmp_path / str(number) / "out"
        wait = draw.random() * (1.2 * span if number % 2 else 0.05)
        begun = time.monotonic()
        ended = forked(out, 0, wait)
        span = min(span, time.monotonic() - begun)  # of one run, or more
        statuses = sorted(status for status, _ in ended)
        assert statuses in ([0, 2], [0, 0]), (wait, ended)
        for status, printed in ended:
            assert "Traceback" not in printed
            told = [line for line in printed.splitlines() if line.startswith("kis: ")]
            if status == 2:
                assert len(told) == 1 and re.search(REFUSED, told[0]), printed
            else:
                assert not told, printed
        assert_the_same(out, undisturbed)
        shutil.rmtree(out.parent)
        ends["refused" if 2 in statuses else "found the work done"] += 1
    print(f"of {STARTS} that came second: {dict(ends)}; the shortest took {span:.1f} s")
    assert ends["refused"] >= STARTS // 2
