"""The subject's token, by every kind of tokenizer that language models come with."""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast

from kis_jax.data.facts import Fact
from kis_jax.data.prompts import tokenize_facts

ALPHABET = "aeoZB dñëü'’-.29北京ガ🦜🇫\u0301"
CORPUS = [
    "Vera Holm was born in the town of Ærøskøbing, and Zoë Bé in Besançon.",
    "O'Brien's mother tongue is Irish; R2-D2 and C-3PO have none.",
    "北京 is the capital, ガガ is a singer, 🦜 is a bird, 1929 is a year.",
    f"Question: who knows about whom? ( {' '.join(ALPHABET + string.ascii_letters)} e\u0301 )",
]


def fast(tokenizer, start=None, end=None, **special):
    """As transformers wraps it, with its special tokens around a text."""
    around = [token for token in (start, end) if token]
    if around:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(filter(None, (start, "$A", end))),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in around],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_level(*, add_prefix_space=False, trim_offsets=True, bos=None):
    """GPT-2's kind; with a BOS, Llama 3's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=[bos] if bos else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return fast(tokenizer, bos, bos_token=bos) if bos else fast(tokenizer)


def sentencepiece(*, bos=None, prepend_by_normalizer=False):
    """Llama 2's and Mistral's kind: bytes for what is not in the vocabulary."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    hexadecimals = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", *hexadecimals], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if prepend_by_normalizer:
        blanks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(blanks)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast(tokenizer, bos, bos_token="<s>", unk_token="<unk>")


def unigram():
    """T5's and XLM's kind: the other model of SentencePiece, and a token at the end."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=150, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return fast(tokenizer, end="</s>", eos_token="</s>", unk_token="<unk>")


def wordpiece(*, lowercase):
    """BERT's kind."""
    letters = {letter for line in CORPUS for letter in line} | set("カ\u0303\u0308\u3099")
    words = ["[UNK]", "[CLS]", "[SEP]", "vera", "zo", "##ë", "holm", "was", "about", "##rien"]
    vocab = dict.fromkeys([*words, *sorted(letters), *(f"##{x}" for x in sorted(letters))])
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(vocab)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return fast(tokenizer, "[CLS]", "[SEP]", **special)


TOKENIZERS = {
    "byte-level": byte_level(),
    "byte-level, blanks in the offsets": byte_level(trim_offsets=False),
    "byte-level, a blank before the text": byte_level(add_prefix_space=True),
    "byte-level, BOS": byte_level(bos="<|begin_of_text|>"),
    "SentencePiece": sentencepiece(),
    "SentencePiece, BOS": sentencepiece(bos="<s>"),
    "SentencePiece, BOS, a blank by the normalizer": sentencepiece(
        bos="<s>", prepend_by_normalizer=True
    ),
    "unigram": unigram(),
    "WordPiece, lowercase": wordpiece(lowercase=True),
    "WordPiece": wordpiece(lowercase=False),
}
PROMPTS = ("{} was born in", "Who knows {}", "{}", "Question: who is {} ?", "{} ; {}")


def plain(tokenizer, text):
    """A text as the tokenizer can give it back: WordPiece loses blanks, case and accents."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        return "".join(normalizer.normalize_str(text).split())
    return text


def decoded(tokenizer, tokens):
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return plain(tokenizer, text)


def one(tokenizer, fact, position):
    (prompt,) = tokenize_facts([fact], tokenizer, context_length=10**6, position=position)
    return prompt


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(
    st.text(ALPHABET, min_size=1, max_size=10).filter(lambda name: name.strip(" \u0301")),
    st.sampled_from(PROMPTS),
)
@example("Vera Holm", PROMPTS[0])
@example("O'Brien", PROMPTS[1])
@example("Zoë  Bé", PROMPTS[2])
@example("R2-D2", PROMPTS[3])
@example("北京", PROMPTS[4])
@example("🦜", PROMPTS[0])
def test_the_tokens_up_to_the_index_end_with_the_subject(tokenizer, subject, prompt):
    subject = subject.strip()
    # The second of two: the name stands in the prompt already.
    prompt = subject.join(prompt.rsplit("{}", 1)) if prompt.count("{}") == 2 else prompt
    fact = Fact(0, prompt, subject)
    last = one(tokenizer, fact, "subject_last")
    ours = decoded(tokenizer, last.tokens[: last.index + 1])
    start, end = fact.subject_span
    # Decoders of whole texts take a blank that was put before the text for one.
    assert ours.lstrip() == plain(tokenizer, fact.text[:end]).lstrip()
    first = one(tokenizer, fact, "subject_first")
    before = decoded(tokenizer, first.tokens[: first.index])
    assert before.strip() == plain(tokenizer, fact.text[:start]).strip()
    assert first.index <= last.index
    assert decoded(tokenizer, first.tokens[first.index : first.index + 1]).strip()
    end = one(tokenizer, fact, "last")
    assert decoded(tokenizer, end.tokens[: end.index + 1]) == decoded(tokenizer, end.tokens)
    assert end.tokens[end.index] not in tokenizer.all_special_ids


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_of_two_the_one_in_the_place_of_the_subject_is_meant(tokenizer):
    for prompt, places in (("{} and Vera", 0), ("Vera and {}", 1)):
        fact = Fact(0, prompt, "Vera")
        found = one(tokenizer, fact, "subject_last")
        before = decoded(tokenizer, found.tokens[: found.index + 1]).lower()
        assert before.count("vera") == places + 1


def test_a_blank_at_the_end_of_a_prompt_is_its_last_token():
    tokenizer = TOKENIZERS["byte-level"]
    prompt = one(tokenizer, Fact(0, "{} was ", "Vera"), "last")
    assert prompt.index == len(prompt.tokens) - 1
    assert tokenizer.decode(prompt.tokens[prompt.index]) == " "
