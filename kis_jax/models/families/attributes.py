"""The attributes of a `config.json`: understood, known to change nothing, or refused by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

# Attributes that every family's config.json may hold and that change nothing we compute: names
# and versions, what training or generation does, heads of classifiers, which outputs a torch
# program returns and with which kernels, which code of others came with a file (it never runs).
_IMMATERIAL = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled
    _name_or_path _num_labels architectures attention_dropout attention_probs_dropout_prob
    attn_implementation attn_pdrop auto_map bad_words_ids begin_suppress_tokens bos_token_id
    cache_implementation chunk_size_feed_forward classifier_dropout custom_pipelines
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing hidden_dropout
    hidden_dropout_prob id2label initializer_range label2id language length_penalty max_length
    min_length model_max_length model_type name neftune_noise_alpha no_repeat_ngram_size
    num_beam_groups num_beams num_labels num_return_sequences output_attentions output_hidden_states
    output_past output_scores pad_token_id pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head pooler_type predict_special_tokens prefix problem_type
    remove_invalid_values repetition_penalty resid_pdrop return_dict return_dict_in_generate
    sbert_ce_default_activation_function sentence_transformers sep_token_id summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache
    """.split()
)

# A decoder's tokens see none after them; an encoder's reader says otherwise.
_FIXED = {"is_causal": True}


class UnknownAttributes(ValueError):
    """A `config.json` holds attributes that are set and that no reader here knows.

    Attributes:
      names: of these attributes.
    """

    def __init__(self, message: str, names: Collection[str]) -> None:
        """The message for a user, and the names."""
        super().__init__(message)
        self.names = frozenset(names)


@dataclasses.dataclass(frozen=True)
class Required:
    """In place of a default: an attribute that a file must name.

    Attributes:
      kind: its type.
    """

    kind: type


@dataclasses.dataclass(frozen=True)
class OneOf:
    """The default of an attribute that must have one of some values.

    Attributes:
      default: its value where the file does not name it.
      choices: its possible values.
    """

    default: str
    choices: Collection[str]


@dataclasses.dataclass(frozen=True)
class OrNone:
    """The default of an attribute that may also be null.

    Attributes:
      kind: its type where it is not.
      default: its value where the file does not name it.
    """

    kind: type
    default: Any = None


@dataclasses.dataclass(frozen=True)
class AllOf:
    """In place of a default: an attribute that may be missing, or a list of one value repeated.

    Attributes:
      value: the one value.
    """

    value: str


@dataclasses.dataclass(frozen=True)
class OrZero:
    """The default of a whole number that may also be zero.

    Attributes:
      default: its value where the file does not name it.
    """

    default: int


# Sizes under the names that most families give them.
SIZES = {
    "vocab_size": Required(int),
    "hidden_size": Required(int),
    "intermediate_size": Required(int),
    "num_hidden_layers": Required(int),
    "num_attention_heads": Required(int),
    "max_position_embeddings": Required(int),
}


def read_attributes(
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    ignored: frozenset[str] = frozenset(),
    fixed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The attributes that a family understands, filled up with its defaults; others are refused.

    Args:
      config: the content of a `config.json`.
      defaults: each attribute that the family's reader understands, with the value it has where
        the file does not name it; the file's value must have its type. See `Required`,
        `OneOf`, `OrNone`, `OrZero`, `AllOf`.
      ignored: further attributes without bearing on what this library computes.
      fixed: attributes with the one value that this library computes with, which stands where
        the file does not name them; `is_causal` is among them, True unless said otherwise.

    Returns:
      A value for each name in `defaults`.

    Raises:
      ValueError: naming every attribute that is set and not understood (an `UnknownAttributes`),
        or one that is missing or of the wrong type. One that is not understood passes where it is
        None, False, zero or empty, which is how a switch is off; a name in `fixed` is held to its
        value even then, and each attribute that changes the forward pass by being off must stand
        there.
    """
    known, fixed = defaults.keys() | ignored | _IMMATERIAL, {**_FIXED, **(fixed or {})}
    unknown = {
        name: value
        for name, value in config.items()
        if name not in known and (value != fixed[name] if name in fixed else value)
    }
    if unknown:
        found = ", ".join(f"{name}={value!r}" for name, value in sorted(unknown.items()))
        raise UnknownAttributes(
            f"config.json: expected only attributes that kis_jax computes with, found {found}; "
            "if they do not change the forward pass, remove them from a copy of the file",
            unknown.keys() - fixed.keys(),
        )
    return {name: _value(config, name, default) for name, default in defaults.items()}


def _value(config: Mapping[str, Any], name: str, default: Any) -> Any:
    if isinstance(default, Required):
        if name not in config:
            raise ValueError(
                f"config.json: {name}: expected {default.kind.__name__}, found none; "
                "download the file again"
            )
        kind, value = default.kind, config[name]
    elif isinstance(default, OrNone):
        kind, value = default.kind, config.get(name, default.default)
        if value is None:
            return None
    elif isinstance(default, OneOf):
        kind, value = str, config.get(name, default.default)
        if not isinstance(value, str) or value not in default.choices:
            raise ValueError(
                f"config.json: {name}: expected one of {', '.join(default.choices)}, "
                f"found {value!r}"
            )
    elif isinstance(default, AllOf):
        kind, value = list, config.get(name)
        if value is None:
            return None
        if isinstance(value, list) and any(entry != default.value for entry in value):
            raise ValueError(
                f"config.json: {name}: expected {default.value} throughout, found {value}"
            )
    elif isinstance(default, OrZero):
        kind, value = int, config.get(name, default.default)
        if value == 0 and type(value) is int:
            return 0
    else:
        kind, value = type(default), config.get(name, default)
    check_type(name, value, kind)
    return value


def read_sizes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ModelConfig` that follow from `SIZES`, and from the heads' where named.

    Heads are as wide as `head_dim` says, or together as wide as the residual stream; those of keys
    and values are as many as `num_key_value_heads` says, or as those of queries.
    """
    width, heads = attributes["hidden_size"], attributes["num_attention_heads"]
    head_dim = attributes.get("head_dim")
    if head_dim is None:
        head_dim = check_multiple("hidden_size", width, "num_attention_heads", heads)
    kv_heads = attributes.get("num_key_value_heads") or heads
    check_multiple("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    return {
        "vocab_size": attributes["vocab_size"],
        "width": width,
        "num_layers": attributes["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "attention_scale": head_dim**-0.5,
        "mlp_width": attributes["intermediate_size"],
    }


def check_type(name: str, value: Any, kind: type) -> None:
    """Raises ValueError unless a value has its attribute's type, positive and finite if a number.

    An int passes for a float.
    """
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool) != (kind is bool):
        raise ValueError(
            f"config.json: {name}: expected {kind.__name__}, found {value!r}; "
            "was the file edited by hand?"
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 < value < math.inf:
        raise ValueError(f"config.json: {name}: expected a positive number, found {value!r}")


def check_multiple(name: str, value: int, of: str, factor: int) -> int:
    """`value / factor`, checked to be whole."""
    if value % factor:
        raise ValueError(f"config.json: {name}={value} is not a multiple of {of}={factor}")
    return value // factor
