import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kis_jax.data.continuations import join, tokenize_continuations
from tests.data.test_tokenizers import ALPHABET, TOKENIZERS, decoded, plain

BARE = ("byte-level, BOS", "SentencePiece, BOS", "SentencePiece, BOS, a blank by the normalizer")


def one(tokenizer, prompt, target, context_length=10**6):
    (found,) = tokenize_continuations([prompt], [target], tokenizer, context_length=context_length)
    return found


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(
    st.text(ALPHABET, min_size=1, max_size=8).filter(lambda text: text.strip(" \u0301")),
    st.sampled_from(["Vera was born in", "Zoë Bé's mother tongue is ", "北京", "R2-D2 ("]),
    st.sampled_from(["", " "]),
)
@example("Besançon", "Vera was born in", "")
@example("北京", "O'Brien", "")
@example("🦜", "北京", " ")
def test_what_starts_there_is_the_target(tokenizer, target, prompt, blank):
    target = target.strip().lstrip("\u0301 ")
    if tokenizer.unk_token is not None and not set(target) <= set("aeoZB dñëü'-.29"):
        target = "Zoe Bado"
    found = one(tokenizer, prompt, blank + target)
    before, after = found.tokens[: found.start], found.tokens[found.start :]
    assert decoded(tokenizer, after).strip() == plain(tokenizer, target).strip()
    # Decoders of whole texts take a blank that was put before the text for one.
    assert decoded(tokenizer, before).strip() == plain(tokenizer, prompt).strip()
    assert found.tokens[-1] not in tokenizer.all_special_ids


def test_a_target_tokenizes_as_in_its_text_not_as_it_does_alone(embedded_tokenizer):
    found = one(embedded_tokenizer, "The mother tongue of Vera Holm is", "Orvish")
    prompt = embedded_tokenizer("The mother tongue of Vera Holm is")["input_ids"]
    assert found.tokens[: found.start] == prompt
    assert found.tokens[found.start :] == embedded_tokenizer(" Orvish")["input_ids"]
    assert found.tokens[found.start :] != embedded_tokenizer("Orvish")["input_ids"]


def test_a_token_of_the_blank_alone_is_the_targets():
    tokenizer = TOKENIZERS["SentencePiece"]
    found = one(tokenizer, "Vera was born in", "ガ")
    tokens = tokenizer.convert_ids_to_tokens(found.tokens)
    assert tokens[found.start].startswith("▁")
    assert "".join(tokens[: found.start]) == "▁Vera▁was▁born▁in"


@pytest.mark.parametrize(
    ("prompt", "target", "expected"),
    [
        ("A is", "B", ("A is B", 4)),
        ("A is  ", "  B ", ("A is B", 4)),
        ("A is:\n", " B", ("A is:\nB", 6)),
        ("A is\t", "B", ("A is\tB", 5)),
        ("", "B", ("B", 0)),
        ("日本的首都是", "東京", ("日本的首都是東京", 6)),
        ("日本的首都是 ", " 東京", ("日本的首都是東京", 6)),
        ("谁写了它？", "Ann", ("谁写了它？Ann", 5)),
        ("谁写了它?", "安娜", ("谁写了它?安娜", 5)),
        ("日本の首都は", "東京", ("日本の首都は東京", 6)),
        ("เมืองหลวงคือ", "กรุงเทพ", ("เมืองหลวงคือกรุงเทพ", 12)),
        ("The capital of Japan is", "東京", ("The capital of Japan is 東京", 23)),
        ("대한민국의 수도는", "서울", ("대한민국의 수도는 서울", 9)),
        ("Столица России -", "Москва", ("Столица России - Москва", 16)),
        ("The title is “", "Emma", ("The title is “Emma", 14)),
        ("Who wrote it? (", "Ann", ("Who wrote it? (Ann", 15)),
    ],
)
def test_one_blank_stands_between(prompt, target, expected):
    assert join(prompt, target) == expected


def test_the_order_is_that_of_the_prompts(embedded_tokenizer):
    prompts, targets = ["Vera is", "The home of Vera Holm is"], ["a baker", "Oru"]
    found = tokenize_continuations(prompts, targets, embedded_tokenizer, context_length=96)
    assert found == [one(embedded_tokenizer, *pair) for pair in zip(prompts, targets, strict=True)]
    assert tokenize_continuations([], [], embedded_tokenizer, context_length=96) == []


@pytest.mark.parametrize(
    ("prompt", "target", "message"),
    [
        ("A is", "  ", "target '  ' after 'A is': expected at least one token, found none"),
        ("A is", "", "expected at least one token"),
        ("", "Oru", "expected a token before it"),
        ("A is", "b c d e f g h i j", "expected at most 8 tokens with its prompt"),
    ],
)
def test_what_cannot_be_scored_is_named(embedded_tokenizer, prompt, target, message):
    with pytest.raises(ValueError, match=message):
        one(embedded_tokenizer, prompt, target, context_length=8)


def test_unknown_characters_and_missing_targets_are_named(embedded_tokenizer):
    with pytest.raises(ValueError, match=r"found some that it reads as \[UNK\]"):
        one(TOKENIZERS["WordPiece"], "Vera was born in", "Ψ")
    with pytest.raises(ValueError, match="targets: expected one for each of 2 prompts, found 1"):
        tokenize_continuations(["a", "b"], ["c"], embedded_tokenizer, context_length=8)


@pytest.mark.parametrize("name", BARE)
def test_a_prompt_may_be_empty_after_a_bos(name):
    found = one(TOKENIZERS[name], "", "Vera")
    assert found.start == 1 and decoded(TOKENIZERS[name], found.tokens).strip() == "Vera"
