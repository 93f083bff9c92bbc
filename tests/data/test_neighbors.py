from kis_jax import factlm
from kis_jax.data.facts import Fact, read_facts
from kis_jax.data.neighbors import without_edited_neighbors


def test_prompts_about_edited_subjects_of_the_relation_are_left_out():
    facts = read_facts(factlm.NAME, 120)
    left = without_edited_neighbors(facts)
    dropped = 0
    for before, after in zip(facts, left, strict=True):
        for prompt in before.neighborhood_prompts:
            about = any(
                other.subject in prompt
                for other in facts
                if other.relation == before.relation and other.subject != before.subject
            )
            assert (prompt in after.neighborhood_prompts) != about
            dropped += about
    assert 0 < dropped < sum(len(fact.neighborhood_prompts) for fact in facts)


def test_targets_of_their_own_stay_with_their_prompts():
    prompts, targets = ("who is Bob", "who is Cy", "who is Di"), ("b", "c", "d")
    fact = Fact(0, "{}", "A", neighborhood_prompts=prompts, neighborhood_targets=targets)
    left, _ = without_edited_neighbors([fact, Fact(1, "{}", "Cy")])
    assert left.neighborhood_prompts == ("who is Bob", "who is Di")
    assert left.neighborhood_targets == ("b", "d")
    assert without_edited_neighbors([fact]) == [fact]


def test_part_of_a_word_names_nobody():
    first = Fact(0, "{} speaks", "Bob", neighborhood_prompts=("Annabel speaks", "St. Ann's speaks"))
    kept, _ = without_edited_neighbors([first, Fact(1, "{} speaks", "Ann")])
    assert kept.neighborhood_prompts == ("Annabel speaks",)


def test_aliases_go_with_their_prompts_and_no_subject_names_nothing():
    first = Fact(
        0,
        "{} was born in",
        "Ann",
        neighborhood_prompts=("Bob was born in", "Cy was born in"),
        neighborhood_targets=("Oru", "Keld"),
        neighborhood_aliases=(("Oru upon Ar",), ()),
    )
    (kept, *_) = without_edited_neighbors(
        [first, Fact(1, "{} was born in", "Bob"), Fact(2, "Who leads Oru?", "")]
    )
    assert kept.neighborhood_prompts == ("Cy was born in",)
    assert (kept.neighborhood_targets, kept.neighborhood_aliases) == (("Keld",), ((),))
