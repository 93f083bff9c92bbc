"""What of a checkpoint belongs to a model beside its weights: fetched, copied and read by name."""

from __future__ import annotations

# Of SentencePiece: from these a fast tokenizer has yet to be made.
SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model")
# One of these makes a tokenizer; the others go with it.
TOKENIZERS = frozenset([*SENTENCEPIECE, "tokenizer.json", "vocab.json", "vocab.txt"])
COMPANIONS = TOKENIZERS | frozenset(
    """
    LICENSE LICENSE.md LICENSE.txt NOTICE NOTICE.txt added_tokens.json chat_template.jinja
    chat_template.json config.json generation_config.json merges.txt special_tokens_map.json
    tokenizer_config.json
    """.split()
)
