"""Whatever is a default runs: every family, every method, on small random models."""

import jax
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load_model
from kis_jax.data.facts import Fact
from kis_jax.edit.closed_forms import METHODS
from kis_jax.edit.methods import make_edits
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.second_moments import second_moments
from kis_jax.passes.targets.settings import check_together, edit_settings
from tests import golden

DECODERS = [
    name
    for name in golden.NAMES
    for config in [load_model(golden.DIRECTORY / name).config]
    if config.causal
    if config.context_length >= 20  # of letters, "Therefore" and 10 more
]
QUICK = ("gpt2_tied", "olmo2", "mixtral")  # of one, a norm follows the MLP
FACTS = (
    Fact(0, "{} ab c", "de", target_new="f"),
    Fact(1, "a b {} c d", "g h", target_new="ij k"),
)


@pytest.mark.filterwarnings("ignore:layer 0. the second moment is singular")
@pytest.mark.filterwarnings("ignore:layer .* read fewer than")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in DECODERS]
)
def test_no_method_is_refused_and_no_number_is_lost(name, letters):
    model = load_model(golden.DIRECTORY / name)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefghijk "), size=14)) for _ in range(60)]
    moments = second_moments(model, letters, texts)
    layer = edit_settings(model.config).layer
    before = np.asarray(memory_kernel(model, layer))
    # Beside attention, keys of layer 0 are of the letter alone, with more dimensions than letters.
    inverse = "pseudo" if name == "gpt_neox_parallel" else "auto"
    for method in METHODS:
        if method == "finetune" and model.config.experts is not None:
            with pytest.raises(ValueError, match="one MLP a layer for method finetune"):
                make_edits(model, letters, FACTS, moments, method=method)
            continue
        made = make_edits(model, letters, FACTS, moments, method=method, inverse=inverse)
        after = np.asarray(memory_kernel(made.model, layer))
        assert np.isfinite(after).all() and np.abs(after - before).max() > 0, method
        assert [outcome.reason for outcome in made.outcomes] == [None, None], method
        jax.block_until_ready(after)
    jax.clear_caches()  # no other model runs these programs, and all together map too much memory


def test_several_layers_are_refused_from_the_configuration_alone():
    config = load_model(golden.DIRECTORY / "gemma2").config
    check_together([0], config)
    with pytest.raises(ValueError, match="layers: expected one for gemma2, which has a norm"):
        check_together([0, 1], config)


def test_what_c_refuses_is_refused_before_any_search(letters, monkeypatch):
    from kis_jax.edit import job

    model = load_model(golden.DIRECTORY / "gpt2_tied")
    moments = second_moments(model, letters, ["ab cd", "ef"])  # fewer tokens than dimensions
    monkeypatch.setattr(job, "target_values", lambda *_, **__: pytest.fail("searched"))
    with pytest.raises(ValueError, match="positive definite"):
        make_edits(model, letters, FACTS, moments, inverse="cholesky", prefixes=[""])
