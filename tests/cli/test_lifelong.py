"""`kis lifelong` on the embedded model, target values made up to take no time."""

import json

import pytest

from tests.lifelong.lifelong_runs import no_search

SMALL = (
    "--layer", 2, "--steps", "1,3", "--method", "sequential,constrained", "--num-documents", 400,
    "--num-held-out", 12, "--num-others", 30, "--most-evaluated", 4,
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    no_search(monkeypatch)


@pytest.fixture(scope="module")
def second_moments(tmp_path_factory):
    return tmp_path_factory.mktemp("moments") / "second_moments"


@pytest.fixture
def lifelong(kis, second_moments):
    return lambda *arguments: kis("lifelong", "--second-moments", second_moments, *arguments)


def test_the_whole_run_and_the_same_again(lifelong, tmp_path):
    out = tmp_path / "out"
    status, printed, error = lifelong("--out", out, *SMALL)
    assert status == 0, error
    assert {path.name for path in out.iterdir()} == {
        "lifelong.json", "report.html", "figures", "progress",
    }  # fmt: skip
    assert "sequential" in printed and printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    content = {path.name: path.read_bytes() for path in out.glob("*.*")}
    record = json.loads(content["lifelong.json"])
    assert [point["edits"] for point in record["methods"][0]["checkpoints"]] == [1, 3]
    assert record["layer"] == 2 and record["settings"]["method"] == ["sequential", "constrained"]
    assert set(record["fingerprints"]) == {"model", "tokenizer", "corpus", "facts"}
    assert all(fact["failure"] is None for fact in record["facts"])
    (out / "lifelong.json").unlink()
    assert lifelong("--out", out, *SMALL)[0] == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == content
    status, _, error = lifelong("--out", out, *SMALL, "--ridge", 0.5)
    assert status == 2 and "found those of another: ridge differ" in error
    assert (out / "lifelong.json").read_bytes() == content["lifelong.json"], "nothing was lost"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "one"), "steps: expected numbers of edits such as 1,10,100, found 'one'"),
        (("--method", "magic"), "methods: expected all, or some of"),
        (("--layer", 6), "layers: expected all, a list"),
        (("--steps", 2000), "steps: expected at most 1022 edits"),
        (("--targets", "guessed"), "'guessed' is not one of"),
        (("--held-out", "nowhere.txt"), "corpus: expected"),
    ],
)
def test_bad_options_are_one_line(lifelong, tmp_path, arguments, message):
    status, printed, error = lifelong("--out", tmp_path / "out", *SMALL, *arguments)
    assert status == 2 and printed == ""
    assert message in error and error.startswith("kis: error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_needs_its_own_corpus(lifelong, tmp_path):
    status, _, error = lifelong(tmp_path, "--out", tmp_path / "out")
    assert status == 2 and "--corpus: needed with a model" in error


def test_an_output_folder_with_other_things(lifelong, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    status, _, error = lifelong("--out", tmp_path, *SMALL)
    assert status == 2 and "that of a lifelong run, found other files" in error


def test_an_encoder_has_nothing_to_edit(lifelong, tmp_path):
    from kis_jax import factlm
    from tests import golden

    name = next(name for name in golden.NAMES if "distilbert" in name)
    status, _, error = lifelong(
        golden.DIRECTORY / name, "--facts", factlm.facts_path(), "--corpus", factlm.corpus_path(),
        "--out", tmp_path / "out", *SMALL,
    )  # fmt: skip
    assert status == 2 and error.count("\n") == 1


def test_the_help_says_what_each_method_does(kis):
    status, printed, _ = kis("lifelong", "--help")
    text = " ".join(printed.replace("│", " ").split())
    assert status == 0
    for words in ("sequential: the paper", "keys of earlier ones kept", "finetune: gradient steps"):
        assert words in text
