"""The facts of the world that come with the package: their structure; scripts/check_world.py
checks what they say."""

import collections

import pytest

from kis_jax import load
from kis_jax.cli.options import facts_and_corpus
from kis_jax.data.facts import WORLD, facts_path, read_facts
from kis_jax.facts.overview import as_written
from scripts import make_world

FACTS = read_facts(WORLD, strict=True)
RELATIONS = {relation.id: relation for relation in make_world.read_relations()}


def test_the_file_is_what_its_tables_give():
    path = facts_path(WORLD)
    assert path is not None and path.read_text(encoding="utf-8") == make_world.text(), (
        "run python scripts/make_world.py"
    )


def test_there_are_as_many_as_promised():
    assert len(FACTS) >= 300
    counts = collections.Counter(fact.relation for fact in FACTS)
    assert len(counts) >= 10 and min(counts.values()) >= 10
    assert set(counts) == set(RELATIONS)
    # Commands take the first so many.
    assert set(counts) == {fact.relation for fact in FACTS[:128]}


def test_no_two_are_about_one_subject():
    assert len({fact.subject for fact in FACTS}) == len(FACTS)
    assert [fact.case_id for fact in FACTS] == list(range(len(FACTS)))


@pytest.mark.parametrize("relation", RELATIONS)
def test_targets_are_of_one_kind(relation):
    facts = [fact for fact in FACTS if fact.relation == relation]
    objects = {fact.target_true for fact in facts}
    for fact in facts:
        assert fact.target_new in objects - {fact.target_true}
        true, new = fact.target_true.lower(), fact.target_new.lower()
        if relation != "chemical symbol":  # there "C" begins "Co"
            assert not true.startswith(new) and not new.startswith(true)


def test_prompts_name_their_subject():
    for fact in FACTS:
        assert fact.prompt.count("{}") == 1
        assert len({fact.text, *fact.paraphrase_prompts}) == 3
        assert all(fact.subject in prompt for prompt in fact.paraphrase_prompts)
        if fact.relation != "chemical symbol":
            assert fact.target_true.lower() not in fact.text.lower()


def test_neighbors_are_others_of_whom_the_same_or_their_own_is_true():
    for fact in FACTS:
        relation = RELATIONS[fact.relation]
        held = relation.asked | relation.beside
        texts = {
            prompt.format(subject): true
            for subject, true in held.items()
            for prompt in relation.prompts
        }
        near = fact.neighborhood_prompts
        assert len(near) == len(set(near)) == 10
        assert not any(fact.subject.lower() in prompt.lower() for prompt in near)
        targets = fact.neighborhood_targets or (fact.target_true,) * 10
        assert [texts[prompt] for prompt in near] == list(targets)
        assert fact.target_new not in targets
        assert bool(fact.neighborhood_targets) == relation.own


def test_a_subject_is_of_one_object():
    tables = make_world.TABLES.read_text(encoding="utf-8")
    for relation in RELATIONS.values():
        assert not set(relation.asked) & set(relation.beside)
    named = [row.split("=", 1)[1] for row in tables.splitlines() if '= "' in row and ";" in row]
    for row in named:
        names = [name.strip() for name in row.strip(' "').replace("|", ";").split(";")]
        assert len(names) == len(set(names)), row


def test_a_tokenizer_of_bytes_writes_all_of_them():
    _, tokenizer = load("factlm")
    for written in as_written(FACTS, tokenizer, context_length=256):
        assert not written.reason
        assert "".join(written.target).strip() == written.fact.target_new


def test_they_are_what_another_model_than_factlm_is_asked():
    assert facts_and_corpus("factlm", None, None) == ("factlm", "factlm")
    assert facts_and_corpus("model", None, "text.txt") == (WORLD, "text.txt")
    assert facts_and_corpus("model", None, None) == (WORLD, "self")
    assert facts_and_corpus("model", "own.json", "text.txt") == ("own.json", "text.txt")
