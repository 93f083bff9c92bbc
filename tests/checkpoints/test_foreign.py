"""What may stand in a config.json: notes are ignored by name, settings not computed are refused."""

import importlib.machinery
import json
import shutil
import sys
import types

import pytest

from kis_jax.checkpoints import hub
from kis_jax.checkpoints.opening import ignored_attributes, read_config
from kis_jax.checkpoints.tokenizers import load_tokenizer
from kis_jax.factlm import model_directory
from kis_jax.inspect.run import inspect_model
from kis_jax.models.families import FAMILIES
from tests.golden.cases import CASES

BASES = {case.config.model_type: case.config.to_dict() for case in CASES.values()}


@pytest.fixture
def written(tmp_path):
    def write(model_type, attributes):
        base = {name: value for name, value in BASES[model_type].items() if name not in attributes}
        (tmp_path / "config.json").write_text(json.dumps(base | attributes))
        return tmp_path

    return write


NOTES = {
    "_model_name_or_path": "x/y",
    "eos_token_id_list": [1, 2],
    "is_llama_config": True,
    "license": "apache-2.0",
    "transformers.js_config": {"dtype": "q4"},
    "unsloth_version": "2025.1",
    "wandb_run": "abc",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_does_not_know_is_named_and_changes_nothing(written, family):
    directory = written(family, {})
    plain, before = read_config(directory)[1], ignored_attributes(directory)
    directory = written(family, NOTES)
    assert read_config(directory)[1] == plain
    assert set(ignored_attributes(directory)) - set(before) == NOTES.keys()


@pytest.mark.parametrize(
    ("family", "attributes", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "wandb_run": "x"}, "inverse_layer_idx="),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config="),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("llama", {"pruned_heads": {"0": [1]}}, "pruned_heads="),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative"),
        ("bert", {"is_decoder": True}, "is_decoder=True"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("gptj", {"rotary": False}, "rotary=False"),
        ("gptj", {"is_causal": None}, "is_causal=None"),
    ],
)
def test_what_transformers_knows_and_is_not_computed_is_refused(
    written, family, attributes, message
):
    directory = written(family, attributes)
    with pytest.raises(ValueError, match=message) as error:
        read_config(directory)
    assert "wandb_run" not in str(error.value)


def test_a_second_name_is_read_as_the_first(written):
    """Those who train a GPT-2 elsewhere leave its context under the name that others have."""
    context = BASES["gpt2"]["n_positions"]
    plain = read_config(written("gpt2", {}))[1]
    same = written("gpt2", {"max_position_embeddings": context, "hidden_size": None})
    assert read_config(same)[1] == plain
    assert ignored_attributes(same) == ()
    with pytest.raises(ValueError, match=f"n_positions, max_position_.*found {context} and 77;"):
        read_config(written("gpt2", {"max_position_embeddings": 77}))
    alone = {k: v for k, v in BASES["gpt2"].items() if k != "n_positions"}
    (same / "config.json").write_text(json.dumps(alone | {"max_position_embeddings": 77}))
    assert read_config(same)[1].context_length == 77


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_a_dtype_left_open_is_read(tmp_path, name):
    directory = shutil.copytree(model_directory(), tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    config |= {name: "auto", "wandb_run": "x7"}
    (directory / "config.json").write_text(json.dumps(config))
    text = "Vera Holm was born in 1929"
    expected = load_tokenizer(hub.locate("factlm"))(text)["input_ids"]
    assert load_tokenizer(directory)(text)["input_ids"] == expected
    assert inspect_model(str(directory)).ignored_attributes == ("wandb_run",)


SENTENCEPIECE = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"


@pytest.mark.parametrize(
    ("model_type", "name", "installed"),
    [
        ("llama", "tokenizer.model", False),
        ("bert", "spm.model", False),
        # Of a BERT transformers makes a tokenizer of five tokens, and none of the file.
        ("bert", "spm.model", True),
    ],
)
def test_sentencepiece_alone_is_no_tokenizer(written, monkeypatch, model_type, name, installed):
    module = None
    if installed:
        module = types.ModuleType("sentencepiece")
        module.__spec__ = importlib.machinery.ModuleSpec("sentencepiece", None)
    monkeypatch.setitem(sys.modules, "sentencepiece", module)
    directory = written(model_type, {})
    (directory / name).write_bytes(SENTENCEPIECE)
    with pytest.raises(
        ValueError, match=f"expected tokenizer.json, found {name} alone, .*save_pretrained"
    ) as refusal:
        load_tokenizer(directory)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"normalizer": {"type": "NFKC"}},
    ],
)
def test_a_tokenizer_is_what_its_file_says(tmp_path, change):
    """As a GPT-2's transformers reads no more than vocabulary and merges of the file."""
    directory = shutil.copytree(model_directory(), tmp_path / "model")
    content = json.loads((directory / "tokenizer.json").read_text())
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    if "pre_tokenizer" in change:
        change = {"pre_tokenizer": content["pre_tokenizer"] | change["pre_tokenizer"]}
    (directory / "tokenizer.json").write_text(json.dumps(content | change))
    load_tokenizer(directory)
    settings["tokenizer_class"] = "GPT2Tokenizer"
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="what tokenizer.json says, .* of it as a GPT2Tokenizer"):
        load_tokenizer(directory)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    load_tokenizer(directory)
