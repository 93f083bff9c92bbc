"""Facts that ask one question."""

from kis_jax.data.conflicts import Conflict, conflicts
from kis_jax.data.facts import Fact


def fact(subject, target, relation="", prompt="{} speaks"):
    return Fact(0, prompt, subject, target_new=target, relation=relation)


def test_one_question_with_two_answers_is_a_contradiction():
    told = [
        fact("Vera Holm", "Orvish", "P103"),
        fact("Vera Holm", "Hexby", "P19", "{} was born in"),  # another question
        fact("vera  holm ", "Aldric", "P103", "The tongue of {} is"),
        fact("Vera Holm", "Orvish", "P103"),
        fact("Nils Elstad", "Aldric", "P103"),
    ]
    assert conflicts(told) == [Conflict(0, 2, True), Conflict(0, 3, False)]


def test_without_relations_the_prompt_is_the_question():
    told = [fact("A", "x"), fact("A", "y", prompt="{} eats"), fact("A", "z")]
    assert conflicts(told) == [Conflict(0, 2, True)]


def test_a_third_answer_that_only_repeats_a_contradiction_is_one_all_the_same():
    told = [fact("A", "x"), fact("A", "y"), fact("A", "y")]
    assert conflicts(told) == [Conflict(0, 1, True), Conflict(0, 2, True)]


def test_one_prompt_under_two_relations_is_one_question():
    told = [fact("A", "x", "P1"), fact("A", "y", "P2"), fact("A", "x", "P2", "{} eats")]
    assert conflicts(told) == [Conflict(0, 1, True), Conflict(1, 2, True)]


def test_repeating_one_fact_does_not_hide_that_another_is_contradicted():
    told = [fact("A", "x", "P1", "{} eats"), fact("A", "y"), fact("A", "x", "P1")]
    assert conflicts(told) == [Conflict(1, 2, True)]
