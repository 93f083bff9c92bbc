"""What a checkpoint's configuration asks for and this library does not compute is refused."""

import math

import pytest

from kis_jax.models.families import FAMILIES
from tests.golden.cases import CASES

BASES = {case.config.model_type: case.config.to_dict() for case in CASES.values()}


def test_every_family_has_a_case():
    assert BASES.keys() == FAMILIES.keys()


@pytest.mark.parametrize(
    ("family", "attributes", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"rotary_dim": 64, "alibi": True}, "alibi=True, rotary_dim=64"),
        ("gpt2", {"activation_function": "mish"}, "activation_function: expected"),
        ("gpt2", {"n_embd": "wide"}, "n_embd: expected int, found 'wide'"),
        ("gpt2", {"n_layer": 0}, "n_layer: expected a positive number"),
        ("gpt2", {"n_head": 5}, "n_embd=12 is not a multiple of n_head=5"),
        ("gptj", {"rotary": False}, "found rotary=False"),
        ("gptj", {"tie_word_embeddings": True}, "found tie_word_embeddings=True"),
        ("gptj", {"rotary_dim": 3}, "rotary_dim: expected an even number of turned entries"),
        ("gptj", {"rotary_dim": 8}, "in a head of 5, found 8"),
        ("gptj", {"rotary_dim": None}, "rotary_dim: expected int, found None"),
        ("gpt_neox", {"rotary_pct": 0.0}, "rotary_pct: expected a positive number"),
        ("gpt_neox", {"rotary_scaling": 2}, "found rotary_scaling=2"),
        ("llama", {"num_key_value_heads": 2}, "num_attention_heads=3 is not a multiple of num_key"),
        ("llama", {"hidden_act": "mish"}, "hidden_act: expected one of gelu,"),
        ("llama", {"sliding_window": 5}, "found sliding_window=5"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config="),
        (
            "llama",
            {"rope_scaling": {"type": "axial", "factor": 2.0}},
            "rope_type: .* found 'axial'",
        ),
        ("llama", {"rope_scaling": {"type": "linear"}}, "expected factor for positions scaled by"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": -1.0}}, "factor: expected a posi"),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 3}},
            "found beta_fast",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "found partial_rotary_factor",
        ),
        ("llama", {"partial_rotary_factor": 0.5}, "found partial_rotary_factor=0.5"),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_type": "linear", "factor": 8.0}},
            "rope_parameters: expected settings under full_attention and .* found factor, rope_typ",
        ),
        *(
            (
                "phi3",
                {"rope_parameters": None, "rope_scaling": {"type": kind, "factor": 2.0}},
                f"rope_type: expected one of default, longrope, found '{kind}'",
            )
            for kind in ("linear", "dynamic")
        ),
        ("llama", {"head_dim": 3, "rope_parameters": None}, "found 3"),
        (
            "llama",
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": 1}},
            "positions scaled by yarn to have only .*, found truncate",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "rope_theta": 1.0}},
            "rope_theta: expected more than 1, found 1.0",
        ),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers: expected 1 .* of 2 layers, found"),
        ("smollm3", {"no_rope_layers": [1, 7]}, r"no_rope_layers: .*, found \[1, 7\]"),
        ("granite", {"logits_scaling": 0.0}, "logits_scaling: expected a positive number"),
        (
            "olmo3",
            {"rope_parameters": {"rope_type": "default"}},
            "rope_parameters: expected settings under full_attention and .* found rope_type",
        ),
        ("ministral3", {"rope_parameters": {}}, "llama_4_scaling_beta: expected float, found None"),
        (
            "mixtral",
            {"num_local_experts": 1},
            "num_experts_per_tok: expected at most as many .*, found 3 of 1",
        ),
        ("olmoe", {"clip_qkv": 8.0}, "found clip_qkv=8.0"),
        ("gpt_oss", {"swiglu_limit": 6.0}, "found swiglu_limit=6.0"),
        (
            "gpt_oss",
            {"quantization_config": {"quant_method": "mxfp4"}},
            "quantization_config: expected weights in floating point, found mxfp4; .*dequantize",
        ),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "found decoder_sparse_step=2"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, r"found mlp_only_layers=\[0\]"),
        ("mistral", {"layer_types": ["full_attention"] * 2}, "found layer_types="),
        ("qwen2", {"use_mrope": True}, "found use_mrope=True"),
        (
            "llama",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types: expected full_attention throughout",
        ),
        ("qwen2", {"max_window_layers": -1}, "max_window_layers: expected a positive number"),
        ("qwen2", {"max_window_layers": False}, "max_window_layers: expected int, found False"),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types: expected 2 of sliding"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("olmo2", {"clip_qkv": 8.0}, "clip_qkv=8.0"),
        (
            "phi3",
            {"rope_parameters": None, "rope_scaling": {"type": "su", "short_factor": [1.0]}},
            "short_factor: expected a list of 2 numbers",
        ),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative"),
        ("bert", {"is_decoder": True}, "is_decoder=True"),
        ("bert", {"hidden_size": 16}, "hidden_size=16 is not a multiple of num_attention_heads=3"),
        (
            "roberta",
            {"max_position_embeddings": 2},
            "max_position_embeddings: expected more than 2",
        ),
        ("gemma2", {"sliding_window": None}, "sliding_window: expected int, found None"),
        ("roberta", {"pad_token_id": None}, "pad_token_id: expected 0 or more"),
        ("llama", {"is_causal": False}, "found is_causal=False"),
        ("gptj", {"is_causal": None}, "found is_causal=None"),
        ("bert", {"is_causal": True}, "found is_causal=True"),
        ("distilbert", {"is_causal": True}, "found is_causal=True"),
        ("distilbert", {"dim": "wide"}, "dim: expected int, found 'wide'"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(family, attributes, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[family].read_config(BASES[family] | attributes)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_others_note_in_a_file_changes_nothing(family):
    notes = {
        "auto_map": {"AutoConfig": "configuration_x.XConfig"},
        "_flash_attn_2_enabled": True,
        "attn_implementation": "sdpa",
        "model_max_length": 8,
        "neftune_noise_alpha": 5.0,
        "num_labels": 3,
        "custom_pipelines": {"text-generation": {"impl": "x.Pipeline"}},
        "sentence_transformers": {"version": "4.0.1"},
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
        "language": "english",
        "name": "x",
    }
    read = FAMILIES[family].read_config
    assert read(BASES[family] | notes) == read(BASES[family])


@pytest.mark.parametrize("family", ["llama", "olmo2"])
def test_layers_may_be_listed_where_all_are_of_the_one_type(family):
    read, base = FAMILIES[family].read_config, BASES[family]
    layer_types = ["full_attention"] * base["num_hidden_layers"]
    assert read(base | {"layer_types": layer_types}) == read(base)


def test_no_layer_may_come_before_those_with_windows():
    windows = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0}
    config = FAMILIES["qwen2"].read_config(BASES["qwen2"] | {"layer_types": None} | windows)
    assert config.windows == (3,) * config.num_layers


@pytest.mark.parametrize("family", FAMILIES)
def test_is_causal_may_say_what_the_family_is(family):
    read = FAMILIES[family].read_config
    config = read(BASES[family])
    assert read(BASES[family] | {"is_causal": config.causal}) == config
    with pytest.raises(ValueError, match="is_causal"):
        read(BASES[family] | {"is_causal": not config.causal})


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "bert"])
def test_sizes_must_be_named(family):
    attributes = {name: value for name, value in BASES[family].items() if name != "hidden_size"}
    with pytest.raises(ValueError, match="hidden_size: expected int, found none"):
        FAMILIES[family].read_config(attributes)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_attribute_of_transformers_own_is_accounted_for(case):
    """Each is understood or known to change nothing; a switch that is off, when on, is refused."""
    family = FAMILIES[case.config.model_type]
    attributes = case.config.to_dict()
    family.read_config(attributes)
    switches = {
        "add_cross_attention",
        "is_decoder",
        "scale_attn_by_inverse_layer_idx",
        "use_bidirectional_attention",
    }
    for name in switches & attributes.keys():
        with pytest.raises(ValueError, match=name):
            family.read_config(attributes | {name: True})


JUNK = [
    None, True, False, 0, 1, 2, -3, 2.5, float("inf"), float("nan"), "", "x", [], [1], ["x"], {},
    {"rope_type": 3}, {"rope_type": ["x"]}, {"type": "linear", "factor": "x"},
    {"full_attention": 3, "sliding_attention": [1]},
]  # fmt: skip


# Where null, or no entry at all, stands for a rule of the family, and where zero is a number.
NULLABLE = {
    "n_inner", "num_key_value_heads", "head_dim", "sliding_window", "layer_types",
    "final_logit_softcapping", "attn_logit_softcapping", "rope_parameters", "no_rope_layers",
    "factor", "attention_factor", "pos_att_type", "norm_rel_ebd",
}  # fmt: skip
FROM_ZERO = {"pad_token_id", "max_window_layers", "position_buckets", "max_relative_positions"}


def may_be_read(name, value, instead_of):
    """Whether a value may change what is read: those of another type may not."""
    if value is None or value == {}:
        return name in NULLABLE
    if isinstance(value, bool) or isinstance(instead_of, bool):
        return isinstance(value, bool) and isinstance(instead_of, bool)
    if not isinstance(value, (int, float)) or not isinstance(instead_of, (int, float, type(None))):
        return False
    return 0 < value < math.inf or (value == 0 and name in FROM_ZERO)


def assert_junk_is_refused_or_changes_nothing(read, base, names):
    """Of each name in turn, read with each piece of junk in place of what `base` holds."""
    before = read(base)
    for name in names:
        for value in JUNK:
            try:
                config = read(base | {name: value})
            except ValueError as error:
                assert str(error).startswith("config.json: ")
            else:
                hash(config)
                fine = config == before or may_be_read(name, value, base.get(name))
                assert fine, f"{name}={value!r} is read as {config}"


@pytest.mark.parametrize("family", FAMILIES)
def test_junk_is_refused_or_changes_nothing(family):
    names = ["rope_scaling", "rope_theta", "sliding_window_pattern", "rotary_pct", "unheard_of"]
    base = BASES[family]
    assert_junk_is_refused_or_changes_nothing(FAMILIES[family].read_config, base, [*base, *names])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unheard_of_attribute_is_refused_if_it_is_on(family):
    for value in JUNK:
        if value:
            with pytest.raises(ValueError, match="unheard_of="):
                FAMILIES[family].read_config(BASES[family] | {"unheard_of": value})


@pytest.mark.parametrize("kind", ["linear", "dynamic", "llama3", "longrope"])
def test_junk_in_scaled_positions_is_refused_or_changes_nothing(kind):
    scaling = {
        "rope_type": kind,
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
        "short_factor": [1.0, 1.0, 1.0],
        "long_factor": [1.0, 1.0, 1.0],
        "attention_factor": None,
    }
    known = {
        "linear": {"factor"},
        "dynamic": {"factor"},
        "llama3": scaling.keys() - {"short_factor", "long_factor", "attention_factor"},
        "longrope": scaling.keys() - {"low_freq_factor", "high_freq_factor"},
    }[kind]
    base = {key: value for key, value in scaling.items() if key in known} | {"rope_type": kind}

    def reader(family, **attributes):
        whole = BASES[family] | attributes
        return lambda base: FAMILIES[family].read_config(whole | {"rope_scaling": base})

    llama, neox = reader("llama"), reader("gpt_neox", rotary_pct=1.0)
    assert llama(base).rotary.scaling is not None
    assert_junk_is_refused_or_changes_nothing(llama, base, [*base, "rope_theta"])
    assert_junk_is_refused_or_changes_nothing(neox, base, ["partial_rotary_factor"])
