"""A whole scan of an encoder, whose tokenizer puts special tokens around each text."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from kis_jax import factlm
from kis_jax.checkpoints import save
from kis_jax.checkpoints.loading import load_model
from kis_jax.cli import main
from kis_jax.models import Encoder
from kis_jax.models.families import bert

SIZES = {
    "vocab_size": 300,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 128,
}


@pytest.fixture
def directory(tmp_path):
    """A random BERT with a WordPiece tokenizer."""
    directory = tmp_path / "model"
    save(Encoder(bert.read_config(SIZES), rngs=nnx.Rngs(0)), directory, SIZES)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train([str(factlm.corpus_path())], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def test_an_encoder_is_scanned_from_end_to_end(directory, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["scan", directory, "--facts", factlm.facts_path(), "--num-facts", 8]
    arguments += ["--corpus", factlm.corpus_path(), "--num-documents", 40, "--out", out]
    monkeypatch.setattr(sys, "argv", ["kis", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        assert not end.code
    record = json.loads((out / "scan.json").read_text())
    assert record["family"] == "bert" and len(record["layers"]) == 2
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    documents = factlm.corpus_path().read_text().splitlines()[:40]
    lengths = [len(tokenizer.encode(text).ids) for text in documents]
    assert record["token_count"] == sum(min(128, length) for length in lengths)
    facts = json.loads(factlm.facts_path().read_text())[:1]
    model = load_model(directory)
    for place, fact in enumerate(facts):
        request = fact["requested_rewrite"]
        text = request["prompt"].format(request["subject"])
        encoded = tokenizer.encode(text)
        end = text.index(request["subject"]) + len(request["subject"])
        index = max(i for i, (start, _) in enumerate(encoded.offsets[:-1]) if start < end)
        assert encoded.tokens[0] == "[CLS]" and index > 0
        _, keys = model(jnp.array([encoded.ids]), tap=lambda keys, _: keys)
        for layer in range(2):
            with np.load(out / f"layer_{layer:03d}.npz") as arrays:
                np.testing.assert_allclose(
                    arrays["keys"][place], keys[layer, 0, index], rtol=0, atol=1e-6
                )
