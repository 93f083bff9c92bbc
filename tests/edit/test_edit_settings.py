import dataclasses

import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.models.families import gpt2
from kis_jax.passes.targets.settings import TargetSettings, edit_settings, published_settings
from tests import golden


def shape(family, num_layers, width, vocab_size=50_000):
    """A configuration of which only this counts."""
    smallest = gpt2.read_config({})
    changes = dict(num_layers=num_layers, width=width, vocab_size=vocab_size)
    return dataclasses.replace(smallest, family=family, **changes)


def test_published_settings_are_found_by_shape():
    """The table of the literature, entry by entry."""
    medium = published_settings(shape("gpt2", 24, 1024))
    assert (medium.layer, medium.target.clamp, medium.target.steps) == (8, 3, 20)
    large = published_settings(shape("gpt2", 36, 1280))
    assert (large.layer, large.target.clamp) == (12, 4)
    xl = published_settings(shape("gpt2", 48, 1600))
    assert xl.target == TargetSettings(20, 0.5, 4, 0.5)
    assert xl.batch_target == TargetSettings(20, 0.5, 0.75, 0.5, convention="memit")
    assert (xl.weight, xl.null_space, xl.null_ridge) == (20000, 0.02, 10)
    gptj = published_settings(shape("gptj", 28, 4096))
    assert (gptj.layer, gptj.layers, gptj.weight) == (5, (3, 4, 5, 6, 7, 8), 15000)
    assert (gptj.target.steps, gptj.batch_target.steps) == (20, 25)
    assert published_settings(shape("gpt_neox", 44, 6144)).layer == 15
    llama2 = published_settings(shape("llama", 32, 4096, 32_000))
    assert (llama2.layer, llama2.layers) == (5, (4, 5, 6, 7, 8))
    assert llama2.target == TargetSettings(25, 0.5, 4, 1e-3)
    assert llama2.batch_target.clamp == 4
    llama3 = published_settings(shape("llama", 32, 4096, 128_256))
    assert llama3.target == TargetSettings(25, 0.5, 4, 1e-3)
    assert llama3.batch_target == TargetSettings(25, 0.1, 0.75, 0.5, convention="memit")
    assert "llama2" in llama2.origin and "llama3" in llama3.origin


def test_other_shapes_follow_the_rule_of_their_family():
    small = published_settings(shape("gpt2", 12, 768))
    assert small.layer == 4 and small.layers == (0, 1, 2, 3, 4)
    assert small.origin.startswith("by rule")
    pythia = published_settings(shape("gpt_neox", 16, 2048))
    assert pythia.layer == 5 and "Pythia" in pythia.origin
    qwen = published_settings(shape("qwen2", 24, 896))
    assert qwen.layer == 4 and "nothing is published" in qwen.origin
    assert published_settings(shape("gpt2", 1, 8)).layers == (0,)


@pytest.mark.parametrize("name", golden.NAMES)
def test_every_family_has_layers_within_the_model(name):
    config = load_model(golden.DIRECTORY / name).config
    found = edit_settings(config)
    assert found.layers[-1] == found.layer or found.layer in found.layers
    assert list(found.layers) == sorted(set(found.layers))
    assert 0 <= found.layers[0] and found.layers[-1] < config.num_layers


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(steps=0), "steps: expected at least 1"),
        (dict(learning_rate=0.0), "learning_rate: expected a positive number"),
        (dict(clamp=float("nan")), "clamp: expected a positive number"),
        (dict(weight_decay=-1.0), "weight_decay: expected 0 or more"),
        (dict(kl_weight=-1.0), "kl_weight: expected 0 or more"),
        (dict(stop_at=0.0), "stop_at: expected a probability above 0"),
        (dict(convention="emmet"), "convention: expected one of own, rome, memit"),
    ],
)
def test_settings_with_which_nothing_is_sought(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(TargetSettings(20, 0.5, 4, 0.5), **change)
