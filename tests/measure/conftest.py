import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def letters():
    """A tokenizer of single letters, blanks dropped, for the smallest models: 41 tokens or less."""
    known = {token: place for place, token in enumerate(["?", *"abcdefghijklmnopqrs.z"])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="?"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
