"""How `config.json` writes rotary positions, in the style of transformers 5 and before."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from kis_jax.models.families.attributes import OrNone, check_type
from kis_jax.models.rotary import Banded, Dynamic, Linear, Long, Ramp, Rotary

# What a family's reader adds to the attributes it understands, to call `read_rotary` with them.
ROTARY_DEFAULTS: dict[str, Any] = {
    "rope_theta": 10000.0,
    "rope_scaling": OrNone(dict),
    "rope_parameters": OrNone(dict),
}

_COMMON = {"rope_type", "type", "rope_theta"}
_KEYS = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "llama3": {
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    },
    "yarn": {
        "factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "attention_factor",
        "original_max_position_embeddings",
        "max_position_embeddings",
    },
    "longrope": {
        "factor",
        "short_factor",
        "long_factor",
        "attention_factor",
        "original_max_position_embeddings",
    },
}

# Kinds of scaling, `"default"` for none, that transformers computes for families in general.
ROTARY_KINDS = tuple(_KEYS)


def read_rotary(
    attributes: Mapping[str, Any], *, head_dim: int, kinds: Collection[str] = ROTARY_KINDS
) -> Rotary:
    """Rotary positions from a family's attributes.

    Args:
      attributes: `rope_parameters` or, before transformers 5, `rope_theta` and `rope_scaling`;
        also `max_position_embeddings`, and `original_max_position_embeddings` and
        `partial_rotary_factor` where a family has them: others turn whole heads.
      head_dim: width of a head.
      kinds: the kinds of scaling that the family has, of `ROTARY_KINDS`.

    Raises:
      ValueError: naming what is not understood.
    """
    # The older attribute wins where both are set, as it does in transformers.
    found = attributes.get("rope_scaling") or attributes.get("rope_parameters") or {}
    check_type("rope_parameters", found, dict)
    kind = found.get("rope_type", found.get("type", "default"))
    kind = "longrope" if kind == "su" else kind  # its name in the first files of Phi-3
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(
            f"config.json: rope_type: expected one of {', '.join(kinds)}, found {kind!r}, a "
            "scaling of positions that is not supported; use the checkpoint without it"
        )
    if found.get("truncate") is True:  # as if it were not there
        found = {name: value for name, value in found.items() if name != "truncate"}
    known = _KEYS[kind] | _COMMON | (attributes.keys() & {"partial_rotary_factor"})
    if kind == "yarn" and found.get("truncate") is False:
        known.add("truncate")
    if unknown := sorted(set(found) - known):
        raise ValueError(
            f"config.json: expected positions scaled by {kind} to have only "
            f"{', '.join(sorted(known))}, found {', '.join(unknown)}"
        )
    fraction = found.get("partial_rotary_factor", attributes.get("partial_rotary_factor", 1.0))
    turned = int(head_dim * _positive("partial_rotary_factor", fraction))
    dim = check_turned("partial_rotary_factor", turned, head_dim)
    base = found.get("rope_theta", attributes["rope_theta"])
    limit = attributes["max_position_embeddings"]
    original = attributes.get("original_max_position_embeddings") or found.get(
        "original_max_position_embeddings", limit
    )
    return Rotary(
        dim=dim,
        base=float(_positive("rope_theta", base)),
        scaling=_read_scaling(kind, found, dim=dim, base=base, limit=limit, original=original),
    )


def check_turned(name: str, dim: int, head_dim: int) -> int:
    """How many entries of a head are turned, checked to be pairs of them."""
    if dim % 2 or not 0 < dim <= head_dim:
        raise ValueError(
            f"config.json: {name}: expected an even number of turned entries in a head of "
            f"{head_dim}, found {dim}"
        )
    return dim


def context_of(rotary: Rotary, limit: int) -> int:
    """The most tokens of a text: `max_position_embeddings`, and more where the base grows."""
    return int(limit * rotary.scaling.factor) if isinstance(rotary.scaling, Dynamic) else limit


def _read_scaling(
    kind: str, found: Mapping[str, Any], *, dim: int, base: float, limit: int, original: int
) -> Linear | Dynamic | Banded | Ramp | Long | None:
    def number(name: str, default: float | None = None) -> float:
        if default is not None and found.get(name) is None:
            return default
        if name not in found:
            raise ValueError(f"config.json: expected {name} for positions scaled by {kind}")
        return float(_positive(name, found[name]))

    def numbers(name: str) -> tuple[float, ...]:
        values = found.get(name)
        if not isinstance(values, list) or len(values) != dim // 2:
            raise ValueError(f"config.json: {name}: expected a list of {dim // 2} numbers")
        return tuple(float(_positive(name, value)) for value in values)

    check_type("original_max_position_embeddings", original, int)
    match kind:
        case "linear":
            return Linear(number("factor"))
        case "dynamic":
            if dim < 4:
                raise ValueError(f"config.json: expected heads of 4 or more to scale, found {dim}")
            return Dynamic(number("factor"), limit)
        case "llama3":
            low, high = number("low_freq_factor"), number("high_freq_factor")
            if not low < high:
                raise ValueError(
                    f"config.json: high_freq_factor: expected more than low_freq_factor={low}, "
                    f"found {high}"
                )
            return Banded(number("factor"), low, high, original)
        case "yarn":
            if base <= 1:
                raise ValueError(f"config.json: rope_theta: expected more than 1, found {base}")
            return _read_ramp(found, number, limit=limit, original=original)
        case "longrope":
            if original < 2:
                raise ValueError("config.json: original_max_position_embeddings: expected over 1")
            factor = number("factor") if found.get("factor") is not None else limit / original
            amplitude = math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(original))
            if found.get("attention_factor") is not None:
                amplitude = number("attention_factor")
            return Long(numbers("short_factor"), numbers("long_factor"), original, amplitude)
    return None


def _read_ramp(
    found: Mapping[str, Any], number: Callable[..., float], *, limit: int, original: int
) -> Ramp:
    factor = number("factor", limit / original)

    def length(scale: float) -> float:
        return 1 + 0.1 * scale * math.log(factor) if factor > 1 else 1.0

    amplitude = length(1.0)
    if found.get("mscale") and found.get("mscale_all_dim"):
        amplitude = length(number("mscale")) / length(number("mscale_all_dim"))
    low, high = number("beta_slow", 1.0), number("beta_fast", 32.0)
    amplitude = number("attention_factor", amplitude)
    return Ramp(factor, low, high, original, amplitude, whole="truncate" not in found)


def split_rotary(
    attributes: Mapping[str, Any], *, head_dim: int, local_base: float
) -> tuple[dict[str, Any], Rotary]:
    """Rotary positions where layers with a window have their own.

    Args:
      attributes: as for `read_rotary`; `rope_parameters` holds settings under `full_attention` and
        `sliding_attention`. What stands outside them is for layers without a window alone.
      head_dim: width of a head.
      local_base: the base in layers with a window, where the file does not name it.

    Returns:
      The attributes as layers without a window have them, for `read_rotary`; and the positions of
      those with one.
    """
    by_type = attributes["rope_parameters"] or {}
    if unknown := sorted(by_type.keys() - {"full_attention", "sliding_attention"}):
        raise ValueError(
            "config.json: rope_parameters: expected settings under full_attention and "
            f"sliding_attention alone, found {', '.join(unknown)}; transformers does not read "
            "these: move them under the kind of layer that they are for"
        )
    near = {
        **attributes,
        "rope_theta": local_base,
        "rope_scaling": None,
        "rope_parameters": by_type.get("sliding_attention"),
    }
    far = {**attributes, "rope_parameters": by_type.get("full_attention")}
    return far, read_rotary(near, head_dim=head_dim)


def _positive(name: str, value: Any) -> Any:
    check_type(name, value, float)
    return value
