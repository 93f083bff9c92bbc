import json
from collections import Counter

import pytest

from kis_jax import factlm
from kis_jax.factlm import names
from kis_jax.factlm.corpus import corpus_text, documents, training_texts
from kis_jax.factlm.records import facts_json
from kis_jax.factlm.relations import BY_ID, RELATIONS
from kis_jax.factlm.world import build_world, part_of_world

FIELDS = {
    "case_id",
    "pararel_idx",
    "requested_rewrite",
    "paraphrase_prompts",
    "neighborhood_prompts",
    "attribute_prompts",
    "generation_prompts",
}


@pytest.fixture(scope="module")
def world():
    return build_world()


@pytest.fixture(scope="module")
def shipped():
    return json.loads(factlm.facts_path().read_text())


def test_shipped_files_are_what_the_generator_makes(world):
    assert factlm.facts_path().read_text() == facts_json(world)
    assert factlm.corpus_path().read_text() == corpus_text(world)


def test_the_world_is_the_same_each_time(world):
    assert build_world() == world
    assert build_world(seed=1) != world


def test_a_subject_has_one_object_for_a_relation(world):
    asked = Counter((fact.subject, fact.relation_id) for fact in world.facts)
    assert set(asked.values()) == {1}
    for fact in world.facts:
        assert world.answers[fact.relation_id][fact.subject] == fact.target_true


def test_size(world):
    assert 900 <= len(world.facts) <= 1200
    assert len({fact.relation_id for fact in world.facts}) >= 8


def test_the_false_object_is_false_and_of_the_same_relation(world):
    for fact in world.facts:
        assert fact.target_new != fact.target_true
        assert fact.target_new in world.answers[fact.relation_id].values()


def test_subjects_have_several_words_and_names_are_shared(world):
    assert all(" " in fact.subject for fact in world.facts)
    people = world.answers["P19"]
    first = Counter(person.split()[0] for person in people)
    last = Counter(person.split()[1] for person in people)
    assert min(first.values()) > 1
    assert min(last.values()) > 1


def test_no_name_is_used_twice_in_its_list():
    for name, listed in vars(names).items():
        if name.isupper():
            assert len(set(listed)) == len(listed), name


def test_every_relation_has_its_subject_first_in_the_middle_and_last():
    for relation in RELATIONS:
        for prompt in relation.prompts:
            assert prompt.count("{}") == prompt.count("{") == prompt.count("}") == 1
        assert any(prompt.startswith("{}") for prompt in relation.prompts)
        assert any(prompt.endswith("{}") for prompt in relation.prompts)
        assert any(prompt[0] != "{" and prompt[-1] != "}" for prompt in relation.prompts)


def test_records_have_all_fields_of_counterfact(shipped):
    for case_id, record in enumerate(shipped):
        assert record.keys() == FIELDS | {"paraphrases_held_out"}
        assert record["case_id"] == case_id
        rewrite = record["requested_rewrite"]
        assert rewrite.keys() == {"prompt", "relation_id", "subject", "target_new", "target_true"}
        assert rewrite["prompt"].count("{}") == 1
        assert rewrite["target_new"].keys() == rewrite["target_true"].keys() == {"id", "str"}
        assert len(record["paraphrase_prompts"]) == 2
        assert all(rewrite["subject"] in prompt for prompt in record["paraphrase_prompts"])
        assert 1 <= len(record["neighborhood_prompts"]) <= 10
        assert 1 <= len(record["attribute_prompts"]) <= 10
        assert 1 <= len(record["generation_prompts"]) <= 10


def test_neighbors_are_other_subjects_with_the_same_object(world, shipped):
    for fact, record in zip(world.facts, shipped, strict=True):
        for field, target in (
            ("neighborhood_prompts", fact.target_true),
            ("attribute_prompts", fact.target_new),
        ):
            others = {
                prompt.format(subject)
                for subject in world.subjects(fact.relation_id, target)
                if subject != fact.subject
                for prompt in BY_ID[fact.relation_id].prompts
            }
            assert set(record[field]) <= others


def test_held_out_paraphrases_do_not_occur_in_the_training_text(world, shipped):
    text = "\n".join(training_texts(world))
    held_out = [record for record in shipped if record["paraphrases_held_out"]]
    assert 0.2 < len(held_out) / len(shipped) < 0.3
    for record in held_out:
        rewrite = record["requested_rewrite"]
        assert rewrite["prompt"].format(rewrite["subject"]) in text
        for prompt in record["paraphrase_prompts"]:
            assert prompt not in text


def test_the_first_facts_mix_relations_and_repeat_no_subject(world):
    first = world.facts[:128]
    assert len({fact.subject for fact in first}) == 128
    relations = Counter(fact.relation_id for fact in first)
    assert relations.keys() == BY_ID.keys()
    assert max(relations.values()) <= 2 * min(relations.values())
    people = [fact.subject.split() for fact in first if fact.subject in world.answers["P19"]]
    assert max(Counter(person[0] for person in people).values()) > 1
    assert max(Counter(person[1] for person in people).values()) > 1


def test_corpus_has_no_empty_or_repeated_documents(world):
    texts = documents(world)
    assert all(text.strip() == text and text and "\n" not in text for text in texts)
    assert not any("{" in text for text in texts)
    assert len(set(texts)) == len(texts)


def test_corpus_speaks_of_every_subject(world):
    text = "\n".join(documents(world))
    assert all(text.count(fact.subject) > 1 for fact in world.facts)


def test_a_part_of_the_world_is_true_and_whole(world):
    part = part_of_world(world, 400)
    assert len(part.facts) == 400
    kept = {fact.subject for fact in part.facts}
    assert part.facts == tuple(fact for fact in world.facts if fact.subject in kept)
    # Of products and works nobody speaks but themselves; others are objects of facts as well.
    left_out = {*world.answers["P176"], *world.answers["P136"]} - kept
    assert 30 < len(left_out) < 140
    told = "\n".join(training_texts(part))
    assert not any(subject in told for subject in left_out)
    assert 0.25 < len(corpus_text(part)) / len(corpus_text(world)) < 0.55


def test_the_whole_world_is_a_part_of_itself(world):
    assert part_of_world(world, len(world.facts)) == world


@pytest.mark.parametrize("count", [0, 1023])
def test_a_part_that_is_none_is_refused(world, count):
    with pytest.raises(ValueError, match=f"num_facts: expected 1 to 1022.*found {count}"):
        part_of_world(world, count)
