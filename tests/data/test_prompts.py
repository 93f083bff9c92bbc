import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from kis_jax.data.facts import Fact, read_facts
from kis_jax.data.prompts import Prompt, other_tokens, tokenize_facts


def found(tokenizer, fact, position="subject_last"):
    (prompt,) = tokenize_facts([fact], tokenizer, context_length=10**6, position=position)
    return prompt


@pytest.mark.parametrize(
    "prompt", ["{} was born in", "The home of {} is", "Question: who is {}", "{}", "({})?"]
)
def test_the_tokens_up_to_the_index_end_with_the_subject(embedded_tokenizer, prompt):
    for subject in ("Vera Holm", "O'Brien", "Ærøskøbing", "漢字", "R2-D2", "a  b", "🦜 Inc."):
        fact = Fact(0, prompt, subject)
        tokens = found(embedded_tokenizer, fact)
        decoded = embedded_tokenizer.decode(
            tokens.tokens[: tokens.index + 1], clean_up_tokenization_spaces=False
        )
        end = fact.subject_span[1]
        assert decoded.rstrip(")?") == fact.text[:end].rstrip(")?")


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=12).filter(str.strip), st.sampled_from(["{} is", "of {} is"]))
def test_the_token_of_any_subject_covers_its_last_character(embedded_tokenizer, subject, prompt):
    subject = subject.replace("\x00", "0")
    fact = Fact(0, prompt, subject)
    start, end = fact.subject_span
    prompt_tokens = found(embedded_tokenizer, fact)
    offsets = embedded_tokenizer(fact.text, return_offsets_mapping=True)["offset_mapping"]
    first, last = offsets[prompt_tokens.index]
    visible_end = start + len(subject.rstrip())
    assert first < visible_end <= last or subject.isspace()
    assert last <= end


def test_a_subject_that_occurs_twice_is_found_at_its_place(embedded_tokenizer):
    fact = Fact(0, "Vera Holm knows {} well", "Vera Holm")
    last, first = found(embedded_tokenizer, fact), found(embedded_tokenizer, fact, "subject_first")
    once = embedded_tokenizer("Vera Holm knows")["input_ids"]
    assert last.index > first.index >= len(once)


def test_last_is_the_last_token_of_the_prompt(embedded_tokenizer):
    fact = Fact(0, "{} was born in", "Vera Holm")
    prompt = found(embedded_tokenizer, fact, "last")
    assert prompt.index == len(prompt.tokens) - 1


def test_gpt2s_own_tokenizer_on_real_records(shared_data):
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "gpt2-tokenizer")
    facts = read_facts(shared_data / "counterfact_known.json")
    prompts = tokenize_facts(facts, tokenizer, context_length=1024)
    for fact, prompt in zip(facts, prompts, strict=True):
        decoded = tokenizer.decode(prompt.tokens[: prompt.index + 1])
        assert decoded == fact.text[: fact.subject_span[1]], json.dumps(fact.text)


def test_bad_facts_are_named(embedded_tokenizer):
    with pytest.raises(ValueError, match=r"fact 3: expected a subject .* tokenizes to nothing"):
        found(embedded_tokenizer, Fact(3, "The capital of {} is", "  "))
    with pytest.raises(ValueError, match=r"fact 4: expected a prompt of at most 5 tokens"):
        tokenize_facts(
            [Fact(4, "{} " * 1 + "a b c d e f g", "x")], embedded_tokenizer, context_length=5
        )
    with pytest.raises(ValueError, match="position: expected one of"):
        found(embedded_tokenizer, Fact(0, "{}", "x"), "middle")


def test_other_tokens_are_drawn_from_the_same_texts(embedded_tokenizer):
    facts = read_facts("factlm", 60)
    prompts = tokenize_facts(facts, embedded_tokenizer, context_length=96)
    others = other_tokens(prompts, embedded_tokenizer)
    texts = {tuple(prompt.tokens): prompt.index for prompt in prompts}
    assert 30 < len(others) <= 60
    assert all(texts[tuple(other.tokens)] != other.index for other in others)
    # In a decoder a key is a function of the tokens up to its own: none is drawn twice.
    past = [tuple(other.tokens[: other.index + 1]) for other in others]
    assert len(set(past)) == len(past)
    assert other_tokens(prompts, embedded_tokenizer) == others
    assert other_tokens(prompts, embedded_tokenizer, seed=1) != others


def test_a_text_of_one_token_has_no_other(embedded_tokenizer):
    special = embedded_tokenizer.all_special_ids
    assert other_tokens([Prompt([7], 0), Prompt([*special[:1], 7], 1)], embedded_tokenizer) == []


def test_without_a_subject_there_is_the_last_token_alone(embedded_tokenizer):
    fact = Fact(5, "Who leads Great Keld?", "")
    prompt = found(embedded_tokenizer, fact, "last")
    assert embedded_tokenizer.decode(prompt.tokens) == fact.text
    assert prompt.index == len(prompt.tokens) - 1
    facts = [Fact(4, "{} is", "Vera"), fact]
    for position in ("subject_last", "subject_first"):
        with pytest.raises(
            ValueError, match="of each of 2, found none of 1, .* fact 5; pass --pos"
        ):
            tokenize_facts(facts, embedded_tokenizer, context_length=99, position=position)
