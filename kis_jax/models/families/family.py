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
class Alternating:
    """The parameter is one of several whose columns alternate along the last axis."""

    index: int
    parts: int

    def shape(self, target: tuple[int, ...]) -> tuple[int, ...]:
        """All parts together."""
        return (*target[:-1], target[-1] * self.parts)

    def view(self, tensor: np.ndarray) -> np.ndarray:
        """This part's columns."""
        return tensor[..., self.index :: self.parts]


@dataclasses.dataclass(frozen=True)
class TransposedRows:
    """The parameter is the transpose of some rows of a larger tensor, or some entries of a vector.

    Attributes:
      start: the first row.
      size: how many rows.
      total: how many the tensor has.
    """

    start: int
    size: int
    total: int

    def shape(self, target: tuple[int, ...]) -> tuple[int, ...]:
        """All rows together."""
        return (self.total, *target[:-1])

    def view(self, tensor: np.ndarray) -> np.ndarray:
        """These rows, as columns."""
        return tensor[self.start : self.start + self.size].T


@dataclasses.dataclass(frozen=True)
class TransposedHeads:
    """The parameter is one of several parts whose rows alternate head by head in the tensor.

    Attributes:
      index: of the part.
      parts: how many there are.
      heads: how many heads.
    """

    index: int
    parts: int
    heads: int

    def shape(self, target: tuple[int, ...]) -> tuple[int, ...]:
        """All parts together."""
        return (self.parts * target[-1], *target[:-1])

    def view(self, tensor: np.ndarray) -> np.ndarray:
        """This part, as columns, those of each head apart: `(..., heads, head_dim)`."""
        apart = tensor.reshape(self.heads, self.parts, -1, *tensor.shape[1:])[:, self.index]
        return np.moveaxis(apart, (0, 1), (-2, -1))


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


_AS_IS, _TRANSPOSED = AsIs(), Transposed()


def linear(
    target: str,
    source: str,
    layout: Layout | Callable[[ModelConfig], Layout] = _TRANSPOSED,
    bias_layout: Layout | Callable[[ModelConfig], Layout] = _AS_IS,
) -> tuple[Weight, Weight]:
    """The rows of a linear layer; that of its bias is not used where a model has none."""
    return (
        Weight(f"{target}.kernel", f"{source}.weight", layout),
        Weight(f"{target}.bias", f"{source}.bias", bias_layout),
    )


def norm(target: str, source: str) -> tuple[Weight, Weight]:
    """The rows of a norm; that of its bias is not used where it has none."""
    return (
        Weight(f"{target}.scale", f"{source}.weight"),
        Weight(f"{target}.bias", f"{source}.bias"),
    )


@dataclasses.dataclass(frozen=True)
class ChoiceHead:
    """Where a checkpoint keeps the head that answers multiple-choice questions.

    Attributes:
      architecture: the class of torch transformers that has it.
      pooler: name of its first linear layer.
      classifier: name of its second.
    """

    architecture: str
    pooler: str
    classifier: str = "classifier"

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The rows of its parameters, as in `MultipleChoice`."""
        return (*linear("pooler", self.pooler), *linear("classifier", self.classifier))


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
      name: `model_type` in `config.json`.
      model: the class of its models, built as `model(config, dtype=..., rngs=...)`.
      read_config: from the attributes of `config.json` to this library's configuration; raises
        `ValueError` for what this library does not compute.
      weights: the table, complete: each parameter of the model stands in one row. Rows of
        parameters that a model does not have are not used.
      prefix: a prefix of the sources that checkpoints of the bare model leave out.
      ignored: tensors that a file may hold and that are left alone where no parameter needs
        them, such as causal masks; `{layer}` stands for any layer, `*` for anything.
      tied_head: the tensor that a file of a model with a tied head may hold as a copy of the
        embedding; None if the family's heads are never tied.
      old_endings: what names of sources end in, and what they ended in in older checkpoints.
      modules: how names of tensors begin, and how torch begins those of the modules that hold
        them, where these differ.
      choices: the head of an encoder that answers multiple-choice questions; None if torch knows
        none of the family.
    """

    name: str
    model: Callable[..., Model]
    read_config: Callable[[Mapping[str, Any]], ModelConfig]
    weights: tuple[Weight, ...]
    prefix: str
    ignored: tuple[str, ...] = ()
    tied_head: str | None = None
    old_endings: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, str] | None = None
    choices: ChoiceHead | None = None

    def bound(self, config: ModelConfig) -> Family:
        """The family with every layout settled for models of one configuration."""
        rows = (
            dataclasses.replace(row, layout=row.layout(config)) if callable(row.layout) else row
            for row in self.weights
        )
        return dataclasses.replace(self, weights=tuple(rows))
