"""How a `config.json` says in what way attention sees the distance between tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kis_jax.models.families.attributes import check_type
from kis_jax.models.families.family import Weight, linear, norm
from kis_jax.models.relative import RelativePositions

_KINDS = ("c2p", "p2c")

DISTANCES = frozenset(
    """
    max_relative_positions norm_rel_ebd pos_att_type position_buckets relative_attention
    share_att_key
    """.split()
)
"""The attributes that `read_distances` understands."""


def read_distances(
    config: Mapping[str, Any], context_length: int
) -> tuple[RelativePositions | None, int]:
    """Reads the attributes in `DISTANCES`.

    Args:
      config: the content of a `config.json`.
      context_length: the most tokens of a text.

    Returns:
      How attention sees distances, None if it does not; and how many summands its logits have
      according to the file, by which they are scaled down whether or not they are computed.

    Raises:
      ValueError: naming an attribute that has none of its possible values.
    """
    kinds = _listed(config, "pos_att_type")
    if unknown := set(kinds) - set(_KINDS):
        raise ValueError(
            f"config.json: pos_att_type: expected some of {', '.join(_KINDS)}, found "
            f"{', '.join(sorted(unknown))}; other kinds are not supported"
        )
    norms = _listed(config, "norm_rel_ebd")
    if norms not in ([], ["none"], ["layer_norm"]):
        raise ValueError(
            f"config.json: norm_rel_ebd: expected none or layer_norm, found {norms}; other norms "
            "are not supported"
        )
    summands = 1 + len(set(kinds))
    if not _switch(config, "relative_attention"):
        return None, summands
    farthest = _count(config, "max_relative_positions") or context_length
    buckets = _count(config, "position_buckets")
    if buckets == 1 or (buckets and farthest <= buckets // 2 + 1):
        raise ValueError(
            f"config.json: position_buckets: expected 2 or more, and half of them fewer than the "
            f"{farthest} distances that they hold, found {buckets}"
        )
    return RelativePositions(
        buckets=buckets or farthest,
        farthest=farthest,
        logarithmic=buckets > 0,
        to_position="c2p" in kinds,
        from_position="p2c" in kinds,
        shared=_switch(config, "share_att_key"),
        norm=norms == ["layer_norm"],
    ), summands


def distance_weights(encoder: str, attention: str) -> tuple[Weight, ...]:
    """The rows of the vectors of distances and of what projects them.

    Args:
      encoder: prefix of the tensors that all layers share.
      attention: prefix of those of one layer's attention, a dot at its end.
    """
    return (
        Weight("distances.embedding", f"{encoder}.rel_embeddings.weight"),
        *norm("distance_norm", f"{encoder}.LayerNorm"),
        *linear("blocks.attention.position_key", f"{attention}pos_key_proj"),
        *linear("blocks.attention.position_query", f"{attention}pos_query_proj"),
    )


def _listed(config: Mapping[str, Any], name: str) -> list[str]:
    """Words that are listed, or joined by bars; none if there is no such attribute."""
    value = config.get(name)
    if value is None:
        return []
    words = value.lower().split("|") if isinstance(value, str) else value
    if not value or not isinstance(words, list) or not all(isinstance(w, str) for w in words):
        raise ValueError(
            f"config.json: {name}: expected words joined by |, or a list of them, found {value!r}"
        )
    return [word.strip() for word in words]


def _switch(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name, False)
    check_type(name, value, bool)
    return value


def _count(config: Mapping[str, Any], name: str) -> int:
    """A whole number; 0 where it is -1, or missing."""
    value = config.get(name, -1)
    if type(value) is int and value in (-1, 0):
        return 0
    check_type(name, value, int)
    return value
