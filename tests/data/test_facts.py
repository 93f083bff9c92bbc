import json
import re

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
        ("[]", "at least one record"),
        ('[{"src": "a", "src": "b"}]', "the key 'src' twice in one object.* line 1 column 2"),
        ("[" * 100_000, "too deep in one another"),
        ('[{"src": "a"} {"src": "b"}]', "Expecting ',' delimiter or ']' at line 1 column 15"),
        ('[{"src": "a"}] 3', "Extra data after the list at line 1 column 16"),
        ("", "found an empty file; download it again"),
        (" \n", "found nothing but blanks"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "found a pointer to a file of the hub, not the file itself; fetch it with `git lfs",
        ),
        ("<!DOCTYPE html><html>", "found a page of HTML; download the file itself"),
    ],
)
def test_what_is_no_file_of_records_is_named(tmp_path, content, message):
    path = write(tmp_path / "facts.json", content)
    with pytest.raises(ValueError, match=message) as raised:
        facts.read_facts(path)
    assert "facts.json" in str(raised.value)


BAD = [
    (3, "expected an object, found int"),
    ({"case_id": 1}, "expected a record in one of the layouts .* found one with `case_id`"),
    ({}, "found one with nothing"),
    (record(subject=""), "expected a prompt with one {} and a `subject` for it"),
    (record(subject=None), "expected a prompt with one {} and a `subject` for it"),
    (record(subject=["a"]), "expected a `subject` that is text"),
    (record(prompt=None), "expected a prompt, found None"),
    (record(prompt="The capital of Keld is"), "names its subject 'Great Keld', found 'The capital"),
    (record(prompt="{} and {}"), "expected a prompt with one {}"),
    (record(subject="x\ud800"), "expected a `subject` that is text"),
    (record(target_new={"id": "Q1"}), "expected a target as text or under `str`, found an object"),
    (record(target_new=True), "expected a target that is text, found True"),
    (record(target_new="\udc00"), "half of a character"),
    (record() | {"paraphrase_prompts": [3]}, "paraphrase_prompts: expected a text or a list"),
    (record() | {"neighborhood_prompts": 3}, "neighborhood_prompts: expected questions, found 3"),
    (record() | {"case_id": [1]}, "expected `case_id` to be a number or a name"),
    (record() | {"case_id": True}, "expected `case_id` to be a number or a name"),
    ({"src": None}, "expected a prompt, found None"),
    ({"src": "Where is {}?", "subject": ""}, "expected a prompt with one {} and a `subject`"),
    ({"subject": "D&RGW 463", "src": "Who made Rio Grande 463?"}, "names its subject 'D&RGW 463'"),
    ({"subject": "art", "src": "Who drew a part?"}, "names its subject 'art'"),
    ({"requested_rewrite": []}, "expected at least one fact in `requested_rewrite`"),
    ({"edit": {"prompt": "Ann speaks Orvish."}}, "nothing that tells where the target begins"),
    ({"edit": {"prompt": 3}}, "expected a sentence, found 3"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_record_that_cannot_be_read_is_left_out_and_named(tmp_path, bad, message):
    path = write(tmp_path / "facts.json", [record(), bad])
    with pytest.warns(facts.FactsLeftOut, match="left out 1 record that cannot be read: record 2"):
        (read,) = facts.read_facts(path)
    assert read.subject == "Great Keld"
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\.\*", ".*")):
        facts.read_facts(path, strict=True)
    with pytest.raises(ValueError, match="found 1 record that cannot be read: record 1"):
        facts.read_facts(write(path, [bad]))


def test_all_that_cannot_be_read_is_said_at_once(tmp_path):
    path = write(tmp_path / "facts.json", [bad for bad, _ in BAD])
    with pytest.raises(ValueError, match=f"found {len(BAD)} records .*record 10:.*and 14 more"):
        facts.read_facts(path)
    with pytest.warns(facts.FactsLeftOut):  # the limit is one of facts, not of records
        assert len(facts.read_facts(write(path, [BAD[0][0], record(), record()]), 2)) == 2


def test_a_missing_file_and_other_encodings_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"facts: expected .* found no file nowhere\.json"):
        facts.read_facts("nowhere.json")
    with pytest.raises(ValueError, match="facts: expected .* found a folder"):
        facts.read_facts(tmp_path)
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
