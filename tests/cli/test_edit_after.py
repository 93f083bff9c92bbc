"""`kis edit --after`: facts that are edited again are replaced, and it is said which."""

import json

import pytest

from kis_jax.checkpoints.ledger_file import load_ledger
from kis_jax.data.facts import read_facts

LAYER = 2


@pytest.fixture
def edit(kis, tmp_path):
    def run(facts, out, *more, method="rlsedit"):
        path = tmp_path / f"{out}.json"
        path.write_text(json.dumps(facts))
        return kis(
            *("edit", "--facts", path, "--num-documents", 300, "--layer", LAYER, "--corpus"),
            *("factlm", "--second-moments", tmp_path / "moments", "--method", method),
            *("--out", tmp_path / out, *more),
        )

    return run


def test_a_fact_edited_again_is_replaced_and_the_others_stay(edit, kis, tmp_path):
    facts = read_facts("factlm", 3)
    asked = [
        {"prompt": fact.prompt, "subject": fact.subject, "target_new": fact.target_new}
        for fact in facts
    ]
    status, printed, _ = edit(asked, "first")
    assert status == 0 and "replaced" not in printed
    after = ("--after", tmp_path / "first")
    status, printed, error = edit([{**asked[0], "target_new": "Port Ravel"}], "second", *after)
    assert status == 0, error
    assert f"Port Ravel, where {facts[0].target_new} was written" in printed
    assert "3 edits in all, of whose objects the model says" in printed
    ledger = load_ledger(tmp_path / "second")
    assert [fact.subject for fact in ledger.facts] == [facts[n].subject for n in (1, 2, 0)]
    assert ledger.facts[-1].replaces == (facts[0].target_new,) and ledger.exact
    record = json.loads((tmp_path / "second" / "edit.json").read_text())
    assert record["facts"][0]["row"] == 2
    assert record["facts"][0]["after"]["efficacy_accuracy"] == 1
    _, printed, _ = kis("ledger", "list", tmp_path / "second")
    assert "replaces" in printed and facts[0].target_new in printed
    for method, said in (("alphaedit", "found batch in"), ("ultraedit", "found batch in")):
        status, _, error = edit(asked[:1], "third", *after, method=method)
        assert status == 2 and "after: expected edits by" in error and said in error
