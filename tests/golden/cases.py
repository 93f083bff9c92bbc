"""Small models of every family, no two of their sizes equal, so that a transposition shows.

Each is made at random by torch, and what torch computes with it is compared with what we do.
Those that are `golden` are stored beside this file, so that the comparison needs no torch.
"""

import dataclasses

from transformers import (
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    Ministral3Config,
    Mistral3Config,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoeConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    RobertaConfig,
    SmolLM3Config,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model.

    Attributes:
      config: its configuration, as torch transformers writes it.
      golden: whether it is stored.
      bare: whether it is saved without a head.
    """

    config: PreTrainedConfig
    golden: bool = True
    bare: bool = False


_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
_GPT2 = {
    "vocab_size": 61,
    "n_positions": 24,
    "n_embd": 12,
    "n_layer": 3,
    "n_head": 3,
    "n_inner": 20,
    **_SPECIAL,
}
_SIZES = {
    "vocab_size": 41,
    "hidden_size": 16,
    "intermediate_size": 22,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    **_SPECIAL,
}
_GQA = {**_SIZES, "num_key_value_heads": 2, "head_dim": 6}
_MQA = {**_SIZES, "num_key_value_heads": 1, "head_dim": 6}
_GQA_4 = {**_SIZES, "num_key_value_heads": 2}
_BERT = {**_SIZES, "hidden_size": 15, "num_attention_heads": 3, "num_hidden_layers": 3}
_DEBERTA = {
    **_BERT,
    "hidden_act": "gelu",
    "relative_attention": True,
    "position_biased_input": False,
    "position_buckets": 6,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
}


def _scaled(kind: str, **values: object) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **values}}


_LLAMA3 = _scaled(
    "llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=2.0,
    original_max_position_embeddings=8,
)
_YARN = _scaled("yarn", factor=4.0, beta_fast=2.0, original_max_position_embeddings=6)
_GROWING = {"rope_parameters": {**_YARN["rope_parameters"], "llama_4_scaling_beta": 0.7}}
_LONGROPE = _scaled("longrope", short_factor=[1.0, 1.5], long_factor=[1.2, 3.0])

_EYE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
_SEES = {
    "vision_config": {"model_type": "pixtral", "num_attention_heads": 2, "image_size": 8, **_EYE},
    "tie_word_embeddings": False,
}

CASES = {
    "gpt2_tied": Case(GPT2Config(**_GPT2)),
    "gpt2_untied": Case(
        GPT2Config(
            **_GPT2, tie_word_embeddings=False, activation_function="gelu", scale_attn_weights=False
        )
    ),
    "gpt2_bare": Case(GPT2Config(**_GPT2), golden=False, bare=True),
    "gptj": Case(GPTJConfig(**{**_GPT2, "vocab_size": 41, "n_embd": 15}, rotary_dim=4)),
    "gpt_neox_parallel": Case(
        GPTNeoXConfig(**{**_SIZES, "hidden_size": 18, "num_attention_heads": 2}, rotary_pct=0.5)
    ),
    "gpt_neox_in_turn": Case(
        GPTNeoXConfig(
            **{**_SIZES, "hidden_size": 18, "num_attention_heads": 3},
            rotary_pct=1.0,
            use_parallel_residual=False,
            attention_bias=False,
            tie_word_embeddings=True,
        )
    ),
    "llama": Case(LlamaConfig(**_SIZES)),
    "llama_llama3": Case(LlamaConfig(**_GQA, **_LLAMA3, tie_word_embeddings=True)),
    "llama_linear": Case(
        LlamaConfig(**_MQA, **_scaled("linear", factor=2.5), attention_bias=True, mlp_bias=True)
    ),
    "llama_yarn": Case(
        LlamaConfig(**_GQA, **_scaled("yarn", factor=3.0, attention_factor=1.3)), golden=False
    ),
    "llama_dynamic": Case(
        LlamaConfig(
            **{**_SIZES, "hidden_size": 18, "num_attention_heads": 3, "max_position_embeddings": 8},
            **_scaled("dynamic", factor=2.0),
        )
    ),
    "mistral": Case(MistralConfig(**_GQA, sliding_window=4)),
    "mistral_no_window": Case(MistralConfig(**_MQA, sliding_window=None), golden=False),
    "qwen2": Case(Qwen2Config(**{**_SIZES, "num_key_value_heads": 1}, tie_word_embeddings=True)),
    "qwen2_windows": Case(
        Qwen2Config(
            **{**_SIZES, "num_key_value_heads": 2, "num_hidden_layers": 3},
            use_sliding_window=True,
            sliding_window=3,
            max_window_layers=1,
        ),
        golden=False,
    ),
    "qwen3": Case(Qwen3Config(**_GQA)),
    "qwen3_windows": Case(
        Qwen3Config(
            **_MQA,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention"],
        ),
        golden=False,
    ),
    "gemma2": Case(
        Gemma2Config(
            **{**_GQA, "num_hidden_layers": 3},
            sliding_window=4,
            query_pre_attn_scalar=5,
            attn_logit_softcapping=1.5,
            final_logit_softcapping=2.0,
        )
    ),
    "gemma2_uncapped": Case(
        Gemma2Config(
            **_MQA,
            attention_bias=True,
            layer_types=["full_attention", "sliding_attention"],
            sliding_window=3,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
        ),
        golden=False,
    ),
    "gemma3": Case(
        Gemma3TextConfig(
            **{**_MQA, "num_hidden_layers": 3},
            sliding_window=4,
            sliding_window_pattern=2,
            rope_theta=1000.0,
            rope_local_base_freq=10.0,
        )
    ),
    "gemma3_linear": Case(
        Gemma3TextConfig(
            **_GQA,
            layer_types=["full_attention", "sliding_attention"],
            sliding_window=4,
            rope_scaling={"rope_type": "linear", "factor": 2.0},
            final_logit_softcapping=2.0,
        ),
        golden=False,
    ),
    "olmo2": Case(Olmo2Config(**{**_SIZES, "num_key_value_heads": 2})),
    "olmo2_biases": Case(
        Olmo2Config(**{**_SIZES, "num_key_value_heads": 1}, attention_bias=True), golden=False
    ),
    "phi3": Case(Phi3Config(**{**_SIZES, "num_key_value_heads": 2}, sliding_window=5)),
    "phi3_longrope": Case(
        Phi3Config(
            **{**_SIZES, "num_key_value_heads": 1},
            **_LONGROPE,
            original_max_position_embeddings=8,
        )
    ),
    "phi3_partial": Case(
        Phi3Config(**{**_SIZES, "hidden_size": 24}, partial_rotary_factor=0.7), golden=False
    ),
    "smollm3": Case(SmolLM3Config(**{**_GQA_4, "num_hidden_layers": 3}, no_rope_layer_interval=2)),
    "smollm3_windows": Case(
        SmolLM3Config(
            **_GQA_4,
            no_rope_layers=[0, 1],
            use_sliding_window=True,
            sliding_window=3,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=False,
        ),
        golden=False,
    ),
    "granite": Case(
        GraniteConfig(
            **_GQA_4,
            embedding_multiplier=3.0,
            residual_multiplier=0.4,
            attention_multiplier=0.3,
            logits_scaling=5.0,
            tie_word_embeddings=True,
        )
    ),
    "granite_biases": Case(
        GraniteConfig(**_GQA_4, attention_bias=True, mlp_bias=True), golden=False
    ),
    "olmo3": Case(
        Olmo3Config(
            **_GQA_4,
            sliding_window=4,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": _YARN["rope_parameters"],
                "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
            },
        )
    ),
    "olmo3_full": Case(
        Olmo3Config(**_GQA_4, layer_types=["full_attention"] * 2, attention_bias=True), golden=False
    ),
    "ministral3": Case(Ministral3Config(**_GQA, **_GROWING)),
    "ministral3_windows": Case(
        Ministral3Config(
            **_MQA,
            sliding_window=4,
            **_scaled(
                "yarn",
                factor=8.0,
                mscale=1.5,
                mscale_all_dim=0.5,
                original_max_position_embeddings=4,
                llama_4_scaling_beta=0.1,
            ),
            tie_word_embeddings=True,
        ),
        golden=False,
    ),
    "mistral3": Case(
        Mistral3Config(text_config={"model_type": "ministral3", **_GQA, **_GROWING}, **_SEES)
    ),
    "mistral3_older": Case(
        Mistral3Config(
            text_config={"model_type": "mistral", **_GQA, "sliding_window": None},
            **_SEES | {"tie_word_embeddings": True},
        ),
        golden=False,
    ),
    "mixtral": Case(
        MixtralConfig(**_GQA, num_local_experts=5, num_experts_per_tok=2, sliding_window=4)
    ),
    "mixtral_one": Case(
        MixtralConfig(**_MQA, num_local_experts=1, num_experts_per_tok=1), golden=False
    ),
    "mixtral_all": Case(
        MixtralConfig(**_MQA, num_local_experts=3, num_experts_per_tok=3), golden=False
    ),
    "olmoe": Case(OlmoeConfig(**_GQA_4, num_experts=7, num_experts_per_tok=3)),
    "olmoe_renormalized": Case(
        OlmoeConfig(
            **_GQA_4,
            num_experts=4,
            num_experts_per_tok=1,
            norm_topk_prob=True,
            attention_bias=True,
        ),
        golden=False,
    ),
    "qwen3_moe": Case(
        Qwen3MoeConfig(
            **_GQA,
            moe_intermediate_size=9,
            num_experts=6,
            num_experts_per_tok=3,
            norm_topk_prob=True,
            tie_word_embeddings=True,
        )
    ),
    "qwen3_moe_windows": Case(
        Qwen3MoeConfig(
            **_MQA,
            moe_intermediate_size=9,
            num_experts=6,
            num_experts_per_tok=2,
            use_sliding_window=True,
            sliding_window=4,
            attention_bias=True,
        ),
        golden=False,
    ),
    "gpt_oss": Case(
        GptOssConfig(
            **_GQA,
            num_local_experts=5,
            num_experts_per_tok=2,
            sliding_window=4,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 8.0,
                "truncate": False,
                "original_max_position_embeddings": 6,
            },
        )
    ),
    "gpt_oss_whole": Case(
        GptOssConfig(
            **_MQA,
            num_local_experts=3,
            num_experts_per_tok=3,
            attention_bias=False,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            layer_types=["full_attention"] * _MQA["num_hidden_layers"],
        ),
        golden=False,
    ),
    "bert": Case(BertConfig(**_BERT)),
    "bert_bare": Case(BertConfig(**_BERT, hidden_act="relu"), golden=False, bare=True),
    "roberta": Case(RobertaConfig(**_BERT)),
    "distilbert": Case(
        DistilBertConfig(
            vocab_size=41,
            dim=15,
            n_layers=3,
            n_heads=3,
            hidden_dim=22,
            max_position_embeddings=24,
            pad_token_id=1,
        )
    ),
    # As v3 is; as the large v2 are, with a convolution; and what their options besides can be.
    "deberta_v3": Case(DebertaV2Config(**_DEBERTA)),
    "deberta_v2": Case(
        DebertaV2Config(
            **_DEBERTA,
            conv_kernel_size=3,
            conv_act="gelu",
            attention_head_size=5,
            layer_norm_eps=1e-5,
        )
    ),
    "deberta_v2_own_projections": Case(
        DebertaV2Config(
            **{**_DEBERTA, "share_att_key": False, "position_buckets": -1, "norm_rel_ebd": "none"},
            max_relative_positions=5,
            type_vocab_size=2,
        )
    ),
    "deberta_v2_to_position": Case(
        DebertaV2Config(
            **{**_DEBERTA, "share_att_key": False, "pos_att_type": ["c2p"]},
            conv_kernel_size=5,
        ),
        golden=False,
        bare=True,
    ),
    "deberta_v2_from_position": Case(
        DebertaV2Config(**{**_DEBERTA, "pos_att_type": ["p2c"], "position_biased_input": True}),
        golden=False,
    ),
    "deberta_v2_without_distances": Case(
        DebertaV2Config(**{**_DEBERTA, "relative_attention": False, "position_biased_input": True}),
        golden=False,
    ),
}

# Of these the head over multiple choices is stored as well.
CHOICE_CASES = ("bert", "distilbert", "deberta_v3", "deberta_v2")
