"""`kis mcqa`: errors in one line, an evaluation of a decoder and of a trained encoder."""

import json
import shutil

import pytest

from kis_jax import factlm
from kis_jax.data.puzzles import read_puzzles
from kis_jax.mcqa import scratch as mcqa_scratch
from kis_jax.mcqa.inputs import TrainRequest, open_training
from tests import golden


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    path = tmp_path_factory.mktemp("puzzles") / "few.jsonl"
    path.write_text("".join(factlm.puzzles_path("test").read_text().splitlines(True)[:6]))
    return path


def test_a_decoder_is_evaluated(kis, few, tmp_path):
    out = tmp_path / "out"
    status, printed, error = kis("mcqa", "eval", "factlm", "--puzzles", few, "--out", out)
    assert status == 0, error
    assert printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert {path.name for path in out.iterdir()} == {
        "mcqa.json", "predictions.txt", "predictions_likelihood_without_prior.txt", "report.html",
        "figures",
    }  # fmt: skip
    record = json.loads((out / "mcqa.json").read_text())
    plain, without_prior = record["methods"]
    assert (out / "predictions.txt").read_text().split() == [*map(str, plain["predictions"])]
    puzzles = read_puzzles(few)
    right = [p.answer == taken for p, taken in zip(puzzles, plain["predictions"], strict=True)]
    assert plain["metrics"]["overall"]["mean"] == pytest.approx(sum(right) / 6)
    for row, taken in zip(plain["scores"], plain["predictions"], strict=True):
        assert row.index(max(row)) == taken
    content = {path.name: path.read_bytes() for path in out.glob("*.*")}
    assert kis("mcqa", "eval", "factlm", "--puzzles", few, "--out", out)[0] == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == content
    other = tmp_path / "other"
    kis("mcqa", "eval", "factlm", "--puzzles", few, "--seed", 3, "--out", other)
    found = json.loads((other / "mcqa.json").read_text())["methods"][0]
    assert found["predictions"] == plain["predictions"], "whatever the order they are read in"


def test_a_test_set_without_answers_is_predicted(kis, few, tmp_path):
    kept = [json.loads(line) for line in few.read_text().splitlines()]
    path = tmp_path / "kept.jsonl"
    path.write_text("\n".join(json.dumps(record | {"answer": None}) for record in kept))
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    for name in ("report.html", "predictions_head.txt", "figures/metrics.png"):
        (out / name).write_text("of an earlier evaluation")
    status, printed, error = kis(
        "mcqa", "eval", "factlm", "--puzzles", path, "--no-answers", "--out", out
    )
    assert status == 0, error
    assert printed == f"predictions: {out / 'predictions.txt'}\n"
    assert len((out / "predictions.txt").read_text().splitlines()) == 6
    assert {path.name for path in out.iterdir()} == {
        "mcqa.json", "predictions.txt", "predictions_likelihood_without_prior.txt",
    }, "and nothing that was there before"  # fmt: skip


def test_an_encoder_is_trained_and_evaluated(kis, few, tmp_path, monkeypatch):
    small = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    monkeypatch.setattr(mcqa_scratch, "_SIZES", mcqa_scratch._SIZES | small)
    out = tmp_path / "out"
    arguments = (
        "mcqa", "train", "--train", few, "--validation", few, "--out", out, "--epochs", 1,
        "--batch-size", 6, "--accumulate", 2, "--devices", 1, "--dtype", "bfloat16",
        "--drop-tokens", 0.1,
    )  # fmt: skip
    status, printed, error = kis(*arguments)
    assert status == 0, error
    assert printed.splitlines()[-1] == f"model: {out / 'model'}"
    assert {path.name for path in out.iterdir()} == {
        "model", "start", "progress", "training.json",
    }  # fmt: skip
    arguments_of_eval = (out / "model", "--puzzles", few, "--out", tmp_path / "e")
    status, printed, error = kis("mcqa", "eval", *arguments_of_eval)
    assert status == 0, error
    record = json.loads((tmp_path / "e" / "mcqa.json").read_text())
    assert record["family"] == "bert" and [m["method"] for m in record["methods"]] == ["head"]
    status, _, error = kis(*arguments, "--seed", 1)
    assert status == 2 and "that of another: " in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "factlm", "--puzzles", "nowhere"), "puzzles: expected a .npy or JSON file"),
        (("eval", "factlm", "--prompt", "no question"), "prompt: expected one {}"),
        (("eval", golden.DIRECTORY / "bert"), "expected files of a tokenizer beside the model"),
        (("train", "factlm"), "expected an encoder with a head over choices"),
        (("train", "--epochs", "many"), "epochs: expected a number"),
        (
            ("train", "--batch-size", "3", "--accumulate", "2"),
            "batch_size: expected a positive",
        ),
        (("train", "--epochs", "9" * 20), "epochs: expected one positive number"),
        (("train", "--seed", "-1"), "'--seed'"),
        (("train", "--seed", "9" * 20), "'--seed'"),
        (("train", "--dtype", "float8"), "'float8' is not one of"),
    ],
)
def test_what_is_wrong_is_one_line(kis, tmp_path, arguments, message):
    status, printed, error = kis("mcqa", *arguments, "--out", tmp_path / "out")
    assert status == 2 and printed == ""
    assert message in error and error.startswith("kis: error: ") and error.count("\n") == 1


def test_an_encoder_without_a_trained_head_is_not_evaluated(kis, few, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(golden.DIRECTORY / "bert", model)
    shutil.copy(factlm.model_directory() / "tokenizer.json", model)
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    status, _, error = kis("mcqa", "eval", model, "--puzzles", few, "--out", tmp_path / "out")
    assert status == 2 and "found no bert.pooler.dense.weight" in error
    assert "train one with kis mcqa train" in error


def test_an_output_folder_with_other_things(kis, few, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for command in (("train",), ("eval", "factlm", "--puzzles", few)):
        status, _, error = kis("mcqa", *command, "--out", tmp_path)
        assert status == 2 and "thesis.tex" in error
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_training_does_not_replace_a_model_that_it_did_not_make(kis, few, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    status, _, error = kis("mcqa", "train", "--train", few, "--out", tmp_path)
    assert status == 2 and "found model" in error and "name a new one" in error
    (tmp_path / "training.json").write_text("{}")
    status, _, error = kis("mcqa", "train", model, "--train", few, "--out", tmp_path)
    assert status == 2 and "which training would replace" in error
    assert [path.name for path in model.iterdir()] == ["config.json"]


def test_a_batch_has_no_more_rows_than_its_puzzles_fill(few, tmp_path):
    request = TrainRequest("scratch", (str(few),), batch_size=4096, accumulate=4, devices=1)
    inputs = open_training(request, tmp_path / "start")
    assert inputs.rows(6) == 8 and inputs.rows(9000) == 4096
