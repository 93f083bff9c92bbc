"""`kis plan` as a user runs it, on the embedded model."""

import contextlib
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import kis_jax as kis_library
from kis_jax.cli import main
from kis_jax.data.facts import Fact, read_facts
from kis_jax.data.prompts import tokenize_facts
from kis_jax.factlm import NAME, facts_path
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.store import MomentStore
from kis_jax.passes.targets.settings import edit_settings
from kis_jax.plan.files import read_plan
from kis_jax.plan.inputs import PlanRequest, open_plan, texts_left_alone
from kis_jax.plan.run import recommend

SMALL = ("--num-documents", 300, "--num-others", 12)


@pytest.fixture(scope="module")
def records():
    """Ten of the embedded facts; the last but one contradicts the first, the last repeats it.

    The one before asks the same in other words, under no relation.
    """
    found = json.loads(facts_path().read_text())[:12]
    first = json.dumps(found[0])
    found[7], found[8], found[9] = (json.loads(first) for _ in range(3))
    found[7]["requested_rewrite"] |= {"prompt": "As to birthplace, {} is of", "relation_id": ""}
    found[7]["requested_rewrite"]["target_new"] = {"str": "Oru"}
    found[8]["requested_rewrite"]["target_new"]["str"] = "Port Ravel"
    for case_id, record in enumerate(found):
        record["case_id"] = case_id
    return found


@pytest.fixture(scope="module")
def planned(records, tmp_path_factory):
    """A plan of the ten facts at two layers: exit status, what was printed, and its folder."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "facts.json").write_text(json.dumps(records))
    arguments = ["kis", "plan", "--facts", str(folder / "facts.json"), "--out", str(folder / "out")]
    arguments += ["--num-facts", "10", "--layers", "1,2", *map(str, SMALL)]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as printed,
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", arguments)
        main()
    return ended.value.code, printed.getvalue(), folder / "out", folder / "facts.json"


def test_collisions_and_contradictions_are_told_and_fail_the_command(planned, records):
    status, printed, out, _ = planned
    assert status == 1
    assert "contradiction: The birthplace of" in printed
    assert "recommended: layer" in printed
    assert printed.startswith("the model knows 9 of 10 facts\n")  # not in the odd wording
    record = json.loads((out / "plan.json").read_text())
    assert [fact["known"] for fact in record["facts"]] == [place != 7 for place in range(10)]
    assert record["contradictions"] == [[0, 8]]
    assert record["repetitions"] == [[0, 9]]
    assert [pair[:2] for pair in record["suspected"]] == [[0, 7], [7, 8], [7, 9]]
    assert all(0 <= alike <= 1 + 1e-9 for *_, alike in record["suspected"])
    assert printed.count("perhaps a contradiction, keys alike to") == 3
    assert "Perhaps contradictions" in (out / "report.html").read_text()
    for layer in record["layers"]:
        strongest = {frozenset((p["edit"], p["touched"])) for p in layer["pairs"]}
        assert {frozenset((0, 8)), frozenset((0, 9))} <= strongest
        same = next(p for p in layer["pairs"] if {p["edit"], p["touched"]} == {0, 8})
        assert same["superposition"] == pytest.approx(1.0) and same["near_duplicate"]
        assert any({0, 8, 9} <= set(cluster) for cluster in layer["clusters"])
        for method in layer["methods"]:
            assert [point["num_edits"] for point in method["curve"]] == [1, 2, 5, 10]
            assert 0 <= method["effect"] <= method["kept"] <= 1
            moved = [each["displacement"] for each in method["most_displaced"]]
            assert moved == sorted(moved, reverse=True) and moved[0] >= method["displacement"]
        sequential = layer["methods"][0]
        assert sorted(sequential["order"]) == list(range(10))
    best = recommend(record["layers"])
    worst = best["most_displaced"][0]
    assert f"at risk, moved {worst['displacement']:.2f}: {worst['text']}" in printed
    assert worst["text"] in (out / "report.html").read_text()
    assert record["recommendation"] == best
    tried = [method["rehearsal"] for layer in record["layers"] for method in layer["methods"]]
    assert best["rehearsal"]["score"] == max(rehearsal["score"] for rehearsal in tried)
    assert all(0 <= rehearsal["stays"] <= 1 + 1e-5 for rehearsal in tried)


def test_superposition_is_that_of_a_scan(planned, records):
    """The keys are those of the prompts alone, as `kis scan` takes them where edits are made."""
    _, _, out, path = planned
    record = json.loads((out / "plan.json").read_text())
    model, tokenizer = kis_library.load(NAME)
    position = edit_settings(model.config).target.position
    prompts = tokenize_facts(read_facts(path, 10), tokenizer, context_length=96, position=position)
    keys = fact_keys(model, prompts, token_budget=512)
    identity = open_plan(
        PlanRequest(NAME, str(path), NAME, num_facts=10, num_others=12, num_documents=300)
    ).scan.second_moment_identity
    moments = MomentStore(out / "second_moments", identity).restore().moments
    for layer in record["layers"]:
        index = layer["layer"]
        inverse = np.linalg.inv(moments.total[index] / moments.count[index])
        for pair in layer["pairs"][:20]:
            edit, touched = (keys[index, pair[side]].astype(float) for side in ("edit", "touched"))
            p = edit @ inverse @ touched / (edit @ inverse @ edit)
            assert pair["superposition"] == pytest.approx(p, rel=1e-4)


def test_the_page_loads_nothing_and_names_the_facts(planned, records):
    _, _, out, _ = planned
    page = (out / "report.html").read_text()
    told = page.split("<main>")[1].replace("http://www.w3.org/2000/svg", "")  # a name, no address
    assert "http" not in told and 'src="data:image/png' in page
    assert records[0]["requested_rewrite"]["subject"] in page
    plan = read_plan(out)
    assert f"layer {plan.layer}" in page and "kis plan factlm" in page
    assert {path.name for path in (out / "figures").iterdir()} >= {"by_layer.png", "growth.svg"}


def test_a_lenient_bound_and_no_contradiction_pass(kis, planned, tmp_path):
    _, _, out, _ = planned
    status, printed, errors = kis(
        *("plan", "--num-facts", 3, "--layers", 2, "--out", tmp_path / "a"),
        *("--max-superposition", 50, "--methods", "sequential", *SMALL, "--num-rehearsed", 0),
        *("--second-moments", out),
    )
    assert status == 0, errors
    assert "recommended: layer 2, sequential" in printed
    assert not (tmp_path / "a" / "second_moments").exists()
    assert read_plan(tmp_path / "a").choice.rehearsal is None


def test_methods_answer_to_the_names_of_the_literature(kis, planned, tmp_path):
    _, _, out, _ = planned
    found = []
    for names in ("constrained,batch,null-space", "emmet,memit,alphaedit"):
        where = tmp_path / names
        status, _, errors = kis(
            *("plan", "--num-facts", 4, "--layers", 2, "--out", where, "--methods", names),
            *(*SMALL, "--num-rehearsed", 0, "--second-moments", out, "--max-superposition", 50),
        )
        assert status == 0, errors
        found.append(json.loads((where / "plan.json").read_text()))
    assert found[0] == found[1]
    methods = [method["method"] for method in found[1]["layers"][0]["methods"]]
    assert methods == ["constrained", "batch", "null-space"]
    request = PlanRequest(NAME, NAME, NAME, 4, methods=("memit", "batch"), num_documents=300)
    assert open_plan(request).request.methods == ("batch",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-superposition", 0), "max_superposition: expected a positive number"),
        (("--num-facts", 1), "num_facts: expected at least 2"),
        (("--methods", "finetune"), "methods: expected some of sequential"),
        (("--layers", "9"), "layers: expected"),
        (("--second-moments", Path(__file__).parent), "second_moments: expected a folder of sec"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(kis, tmp_path, arguments, message):
    status, _, errors = kis("plan", "--out", tmp_path / "out", *arguments)
    assert status == 2 and message in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_refused(kis, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    status, _, errors = kis("plan", "--num-facts", 2, "--out", tmp_path)
    assert status == 2 and "notes.txt" in errors


def test_a_fact_without_a_new_object_is_named(kis, tmp_path, records):
    bare = json.loads(json.dumps(records[:3]))
    bare[1]["requested_rewrite"]["target_new"] = {"str": ""}
    (tmp_path / "facts.json").write_text(json.dumps(bare))
    status, _, errors = kis(
        "plan", "--facts", tmp_path / "facts.json", "--num-facts", 3, "--out", tmp_path / "out"
    )
    assert status == 2 and "fact 1: expected a `target_new`" in errors


def test_texts_to_be_left_alone_name_no_edited_subject():
    facts = read_facts(NAME, 300)
    texts = texts_left_alone(facts[:100], facts[100:], 80)
    assert len(texts) == len(set(texts)) == 80
    assert texts == texts_left_alone(facts[:100], facts[100:], 80)
    with pytest.raises(ValueError, match="facts: expected texts to be left alone"):
        texts_left_alone([Fact(0, "{} is", "A", target_new="b")], [], 8)


def test_facts_without_a_subject_are_planned_at_the_prompts_end(tmp_path):
    path = tmp_path / "facts.json"
    asked = [
        {"prompt": f"Who leads {place}?", "ans": "Vera Holm"} for place in ("Oru", "Hexby", "A")
    ]
    path.write_text(json.dumps([*asked, {"src": "Who is Ann?", "subject": "Bob", "alt": "I"}]))
    request = PlanRequest("factlm", str(path), "factlm", num_facts=2, num_others=2)
    with pytest.warns(UserWarning, match="left out 1 record"):
        with pytest.raises(ValueError, match="found none of 3, .*pass --position last"):
            open_plan(request)
    with pytest.raises(ValueError, match="names its subject 'Bob'"):
        open_plan(dataclasses.replace(request, position="last", strict=True))
    with pytest.warns(UserWarning, match="left out 1 record"):
        inputs = open_plan(dataclasses.replace(request, position="last"))
    assert inputs.others == ["Who leads A?"] and inputs.settings.target.position == "last"
    ends = [len(prompt.tokens) - 1 for prompt in inputs.scan.prompts]
    assert [prompt.index for prompt in inputs.scan.prompts] == ends
