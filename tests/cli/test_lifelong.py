"""`kis lifelong` on the embedded model, target values made up to take no time."""

import dataclasses
import json
from pathlib import Path

import pytest

from kis_jax import factlm
from kis_jax.cli import options
from kis_jax.lifelong.inputs import open_lifelong
from tests.lifelong.lifelong_runs import no_search, request

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
        (("--method", "magic"), "method: expected one of rome"),
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


@pytest.mark.slow
def test_a_model_writes_its_own_text(kis, tmp_path, monkeypatch):
    monkeypatch.setenv("KIS_CACHE", str(tmp_path / "cache"))
    words = ("--corpus", "self", "--num-documents", 60, "--num-held-out", 3, "--layer", 2)
    words += ("--steps", "1", "--method", "sequential", "--num-others", 4)
    status, printed, error = kis("lifelong", "--out", tmp_path / "out", *words)
    assert status == 0, error
    assert "the model knows 1 of 1 fact" in printed
    record = json.loads((tmp_path / "out" / "lifelong.json").read_text())
    assert record["held_out_documents"] == 3 and record["facts"][0]["known"] is True
    # What is held out stands elsewhere than what is counted.
    assert {path.name for path in (tmp_path / "cache").rglob("*.json")} == {
        "00000.json", f"{2**24 // 128}.json",
    }  # fmt: skip


def test_without_options_a_model_of_ones_own_has_facts_and_text():
    assert options.facts_and_corpus("here", None, None) == ("world", "self")
    assert options.facts_and_corpus("here", "mine.json", "text.txt") == ("mine.json", "text.txt")


def test_steps_that_there_are_facts_for(tmp_path):
    facts = json.loads((Path(factlm.__file__).parent / "facts.json").read_text())[:25]
    (tmp_path / "few.json").write_text(json.dumps(facts))
    few = dataclasses.replace(request(steps=None), facts=str(tmp_path / "few.json"))
    inputs = open_lifelong(few)
    assert inputs.steps == (1, 2, 5, 10, 20) and len(inputs.facts) == 20


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


@pytest.mark.slow
def test_methods_answer_to_the_names_of_the_literature(lifelong, tmp_path):
    """By command, and of a request in Python: the same record to the last bit."""
    own, theirs = "constrained,batch,null-space", "emmet,memit,alphaedit"
    for names, out in ((own, "own"), (theirs, "theirs")):
        status, _, error = lifelong("--out", tmp_path / out, *SMALL, "--method", names)
        assert status == 0, error
    files = (tmp_path / out / "lifelong.json" for out in ("own", "theirs"))
    one, other = (json.loads(path.read_text()) for path in files)
    assert [method["method"] for method in other["methods"]] == own.split(",")
    assert one == other
    asked = request(steps=(1,), methods=("emmet", "sequential", "constrained"))
    assert open_lifelong(asked).request.methods == ("constrained", "sequential")
    with pytest.raises(ValueError, match="method: expected one of rome, .* found 'magic'"):
        open_lifelong(request(steps=(1,), methods=("magic",)))
