import json

import pytest

from kis_jax.data import facts, hub


def record(prompt="The capital of {} is", subject="Great Keld", **more):
    return {"case_id": 7, "requested_rewrite": {"prompt": prompt, "subject": subject, **more}}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_reads_every_field_of_counterfacts_layout(shared_data):
    path = shared_data / "counterfact_known.json"
    read, raw = facts.read_facts(path), json.loads(path.read_text())
    assert len(read) == len(raw) == 436
    for fact, source in zip(read, raw, strict=True):
        rewrite = source["requested_rewrite"]
        assert fact.case_id == source["case_id"]
        assert fact.text == rewrite["prompt"].format(rewrite["subject"])
        assert fact.target_true == rewrite["target_true"]["str"]
        assert fact.target_new == rewrite["target_new"]["str"]
        assert fact.relation == rewrite["relation_id"]
        assert list(fact.neighborhood_prompts) == source["neighborhood_prompts"]
        assert list(fact.generation_prompts) == source["generation_prompts"]


def test_the_span_is_that_of_the_braces_when_a_name_occurs_twice():
    fact = facts.Fact(0, "Paris, Texas is not {}", "Paris")
    assert fact.text[slice(*fact.subject_span)] == "Paris"
    assert fact.subject_span[0] == len("Paris, Texas is not ")


def test_limit_takes_the_first(tmp_path):
    path = write(tmp_path / "f.json", [record(subject=name) for name in "abc"])
    assert [fact.subject for fact in facts.read_facts(path, 2)] == ["a", "b"]
    with pytest.raises(ValueError, match="num_facts: expected a positive number"):
        facts.read_facts(path, 0)


def test_duplicates_are_the_later_ones_of_a_subject():
    read = [facts.Fact(i, "{} is", name) for i, name in enumerate(["a", "b", "a", "a ", "c", "b"])]
    assert facts.first_of_subject(read) == [None, None, 0, 0, None, 1]


def test_fingerprint_depends_on_content_and_order():
    a, b = facts.Fact(0, "{} is", "a"), facts.Fact(1, "{} is", "b")
    assert facts.facts_fingerprint([a, b]) == facts.facts_fingerprint([a, b])
    assert len({facts.facts_fingerprint(f) for f in ([a, b], [b, a], [a])}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"case_id": 1,\n "requested_rewrite": {,}]', "line 2 column 24"),
        ('{"a": 1}', "expected a JSON list of records, found dict"),
        ("[]", "at least one record"),
        ("[3]", "record 1: expected an object, found int"),
        ([{"case_id": 1}], "record 1: expected `requested_rewrite`"),
        ([record(), record(subject="")], "record 2: expected a `subject`, found ''"),
        ([record(subject=None)], "expected a `subject`, found None"),
        ([record(prompt="The capital of Keld is")], r"exactly one \{\} for its subject"),
        ([record(prompt="{} and {}")], r"exactly one \{\}"),
        ([record(subject="x\ud800")], "half of a character"),
        ([record() | {"paraphrase_prompts": "abc"}], "paraphrase_prompts: expected a list"),
        ("[" * 100_000, "expected JSON"),
        ([record() | {"case_id": "x"}], "expected `case_id` to be a whole number"),
    ],
)
def test_what_is_broken_is_named(tmp_path, content, message):
    path = write(tmp_path / "facts.json", content)
    with pytest.raises(ValueError, match=message) as raised:
        facts.read_facts(path)
    assert "facts.json" in str(raised.value)


QUESTION = {
    "subject": "Vera Holm",
    "src": "Where was Vera Holm born? Vera Holm was",
    "rephrase": "What is the birthplace of Vera Holm?",
    "alt": "Hexby",
    "answers": ["Port Ravel", "Ravel"],
    "loc": "nq question: who wrote the oldest song",
    "loc_ans": "nobody",
}


def test_reads_zsres_layout(tmp_path):
    bare = {"subject": "Oru", "src": "Where is Oru?"}
    path = write(tmp_path / "zsre.json", [record(), QUESTION, bare])
    counterfact, full, sparse = facts.read_facts(path)
    assert counterfact.case_id == 7
    assert full == facts.Fact(
        1,
        "Where was {} born? Vera Holm was",
        "Vera Holm",
        target_true="Port Ravel",
        target_new="Hexby",
        paraphrase_prompts=("What is the birthplace of Vera Holm?",),
        neighborhood_prompts=("nq question: who wrote the oldest song",),
        neighborhood_targets=("nobody",),
    )
    assert full.text == QUESTION["src"]
    assert sparse == facts.Fact(2, "Where is {}?", "Oru")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": None}, "record 1: expected `src` to be a question, found None"),
        ({"src": "Where is {}?"}, "expected `src` to be a question"),
        ({"subject": "vera holm"}, "expected `src` to name its subject 'vera holm'"),
        ({"subject": ""}, "record 1: expected a `subject`, found ''"),
        ({"answers": "Port Ravel"}, "answers: expected a list of texts"),
        ({"rephrase": 3}, "rephrase: expected a list of texts"),
    ],
)
def test_what_is_broken_in_zsres_layout_is_named(tmp_path, change, message):
    path = write(tmp_path / "zsre.json", [QUESTION | change])
    with pytest.raises(ValueError, match=message):
        facts.read_facts(path)


def test_a_missing_file_and_other_encodings_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"facts: expected .* found no file nowhere\.json"):
        facts.read_facts("nowhere.json")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(ValueError, match="expected UTF-8 text"):
        facts.read_facts(tmp_path / "latin.json")


def test_a_known_hub_name_is_streamed(monkeypatch):
    asked = []

    def stream(name):
        asked.append(name)
        yield from [record(subject=name) for name in "abcdef"]

    monkeypatch.setattr(hub, "stream_hub", stream)
    assert [fact.subject for fact in facts.read_facts("counterfact", 3)] == ["a", "b", "c"]
    assert asked == ["azhx/counterfact"]
