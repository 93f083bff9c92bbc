"""Files like the config.json of well-known models, read as what these are.

Their attributes were typed out, not downloaded: what their authors publish, as far as we know it.
The factors of Phi-3's long positions, 48 each, are invented where a test needs them.
"""

import json
from pathlib import Path

import jax
import pytest
from flax import nnx

from kis_jax.models.config import Experts
from kis_jax.models.families import FAMILIES
from kis_jax.models.rotary import Banded, Long, Ramp, Rotary

CONFIGS = json.loads(Path(__file__).with_name("hub_configs.json").read_text())
# Of the released weights; for encoders without heads and pooler.
PARAMETERS = {
    "EleutherAI/gpt-j-6b": 6_050_882_784,
    "EleutherAI/pythia-1b": 1_011_781_632,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-3-1b-pt": 999_885_952,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "ibm-granite/granite-3.0-8b-base": 8_170_848_256,
    "allenai/Olmo-3-1025-7B": 7_298_011_136,
    "mistralai/Ministral-3-8B-Base-2512": 8_489_553_920,  # its text part
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "allenai/OLMoE-1B-7B-0924": 6_919_161_856,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "openai/gpt-oss-20b": 20_914_757_184,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-3-mini-128k-instruct": 3_821_079_552,
    "google-bert/bert-base-uncased": 109_482_240 - 590_592,
    "FacebookAI/roberta-base": 124_645_632 - 590_592,
    "distilbert/distilbert-base-uncased": 66_362_880,
    "cross-encoder/ms-marco-MiniLM-L6-v2": 22_713_216 - 147_840,
    "deepset/roberta-base-squad2": 124_645_632 - 590_592,
    "microsoft/deberta-v3-base": 183_831_552,
    "microsoft/deberta-v2-xlarge": 884_593_152,
}


def attributes_of(name):
    attributes = json.loads(json.dumps(CONFIGS[name]))
    if name == "openai/gpt-oss-20b":
        del attributes["quantization_config"]  # as it is saved in floating point
    if name == "microsoft/Phi-3-mini-128k-instruct":
        scaling = attributes["rope_scaling"]  # its factors are invented
        scaling["short_factor"] = [1.0 + 0.05 * i for i in range(48)]
        scaling["long_factor"] = [1.0 + i for i in range(48)]
    return attributes


def read(name):
    attributes = attributes_of(name)
    return FAMILIES[attributes["model_type"]].read_config(attributes)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_has_as_many_parameters_as_were_released(name):
    family, config = FAMILIES[CONFIGS[name]["model_type"]], read(name)
    model = nnx.eval_shape(lambda: family.model(config, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) == PARAMETERS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_own_copy_of_a_file_reads_as_the_same(name):
    """Its config classes move attributes, add their defaults and rename positions."""
    from transformers import AutoConfig

    attributes = attributes_of(name)
    rewritten = AutoConfig.for_model(**attributes).to_dict()
    family = FAMILIES[attributes["model_type"]]
    assert family.read_config(json.loads(json.dumps(rewritten))) == read(name)


def test_positions_are_read():
    def rotary(name):
        return read(name).rotary

    assert rotary("EleutherAI/gpt-j-6b") == Rotary(64, 1e4, interleaved=True)
    assert rotary("EleutherAI/pythia-1b") == Rotary(64, 1e4)
    assert rotary("meta-llama/Llama-2-7b-hf") == Rotary(128, 1e4)
    assert rotary("meta-llama/Llama-3.1-8B") == Rotary(
        128, 5e5, scaling=Banded(8.0, 1.0, 4.0, 8192)
    )
    assert rotary("meta-llama/Llama-3.2-1B").scaling == Banded(32.0, 1.0, 4.0, 8192)
    assert rotary("Qwen/Qwen2.5-0.5B") == Rotary(64, 1e6)
    gemma = read("google/gemma-3-1b-pt")
    assert (gemma.rotary, gemma.local_rotary) == (Rotary(256, 1e6), Rotary(256, 1e4))
    scaling = rotary("microsoft/Phi-3-mini-128k-instruct").scaling
    assert isinstance(scaling, Long) and scaling.original == 4096
    assert scaling.amplitude == pytest.approx(1.1902380714238083)
    assert read("microsoft/Phi-3-mini-128k-instruct").context_length == 131072
    olmo3 = read("allenai/Olmo-3-1025-7B")
    assert olmo3.local_rotary == Rotary(128, 5e5) and isinstance(olmo3.rotary.scaling, Ramp)
    ministral = rotary("mistralai/Ministral-3-8B-Base-2512")
    assert ministral.scaling == Ramp(16.0, 1.0, 32.0, 16384, 1.0)
    assert ministral.growth == (0.1, 16384)
    assert read("HuggingFaceTB/SmolLM3-3B").unrotated == tuple(range(3, 36, 4))
    assert read("Qwen/Qwen3-30B-A3B").experts == Experts(count=128, chosen=8, renormalized=True)
    assert not read("allenai/OLMoE-1B-7B-0924").experts.renormalized
    oss = read("openai/gpt-oss-20b")
    assert oss.windows == (128, None) * 12 and oss.sinks and oss.experts.router_bias
    assert oss.rotary.scaling == Ramp(32.0, 1.0, 32.0, 4096, pytest.approx(1.3465736), whole=False)
    roberta = read("FacebookAI/roberta-base")
    assert (roberta.context_length, roberta.position_offset) == (512, 2)


def test_windows_are_read():
    assert read("mistralai/Mistral-7B-v0.1").windows == (4096,) * 32
    assert read("microsoft/Phi-3-mini-4k-instruct").windows == (2047,) * 32
    assert read("google/gemma-2-2b").windows == (4096, None) * 13
    assert read("google/gemma-3-1b-pt").windows == ((512,) * 5 + (None,)) * 4 + (512, 512)
    assert read("allenai/Olmo-3-1025-7B").windows == (4096, 4096, 4096, None) * 8
    for name in ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B"):
        assert read(name).windows == ()


def test_what_else_sets_families_apart_is_read():
    gemma2, gemma3 = read("google/gemma-2-2b"), read("google/gemma-3-1b-pt")
    assert (gemma2.attention_cap, gemma2.logit_cap) == (50.0, 30.0)
    assert (gemma3.attention_cap, gemma3.logit_cap) == (None, None)
    assert gemma2.embedding_scale == 48.0 and gemma2.attention_scale == 1 / 16
    assert gemma2.tied_head and gemma2.norm == "rms_offset" and gemma2.norms_after
    assert read("Qwen/Qwen2.5-0.5B").qkv_bias and not read("Qwen/Qwen2.5-0.5B").output_bias
    assert read("Qwen/Qwen3-0.6B").query_key_norm == "head"
    granite = read("ibm-granite/granite-3.0-8b-base")
    assert (granite.embedding_scale, granite.residual_scale) == (12.0, 0.22)
    assert (granite.attention_scale, granite.logit_scale) == (1 / 128, 1 / 16)
    olmo = read("allenai/OLMo-2-1124-7B")
    assert olmo.query_key_norm == "projection" and not olmo.norms_before and olmo.norms_after
    gptj, pythia = read("EleutherAI/gpt-j-6b"), read("EleutherAI/pythia-1b")
    assert gptj.parallel and gptj.shared_norm and gptj.mlp_width == 16384
    assert pythia.parallel and not pythia.shared_norm and pythia.qkv_bias
