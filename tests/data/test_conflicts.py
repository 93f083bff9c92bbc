"""Facts that ask one question."""

import dataclasses

import pytest

from kis_jax.data.conflicts import Conflict, conflicts, suspected
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


def test_an_alias_is_the_same_answer():
    rome = dataclasses.replace(fact("A", "Rome"), new_aliases=("Roma",))
    assert conflicts([rome, fact("A", "roma"), fact("A", "Oru")]) == [
        Conflict(0, 1, False),
        Conflict(0, 2, True),
    ]


def test_facts_without_a_subject_are_told_apart_by_their_prompts():
    def asked(prompt, target):
        return Fact(0, prompt, "", target_new=target, relation="P1")

    told = [asked("Who leads Oru?", "Ann"), asked("Who leads Keld?", "Bob")]
    assert conflicts(told) == [] and suspected(told) == []
    assert conflicts([*told, asked("who leads oru?", "Cy")]) == [Conflict(0, 2, True)]


D463 = [
    ("Which company made {}?", "Alco"),
    ("By which company was {} manufactured?", "Baldwin"),
    ("What is the company that built {}?", "Alco"),
    ("Where does {} stand?", "Alamosa"),
]


def test_one_subject_asked_in_other_words_is_suspected():
    told = [fact("D463", target, prompt=prompt) for prompt, target in D463]
    assert conflicts(told) == []
    assert suspected(told) == [Conflict(0, 1, True), Conflict(0, 2, False)]


@pytest.mark.parametrize(
    "second",
    [
        fact("D464", "Baldwin", prompt="By which company was {} manufactured?"),
        fact("D463", "Baldwin", prompt="Where does {} stand?"),
        fact("D463", "Baldwin", prompt="Which company made {}?"),  # told as a contradiction
        fact("D463", "Baldwin", "P176", "By which company was {} made?"),  # as well
    ],
)
def test_what_is_not_suspected(second):
    assert suspected([fact("D463", "Alco", "P176", "Which company made {}?"), second]) == []
