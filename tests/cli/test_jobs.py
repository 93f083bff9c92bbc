import json

import pytest
import typer.testing

from kis_jax.cli import jobs
from kis_jax.cli.jobs import Job, in_own_process, in_this_process, run_job
from scripts import reproduce_paper


def test_a_job_that_is_done_is_not_run_again(tmp_path):
    job, said, ran = Job(("scan",), tmp_path / "done"), [], []

    def runner(words):
        ran.append(words)
        job.done.touch()

    assert run_job(job, runner, said.append).failure is None
    assert run_job(job, runner, said.append).failure is None
    assert ran == [("scan",)] and "done before" in said[-1]


def test_a_job_that_leaves_nothing_has_failed(tmp_path):
    outcome = run_job(Job(("scan",), tmp_path / "none"), lambda words: None, print)
    assert "is missing" in outcome.failure


@pytest.mark.parametrize("runner", [in_own_process, in_this_process])
def test_a_failure_is_told_in_its_last_words(runner):
    failure = runner(["scan", "no/such/model/here", "--facts", "factlm", "--corpus", "factlm"])
    assert "no/such/model/here" in failure


@pytest.mark.slow
def test_the_paper_on_stand_ins_one_of_them_missing(tmp_path, monkeypatch):
    """Two layouts of four; the others are what the families' own tests are for."""
    taken = ("--only", "pythia-1b,Llama-3.1,gpt-j", "--stand-ins", str(tmp_path / "models"))
    refused = lambda words: "gated" if "gpt-j" in words[1] else in_this_process(words)  # noqa: E731
    monkeypatch.setattr(reproduce_paper, "in_this_process", refused)
    app = typer.Typer()
    app.command()(reproduce_paper.main)
    run = typer.testing.CliRunner()
    out = tmp_path / "out"
    first = run.invoke(app, [*taken, "--out", str(out)])
    assert first.exit_code == 1 and "3 of 4 commands are done" in first.stdout
    assert "gated" in first.stdout
    comparison = json.loads((out / "compared" / "all-of-2" / "compare.json").read_text())
    assert [m["family"] for m in comparison["models"]] == ["gpt_neox", "llama"]
    failures = [one["failure"] for one in json.loads((out / "commands.json").read_text())]
    assert failures.count(None) == 3
    again = run.invoke(app, [*taken, "--out", str(out)])
    assert again.stdout.count("done before") == 3 and again.exit_code == 1


def test_the_models_are_those_of_the_paper():
    assert len(reproduce_paper.MODELS) == 11
    assert len({model.folder for model in reproduce_paper.MODELS}) == 11
    assert jobs.Job(("scan", "a b"), reproduce_paper.Path("x")).line == "kis scan 'a b'"
