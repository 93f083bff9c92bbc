"""What of a checkpoint belongs to a model beside its weights: fetched, copied and read by name."""

from __future__ import annotations

# One of these makes a tokenizer; the others go with it.
TOKENIZERS = frozenset(
    """
    sentencepiece.bpe.model spiece.model tokenizer.json tokenizer.model vocab.json vocab.txt
    """.split()
)
COMPANIONS = TOKENIZERS | frozenset(
    """
    LICENSE LICENSE.md LICENSE.txt NOTICE NOTICE.txt added_tokens.json chat_template.jinja
    chat_template.json config.json generation_config.json merges.txt special_tokens_map.json
    tokenizer_config.json
    """.split()
)
