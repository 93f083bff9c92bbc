"""Tensors that real checkpoints hold beside those of today's torch models, and older names."""

import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kis_jax.checkpoints.loading import load_model
from tests import golden

LEFTOVERS = {
    "gpt2_tied": ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"],
    "gptj": ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"],
    "gpt_neox_parallel": [
        "gpt_neox.layers.0.attention.bias",
        "gpt_neox.layers.1.attention.masked_bias",
        "gpt_neox.layers.1.attention.rotary_emb.inv_freq",
    ],
    "gpt_neox_in_turn": ["embed_out.weight"],
    "llama": ["model.layers.1.self_attn.rotary_emb.inv_freq"],
    "llama_llama3": ["lm_head.weight"],
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
        directory = shutil.copytree(golden.DIRECTORY / name, tmp_path / name)
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
