"""Tensors that real checkpoints hold beside those of today's torch models, and older names."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kis_jax.checkpoints import pieces
from kis_jax.checkpoints.loading import load_model
from kis_jax.models.families import FAMILIES
from tests import golden
from tests.golden.cases import CASES

LEFTOVERS = {
    "gpt2_tied": ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"],
    "gptj": ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"],
    "gpt_neox_parallel": [
        "gpt_neox.layers.0.attention.bias",
        "gpt_neox.layers.1.attention.masked_bias",
        "gpt_neox.layers.1.attention.rotary_emb.inv_freq",
    ],
    "llama": ["model.layers.1.self_attn.rotary_emb.inv_freq"],
    "bert": [
        "bert.embeddings.position_ids",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.predictions.decoder.weight",
    ],
    "roberta": ["roberta.embeddings.position_ids", "lm_head.decoder.weight"],
    "distilbert": ["vocab_projector.weight", "pre_classifier.weight", "classifier.bias"],
}


@pytest.fixture
def copy(tmp_path):
    """Copies a golden checkpoint, its tensors changed by a function."""

    def make(name, change):
        directory = tmp_path / name
        shutil.copytree(golden.DIRECTORY / name, directory, dirs_exist_ok=True)
        tensors = change(load_file(directory / "model.safetensors"))
        save_file(tensors, directory / "model.safetensors")
        return directory

    return make


def assert_same(directory, name):
    jax.tree.map(
        np.testing.assert_array_equal, load_model(directory), load_model(golden.DIRECTORY / name)
    )


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_no_model_needs_is_left_alone(copy, name):
    extra = {tensor: np.ones((2, 3), np.float32) for tensor in LEFTOVERS[name]}
    assert_same(copy(name, lambda tensors: {**tensors, **extra}), name)


TIED = {
    "gpt2_tied": ("lm_head.weight", "transformer.wte.weight"),
    "gpt_neox_in_turn": ("embed_out.weight", "gpt_neox.embed_in.weight"),
    "llama_llama3": ("lm_head.weight", "model.embed_tokens.weight"),
}


@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_that_is_stored_must_be_the_embedding(copy, name, monkeypatch):
    """Torch uses a stored head that differs, whatever the config says."""
    monkeypatch.setattr(pieces, "_PIECE", 100)
    head, embedding = TIED[name]

    def changed(tensors):
        other = tensors[embedding].copy()
        other[-1, -1] += 1
        return {**tensors, head: other}

    assert_same(copy(name, lambda tensors: {**tensors, head: tensors[embedding]}), name)
    directory = copy(name, changed)
    with pytest.raises(ValueError, match=f"{head}: expected the numbers of {embedding}.*others"):
        load_model(directory)
    directory = copy(name, lambda tensors: {**tensors, head: tensors[embedding][1:]})
    with pytest.raises(ValueError, match=rf"{head} of shape \(.* where config.json asks for"):
        load_model(directory)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("gpt2_tied", "transformer."),
        ("gpt_neox_in_turn", "gpt_neox."),
        ("gemma3", "model."),
        ("bert", "bert."),
        ("roberta", "roberta."),
        ("distilbert", "distilbert."),
    ],
)
def test_a_bare_model_has_no_prefix(copy, name, prefix):
    def strip(tensors):
        own = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        return {key.removeprefix(prefix): tensor for key, tensor in own.items()}

    assert_same(copy(name, strip), name)


def test_bert_has_older_names_of_norms(copy):
    """`gamma` and `beta`, as the files of 2018 on the hub have them."""

    def rename(tensors):
        def old(key):
            key = key.replace("LayerNorm.weight", "LayerNorm.gamma")
            return key.replace("LayerNorm.bias", "LayerNorm.beta")

        return {old(key): tensor for key, tensor in tensors.items()}

    assert_same(copy("bert", rename), "bert")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("llama", "model.layers.0.self_attn.q_proj.bias"),
        ("olmo2", "model.layers.0.input_layernorm.weight"),
        ("gptj", "transformer.h.0.attn.q_proj.bias"),
        ("mistral", "model.layers.1.self_attn.q_norm.weight"),
        ("gpt_neox_in_turn", "gpt_neox.layers.0.attention.dense.bias"),
    ],
)
def test_a_tensor_that_would_change_the_result_is_refused(copy, name, tensor):
    directory = copy(name, lambda tensors: {**tensors, tensor: np.ones(16, np.float32)})
    with pytest.raises(ValueError, match=f"unknown {tensor}"):
        load_model(directory)


def without_head(name):
    head = FAMILIES[CASES[name].config.model_type].weights[-2].source.removesuffix("weight")
    return lambda tensors: {k: v for k, v in tensors.items() if not k.startswith(head)}


@pytest.mark.parametrize("name", ["llama", "gpt_neox_parallel", "gpt2_untied"])
def test_a_model_saved_without_its_head_has_its_keys_where_the_head_is_tied(copy, name):
    directory = copy(name, without_head(name))
    message = "the model was saved without its head: save .*, or set tie_word_embeddings to true"
    with pytest.raises(ValueError, match=message):
        load_model(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))

    def keys(directory):
        tokens = jax.numpy.arange(8)[None]
        return load_model(directory)(tokens, tap=lambda keys, mask: keys)[1]

    np.testing.assert_array_equal(keys(directory), keys(golden.DIRECTORY / name))


def test_a_head_that_cannot_be_tied_must_be_saved(copy):
    with pytest.raises(ValueError, match="without its head: save [^,]*, as [^,]*$"):
        load_model(copy("gptj", without_head("gptj")))


def test_more_than_a_head_missing_is_another_matter(copy):
    def tear(tensors):
        kept = without_head("llama")(tensors)
        return {key: kept[key] for key in kept if key != "model.norm.weight"}

    with pytest.raises(ValueError, match="missing .*model.norm.weight.* the download is whole"):
        load_model(copy("llama", tear))
