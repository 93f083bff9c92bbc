"""C of one layer from the sums of a pass: one matrix, or those of a mixture's experts."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from kis_jax.core.arrays.precision import Inverse
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.notes import DataNote
from kis_jax.models import ModelConfig

_ENOUGH = 2  # tokens for each dimension of an expert's keys; a C of fewer is filled up
_NAMED = 8  # experts, where many read too few tokens


@dataclasses.dataclass(frozen=True)
class ExpertMeans:
    """C of each expert of a layer: over all tokens, as all experts share one memory.

    An expert that has read fewer than twice as many tokens as its keys have dimensions is filled up
    to that many by tokens whose keys have no direction, of the mean length: the less is known of
    it, the more its directions count alike.

    Attributes:
      total_of: gives the sum of an expert's gated keys' outer products, `(d, d)`.
      counts: tokens that each expert has read, `(experts,)`.
      chosen: experts that read a token.
      ridge: that is to be added to the diagonal of each.
      inverse: how each is to be inverted; see `Precision.whitener`.
    """

    total_of: Callable[[int], np.ndarray]
    counts: np.ndarray
    chosen: int
    ridge: float = 0.0
    inverse: Inverse = "auto"

    def __getitem__(self, expert: int) -> np.ndarray:
        """C of one expert, `(d, d)` float64."""
        tokens = self.counts.sum() / self.chosen
        c = np.asarray(self.total_of(expert), np.float64) / tokens
        if self.is_filled(expert, len(c)):
            missing = _ENOUGH * len(c) - self.counts[expert]
            c += np.eye(len(c)) * (missing * self._squared_length / (len(c) * tokens))
        return c

    def is_filled(self, expert: int, d: int) -> bool:
        """Whether C of an expert is of too few tokens, and nothing else mends it."""
        few = int(self.counts[expert]) < _ENOUGH * d
        return few and self.ridge == 0 and self.inverse != "pseudo"

    @functools.cached_property
    def _squared_length(self) -> float:
        """Of a gated key, the mean over all experts."""
        traces = (np.trace(self.total_of(expert)) for expert in range(len(self.counts)))
        return float(sum(traces)) / max(int(self.counts.sum()), 1)


def expert_means(
    moments: SecondMoment,
    layer: int,
    config: ModelConfig,
    *,
    ridge: float = 0.0,
    inverse: Inverse = "auto",
) -> ExpertMeans:
    """C of the experts of a layer, from sums stacked over layers and, within, over experts."""
    experts = config.experts_per_layer
    first = layer * experts
    return ExpertMeans(
        lambda expert: np.asarray(moments.total[first + expert]),
        np.asarray(moments.count[first : first + experts]),
        config.experts_per_token,
        ridge,
        inverse,
    )


def mean_second_moment(
    moments: SecondMoment,
    layer: int,
    config: ModelConfig,
    *,
    ridge: float = 0.0,
    inverse: Inverse | None = "auto",
) -> np.ndarray:
    """C of one layer as edits take it, float64: `(d, d)`; of a mixture `(experts, d, d)`.

    Experts that have read too few tokens are filled up, and named in a `DataNote`.

    Args:
      moments: stacked over layers; of a mixture, over layers and experts.
      layer: its index.
      config: of the model.
      ridge: that is to be added to the diagonal.
      inverse: how C is to be inverted; None if it is not: then nothing is filled up.
    """
    if config.experts is None:
        return np.asarray(moments.total[layer], np.float64) / int(moments.count[layer])
    how: Inverse = "pseudo" if inverse is None else inverse
    means = expert_means(moments, layer, config, ridge=ridge, inverse=how)
    experts, d = range(config.experts.count), config.mlp_width
    found = np.empty((len(experts), d, d))
    for expert in experts:
        found[expert] = means[expert]
    tell_filled(layer, [expert for expert in experts if means.is_filled(expert, d)], d)
    return found


def tokens_of(moments: SecondMoment, config: ModelConfig) -> int:
    """How many tokens of text sums are over."""
    return int(np.sum(moments.count[: config.experts_per_layer])) // config.experts_per_token


def tell_filled(layer: int, experts: Sequence[int], d: int) -> None:
    """Names experts with too few tokens, as a `DataNote`, if there are any."""
    if experts:
        named = ", ".join(map(str, experts[:_NAMED]))
        more = f" and {len(experts) - _NAMED} more" if len(experts) > _NAMED else ""
        warnings.warn(
            DataNote(
                f"layer {layer}: experts {named}{more} read fewer than {_ENOUGH * d} tokens, twice "
                "the dimensions of their keys; their second moments are filled up with tokens of "
                "no direction: add text"
            ),
            stacklevel=2,
        )
