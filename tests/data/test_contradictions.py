from kis_jax import factlm
from kis_jax.data.contradictions import contradictions, first_of_request
from kis_jax.data.facts import Fact, read_facts


def fact(subject, new, prompt="{} speaks", relation=""):
    return Fact(0, prompt, subject, target_new=new, relation=relation)


def test_two_objects_for_one_prompt_or_one_relation():
    facts = [
        fact("Vera Holm", "Danish"),
        fact("Vera Holm ", "Latin"),
        fact("Ines Roy", "Latin", relation="P103"),
        fact("Ines Roy", "Greek", prompt="{} was raised in", relation="P103"),
        fact("Ines Roy", "Greek", prompt="{} lives in", relation="P551"),
        fact("Ines Roy", "Latin", prompt="Mother tongue of {}:", relation="P103"),
    ]
    assert contradictions(facts) == [(0, 1), (2, 3)]


def test_the_embedded_facts_agree():
    assert contradictions(read_facts(factlm.NAME)) == []


def test_many_answers_give_a_pair_each_and_not_their_square():
    facts = [fact("Vera Holm", str(i)) for i in range(50)]
    assert contradictions(facts) == [(0, i) for i in range(1, 50)]


def test_the_same_request_twice():
    facts = [fact("A", "x"), fact("B", "x"), fact("A ", "x"), fact("A", "y"), fact("B", " x")]
    assert first_of_request(facts) == [None, None, 0, None, 1]
