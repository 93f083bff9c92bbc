"""`kis stats` and `kis scan --stream` as a user runs them, killed at random moments among it."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kis_jax import factlm

SMALL = ("--num-facts", 16, "--layers", "2", "--num-documents", 150)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    from kis_jax.cli import main

    out = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["kis", "scan", "--out", str(out), *map(str, SMALL)])
        with pytest.raises(SystemExit, match="0"):
            main()
    return out


def test_a_streamed_scan_writes_the_files_of_a_plain_one(plain, kis, tmp_path):
    out = tmp_path / "streamed"
    status, printed, error = kis("scan", "--out", out, *SMALL, "--stream", "--memory", "1.5GB")
    assert status == 0, error
    assert "stream: 6 layers of" in error and "memory: " in error and "disk: " in error
    assert {path.name for path in out.iterdir()} == {path.name for path in plain.iterdir()}
    with np.load(plain / "layer_002.npz") as a, np.load(out / "layer_002.npz") as b:
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_allclose(b[name], a[name], rtol=1e-5, atol=1e-5, err_msg=name)
    a, b = (json.loads((folder / "scan.json").read_text()) for folder in (plain, out))
    assert a.keys() == b.keys() and a["token_count"] == b["token_count"]
    for name in ("mean", "std", "kurtosis", "max", "condition"):
        np.testing.assert_allclose(b["layers"][0][name], a["layers"][0][name], rtol=1e-4)
    # Other commands take its second moments; without --stream the same scan is complete.
    assert kis("scan", "--out", out, *SMALL)[0] == 0
    again = json.loads((out / "scan.json").read_text())
    assert again["layers"][0]["kurtosis"] == b["layers"][0]["kurtosis"]
    # And those of a plain scan serve a streamed one, once they are whole.
    copied = shutil.copytree(plain, tmp_path / "copied")
    assert kis("scan", "--out", copied, *SMALL, "--stream")[0] == 0
    about = copied / "second_moments" / "layers.json"
    about.write_text(about.read_text().replace('"complete": true', '"complete": false'))
    status, _, error = kis("scan", "--out", copied, *SMALL, "--stream")
    assert status == 2 and "of one without --stream; go on without it" in error


def test_options_that_make_no_sense(kis, tmp_path):
    status, _, error = kis("scan", "--out", tmp_path / "a", "--memory", "3GB")
    assert status == 2 and "memory: only --stream" in error
    status, _, error = kis("scan", "--out", tmp_path / "a", "--stream", "--memory", "100MB")
    assert status == 2 and "memory: expected at least" in error
    status, _, error = kis("scan", "--out", tmp_path / "a", "--until", "7")
    assert status == 2 and "until: expected a relative error between 0 and 1" in error
    status, _, error = kis("stats", "collect", factlm.model_directory(), "--out", tmp_path / "a")
    assert status == 2 and "--corpus: needed with a model" in error
    status, _, error = kis("stats", "show", tmp_path / "nowhere")
    assert status == 2 and "expected a folder of second moments" in error


def test_collect_merge_show_export_import(kis, tmp_path):
    lines = factlm.corpus_path().read_text().splitlines()
    for name, part in (("a", lines[:60]), ("b", lines[60:120])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part))
        status, printed, error = kis(
            "stats", "collect", "--corpus", tmp_path / f"{name}.txt", "--out", tmp_path / name
        )
        assert status == 0, error
        assert printed.splitlines()[-1] == f"second moments: {tmp_path / name}"
    assert kis("stats", "merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "ab")[0] == 0
    status, printed, _ = kis("stats", "show", tmp_path / "ab", "--json")
    shown = json.loads(printed)
    counts = [
        json.loads(kis("stats", "show", tmp_path / name, "--json")[1])["layers"][3]["tokens"]
        for name in "ab"
    ]
    assert [line["tokens"] for line in shown["layers"]] == 6 * [sum(counts)]
    status, printed, error = kis(
        "stats", "export", tmp_path / "ab", "--model", "factlm", "--out", tmp_path / "rome"
    )
    assert status == 0, error
    files = printed.splitlines()
    assert len(files) == 6 and all(Path(file).is_file() for file in files)
    status, printed, error = kis(
        "stats", "import", files[3], "--model", "factlm", "--out", tmp_path / "back"
    )
    assert status == 0 and printed.splitlines()[-1] == f"second moments: {tmp_path / 'back'}"
    shown = json.loads(kis("stats", "show", tmp_path / "back", "--json")[1])
    assert [line["layer"] for line in shown["layers"]] == [3]


def test_until_ends_a_pass_before_the_corpus_does(kis, tmp_path, monkeypatch):
    from kis_jax.passes import inputs

    monkeypatch.setattr(inputs, "token_budget", lambda config: 256)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(factlm.corpus_path().read_text().splitlines()[:400]))
    out = tmp_path / "out"
    status, _, error = kis(
        "stats", "collect", "--corpus", text, "--until", 0.4, "--out", out,
        "--facts", "factlm", "--num-facts", 8, "--layers", 1, "--ridge", 0.001,
    )  # fmt: skip
    assert status == 0, error
    shown = json.loads(kis("stats", "show", out, "--json")[1])
    *_, last = looks = shown["convergence"]
    assert shown["complete"] and len(looks) >= 2
    assert last["tokens"] < 18_000, "the whole corpus has 21,036"
    assert max(last["error"]) <= 0.4
    before, after = (one["kurtosis"]["1"] for one in looks[-2:])
    assert abs(after - before) <= 0.4 * max(abs(after), 1)
    status, _, error = kis("stats", "collect", "--corpus", text, "--out", out)
    assert status == 2 and "until" in error, "it is not taken for the whole corpus"


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--save-every", "0"), ("--stream", "--memory", "1.2GB")])
def test_kill_9_at_random_moments_leaves_no_trace(plain, tmp_path, options):
    """Two of the twenty of scripts/kill_study.py, which is not run here as it takes minutes."""
    command = [Path(sys.executable).parent / "kis", "scan", *map(str, SMALL), *options]
    undisturbed, killed = tmp_path / "a", tmp_path / "b"
    subprocess.run([*command, "--out", undisturbed], check=True, capture_output=True, timeout=120)
    chance = random.Random(0)
    for _ in range(2):
        with subprocess.Popen(
            [*command, "--out", killed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(chance.uniform(3, 8))
            process.send_signal(signal.SIGKILL)
    subprocess.run([*command, "--out", killed], check=True, capture_output=True, timeout=120)
    for name in ("scan.json", "layer_002.npz"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert not [path for path in killed.rglob("*.partial*")]
