import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints.tokenizers import load_tokenizer
from kis_jax.data.facts import Fact, read_facts
from kis_jax.data.rewrites import tokenize_rewrites

FACT = Fact(7, "The mother tongue of {} is", "Vera Holm", target_new="Orvish")
PREFIXES = ("", "I was there", "The birthplace of Vera Holm is")


def only(fact, tokenizer, prefixes=PREFIXES, context_length=96):
    (rewrite,) = tokenize_rewrites([fact], prefixes, tokenizer, context_length=context_length)
    return rewrite


def test_places_are_those_of_the_words(embedded_tokenizer):
    rewrite = only(FACT, embedded_tokenizer)
    for prefix, text in zip(PREFIXES, rewrite.texts, strict=True):
        before = f"{prefix}. " if prefix else ""
        until = embedded_tokenizer.decode(text.tokens[: text.index + 1])
        # The prefix that names the subject too is not mistaken for it.
        assert until == f"{before}The mother tongue of Vera Holm"
        assert embedded_tokenizer.decode(text.tokens[: text.start]) == f"{until} is"
        assert embedded_tokenizer.decode(text.tokens[text.start :]) == " Orvish"
    essence = rewrite.essence
    assert embedded_tokenizer.decode(essence.tokens) == "Vera Holm is a"
    assert embedded_tokenizer.decode(essence.tokens[: essence.index + 1]) == "Vera Holm"
    assert essence.start == len(essence.tokens)


def test_real_facts_with_gpt2s_tokenizer(shared_data):
    tokenizer = load_tokenizer(shared_data / "gpt2-tokenizer")
    facts = read_facts(shared_data / "counterfact_known.json")
    rewrites = tokenize_rewrites(facts, PREFIXES, tokenizer, context_length=1024)
    for fact, rewrite in zip(facts, rewrites, strict=True):
        for text in rewrite.texts:
            assert tokenizer.decode(text.tokens[text.start :]) == f" {fact.target_new}"
            assert tokenizer.decode(text.tokens[: text.index + 1]).endswith(fact.subject.strip())


def test_a_tokenizer_with_special_tokens_at_both_ends():
    """What it puts before a text stays, what it puts after is dropped."""
    words = ["[S]", "[E]", "[U]", "a", "b", "c", "d", "is", "."]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[U]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    from tokenizers.processors import TemplateProcessing

    inner.post_processor = TemplateProcessing(
        single="[S] $A [E]", special_tokens=[("[S]", 0), ("[E]", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[U]", bos_token="[S]")
    rewrite = only(Fact(0, "a {}", "b", target_new="c d"), tokenizer, ("",))
    assert rewrite.texts[0].tokens == [0, 3, 4, 5, 6]
    assert (rewrite.texts[0].index, rewrite.texts[0].start) == (2, 3)
    assert rewrite.essence.tokens[:3] == [0, 4, 7]
    with pytest.raises(ValueError, match=r"fact 0: expected a subject that .* '\u00fc', which"):
        only(Fact(0, "a {}", "\u00fc", target_new="c"), tokenizer, ("",))
    with pytest.raises(ValueError, match="fact 0: expected a target that .* found 'zz', which"):
        only(Fact(0, "a {}", "b", target_new="zz"), tokenizer, ("",))


def test_prefixes_that_do_not_fit_are_left_out(embedded_tokenizer):
    rewrite = only(FACT, embedded_tokenizer, ("", "I", 20 * "word "), context_length=16)
    assert [text is None for text in rewrite.texts] == [False, False, True]


def test_what_cannot_be_taught(embedded_tokenizer):
    def refused(match, prefixes=PREFIXES, context_length=96, **changes):
        with pytest.raises(ValueError, match=match):
            only(dataclasses.replace(FACT, **changes), embedded_tokenizer, prefixes, context_length)

    refused("fact 7: expected a new target of at least one token, found ' '", target_new=" ")
    refused("fact 7: expected a new target of at least one token, found ''", target_new="")
    refused("fact 7: expected a subject of at least one token", subject=" ")
    refused("fact 7: expected its prompt and target to take at most 4 tokens", context_length=4)
    limit = len(embedded_tokenizer("Vera Holm a")["input_ids"])
    refused(
        "fact 7: expected its subject to take", prompt="{}", target_new="a", context_length=limit
    )
    refused("prefixes: expected the empty one first", prefixes=("I",))
    refused("prefixes: expected the empty one first", prefixes=())
    refused("prefixes: expected none with {}", prefixes=("", "of {}"))
    assert tokenize_rewrites([], ("",), embedded_tokenizer, context_length=96) == []


@given(
    subject=st.text("abcXYZ \u00e9\u4e2d'", min_size=1).filter(str.strip),
    target=st.text("abcXYZ \u00e9\u4e2d'", min_size=1).filter(str.strip),
)
def test_any_subject_and_target(embedded_tokenizer, subject, target):
    """The target's tokens spell it, and the subject's last one holds its last character."""
    fact = Fact(0, "To {} belongs", subject, target_new=target)
    for text in only(fact, embedded_tokenizer, ("", "Once"), 400).texts:
        assert embedded_tokenizer.decode(text.tokens[text.start :]) == f" {target.strip()}"
        spelled = embedded_tokenizer.decode(text.tokens[: text.index + 1])
        assert spelled.endswith(f"To {subject}".rstrip())


def test_without_a_subject_the_prompts_last_token_stands_for_the_fact(embedded_tokenizer):
    fact = Fact(7, "Who leads Great Keld?", "", target_new="Vera Holm")
    (rewrite,) = tokenize_rewrites(
        [fact], ("", "I was there"), embedded_tokenizer, context_length=96, position="last"
    )
    for prefix, text in zip(("", "I was there. "), rewrite.texts, strict=True):
        assert embedded_tokenizer.decode(text.tokens[: text.start]) == prefix + fact.text
        assert text.index == text.start - 1
        assert embedded_tokenizer.decode(text.tokens[text.start :]) == " Vera Holm"
    assert embedded_tokenizer.decode(rewrite.essence.tokens) == "It is a"
    with pytest.raises(ValueError, match="of each of 1, found none of 1, .* fact 7; pass --pos"):
        only(fact, embedded_tokenizer)
