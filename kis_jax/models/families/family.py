"""What a family of models is to this library: a reader of configurations, and a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from kis_jax.models import Model, ModelConfig


class Layout(Protocol):
    """How a parameter lies inside a tensor of the checkpoint."""

    def shape(self, target: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the checkpoint's tensor, from that of the parameter."""
        ...

    def view(self, tensor: np.ndarray) -> np.ndarray:
        """The parameter as a view of the tensor: read from it to load, write to it to save.

        It has the parameter's elements in the parameter's order, but may have more axes, where
        no view has its shape: reshape what is read, and reshape a value to it before writing.
        """
        ...


class AsIs:
    """The tensor is the parameter."""

    def shape(self, target: tuple[int, ...]) -> tuple[int, ...]:
        """The same."""
        return target

    def view(self, tensor: np.ndarray) -> np.ndarray:
        """The same."""
        return tensor


class Transposed:
    """The tensor is the transposed parameter: torch's `Linear` stores (out, in)."""

    def shape(self, target: tuple[int, ...]) -> tuple[int, ...]:
        """The other way round."""
        return target[::-1]

    def view(self, tensor: np.ndarray) -> np.ndarray:
        """The other way round."""
        return tensor.T


@dataclasses.dataclass(frozen=True)
class Columns:
    """The parameter is one of several of equal width, side by side along the last axis."""

    index: int
    parts: int

    def shape(self, target: tuple[int, ...]) -> tuple[int, ...]:
        """All parts together."""
        return (*target[:-1], target[-1] * self.parts)

    def view(self, tensor: np.ndarray) -> np.ndarray:
        """This part's columns."""
        width = tensor.shape[-1] // self.parts
        return tensor[..., self.index * width : (self.index + 1) * width]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One row of a family's table.

    Attributes:
      target: path of the parameter in the model, such as `blocks.mlp.output.kernel`.
      source: name of the checkpoint's tensor; `{layer}` runs over the parameter's leading axis.
      layout: how the parameter lies in the tensor; a function of the model's configuration where
        its sizes decide that.
    """

    target: str
    source: str
    layout: Layout | Callable[[ModelConfig], Layout] = AsIs()


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
      name: `model_type` in `config.json`.
      model: the class of its models, built as `model(config, dtype=..., rngs=...)`.
      read_config: from the attributes of `config.json` to this library's configuration; raises
        `ValueError` for what this library does not compute.
      weights: the table, complete: each parameter of the model stands in one row.
      prefix: a prefix of the sources that checkpoints of the bare model leave out.
      ignored: tensors that a file may hold and that are left alone where no parameter needs
        them, such as causal masks or a tied head; `{layer}` stands for any layer, `*` for
        anything.
      old_endings: what names of sources end in, and what they ended in in older checkpoints.
    """

    name: str
    model: type[Model]
    read_config: Callable[[Mapping[str, Any]], ModelConfig]
    weights: tuple[Weight, ...]
    prefix: str
    ignored: tuple[str, ...] = ()
    old_endings: tuple[tuple[str, str], ...] = ()

    def bound(self, config: ModelConfig) -> Family:
        """The family with every layout settled for models of one configuration."""
        rows = (
            dataclasses.replace(row, layout=row.layout(config)) if callable(row.layout) else row
            for row in self.weights
        )
        return dataclasses.replace(self, weights=tuple(rows))


# Attributes that every family's config.json may hold and that change nothing we compute: names
# and versions, what training or generation does, which outputs a torch program returns.
_IMMATERIAL = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _name_or_path _num_labels architectures
    attn_pdrop bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label
    initializer_range label2id length_penalty max_length
    min_length model_type no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_past output_scores
    pad_token_id predict_special_tokens prefix problem_type
    remove_invalid_values repetition_penalty resid_pdrop return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p
    use_bfloat16 use_cache
    """.split()
)


def read_attributes(
    config: Mapping[str, Any], defaults: Mapping[str, Any], *, ignored: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The attributes that a family understands, filled up with its defaults; others are refused.

    Args:
      config: the content of a `config.json`.
      defaults: each attribute that the family's reader understands, with the value it has where
        the file does not name it.
      ignored: further attributes without bearing on what this library computes.

    Returns:
      A value for each name in `defaults`.

    Raises:
      ValueError: naming every attribute that is set and not understood (one that is None, False
        or empty switches nothing on, and passes), or one of the wrong type.
    """
    known = defaults.keys() | ignored | _IMMATERIAL
    unknown = {name: config[name] for name in config if name not in known and config[name]}
    if unknown:
        found = ", ".join(f"{name}={value!r}" for name, value in sorted(unknown.items()))
        raise ValueError(
            f"config.json: expected only attributes that kis_jax computes with, found {found}; "
            "if they do not change the forward pass, remove them from a copy of the file"
        )
    values = {name: config.get(name, default) for name, default in defaults.items()}
    for name, default in defaults.items():
        _check_type(name, values[name], default)
    return values


def _check_type(name: str, value: Any, default: Any) -> None:
    if value == default:
        return
    kind = int if default is None else type(default)  # None stands for a size that follows
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool) != (kind is bool):
        raise ValueError(
            f"config.json: {name}: expected {kind.__name__}, found {value!r}; "
            "was the file edited by hand?"
        )
    if not isinstance(value, (bool, str)) and value <= 0:
        raise ValueError(f"config.json: {name}: expected a positive number, found {value!r}")
