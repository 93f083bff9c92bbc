"""`kis facts`: the examples of docs/facts.md, tokens, conversion, and files of any bytes."""

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kis_jax.cli import main
from kis_jax.data.facts import read_facts

PAGE = (Path(__file__).parents[2] / "docs" / "facts.md").read_text()
EXAMPLES = re.findall(r"```json\n(.*?)```\n\n```text\nkis facts (\S+)\n(.*?)```", PAGE, re.DOTALL)
RECORDS = [
    {"src": "Where was Vera Holm born?", "subject": "vera holm", "alt": ["Hexby", "Old Hexby"]},
    {"src": "Who made D463?", "subject": "Rio 463", "alt": "Alco"},
    {"src": "In which town was Vera Holm born?", "subject": "Vera Holm", "alt": "Oru"},
    {"src": "Where was Vera Holm born?", "subject": "Vera Holm", "alt": "Old Hexby", "case_id": 0},
    {"src": "日本的首都是", "subject": "日本", "alt": "東京", "pred": "x"},
    {"src": "Who?", "alt": "I"},
]


def run(*words):
    """Runs the command; the status with which it ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kis", "facts", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code


@pytest.mark.parametrize(("content", "name", "shown"), EXAMPLES, ids=[e[1] for e in EXAMPLES])
def test_examples_of_the_docs_are_shown_as_there(
    tmp_path, monkeypatch, capsys, content, name, shown
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(content)
    assert run(name) == 0
    assert capsys.readouterr().out == shown


def test_every_layout_is_on_the_page():
    assert len(EXAMPLES) == len(re.findall("^### ", PAGE, re.MULTILINE)) >= 10


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(RECORDS))
    return path


def test_what_is_told_of_a_file(file, capsys):
    assert run(file, "--show", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{file}: zsRE, 6 records, 5 facts, 1 left out",
        "with new target 5, aliases 1, no subject 1",
        "targets joined with a blank 4, without 1",
        "not read: pred 1",
        "names of several facts: 0",
        "left out:",
        "  record 2: expected a prompt that names its subject 'Rio 463', found 'Who made D463?'; "
        "write the name as it stands in the prompt, or {} in its place",
        "repetitions: 1",
        "  0: Where was [Vera Holm] born? || Hexby (also Old Hexby)",
        "  0: Where was [Vera Holm] born? || Old Hexby",
        "perhaps one question: 2",
        "  0: Where was [Vera Holm] born? || Hexby (also Old Hexby)",
        "  2: In which town was [Vera Holm] born? || Oru",
        "  2: In which town was [Vera Holm] born? || Oru",
        "  0: Where was [Vera Holm] born? || Old Hexby",
        "asked, with the [subject], and written:",
        "  0: Where was [Vera Holm] born? || Hexby (also Old Hexby)",
    ]


def test_tokens_are_those_of_the_model_and_what_it_cannot_write_is_named(file, capsys):
    assert run(file, "factlm", "--position", "subject_last", "--show", 1) == 0
    out = capsys.readouterr().out
    assert "|* Holm| born|?|| He|xby\n" in out
    assert "cannot be written: 1\n  facts: expected a subject of each of 1" in out
    assert run(file, "factlm", "--show", 1) == 0  # factlm's settings take the prompt's last token
    out = capsys.readouterr().out
    assert "cannot be written" not in out and "| Holm| born|*?|| He|xby\n" in out


def test_a_converted_file_says_the_same(file, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert run(file, "--write", out) == 0
    with pytest.warns(UserWarning, match="left out 1"):
        facts = read_facts(file)
    assert read_facts(out, strict=True) == facts
    assert capsys.readouterr().out.endswith(f"facts: {out}\n")
    before = out.read_bytes()
    assert run(file, "--write", out, "--strict") == 2  # and the file that was there stays
    assert "found 1 record that cannot be read: record 2" in capsys.readouterr().err
    assert out.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
    assert run(out, "--write", out) == 2
    assert "expected another file" in capsys.readouterr().err


def test_other_commands_say_what_they_leave_out(file, tmp_path, capsys, monkeypatch):
    words = ["kis", "edit", "factlm", "--facts", str(file), "--out", str(tmp_path / "out")]
    words += ["--position", "subject_last"]
    for more, message in (
        ([], "kis: note: facts: .* left out 1 record that cannot be read: record 2"),
        (["--strict"], "kis: error: facts: expected records that can be read"),
    ):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2  # one has no subject
        assert re.search(message, capsys.readouterr().err)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.binary(max_size=60)
    | st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["{}", "a"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    "src subject alt ans answers loc loc_ans prompt target_new ground_truth "
                    "portability locality requested_rewrite questions new_answer edit update mhop "
                    "queries target case_id neighborhood_prompts rephrase str records template "
                    "attribute".split()
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=25,
    )
)
def test_any_file_is_read_or_refused_in_one_line(tmp_path, capsys, data):
    path = tmp_path / "facts.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    status = run(path)
    told = capsys.readouterr()
    assert status in (0, 2)
    if status:
        assert told.err.startswith("kis: error: ") and told.err.count("\n") == 1
        assert "Traceback" not in told.err and str(path) in told.err


def test_how_many_facts_a_model_knows(tmp_path, capsys):
    path = tmp_path / "facts.json"
    rows = [
        {"prompt": prompt, "relation_id": relation, "subject": "Tomas Corvin", "target_true": true}
        for prompt, relation, true in (
            ("{} was born in", "birthplace", {"str": "Port Ravel"}),
            ("{} was born in", "birthplace", {"str": ["Hexby", "Port Ravel"]}),
            ("The birthplace of {} is", "", {"str": "Hexby"}),
            ("{} lives in", "home", None),
        )
    ]
    path.write_text(json.dumps([{"requested_rewrite": row} for row in rows]))
    assert run(path, "factlm", "--show", 0, "--recall") == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "the model knows 2 of 3 facts; 1 has no true target",
        "  no relation: 0 of 1",
        "  birthplace: 2 of 2",
    ]


def test_recall_needs_a_model_and_true_targets(file, capsys):
    assert run(file, "--recall") == 2
    assert "--recall: expected a model to ask" in capsys.readouterr().err
    assert run(file, "factlm", "--recall") == 2
    assert "--recall: expected facts with a true target" in capsys.readouterr().err
