"""Dataclasses as pytrees that say what they are, wherever they are saved."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeVar

import jax
import jax.export
import numpy as np

T = TypeVar("T", bound=type)


def pytree(cls: T) -> T:
    """Registers a frozen dataclass with jax, and with `jax.export` as an input or output.

    Fields with `metadata={"static": True}` are its structure. Paths to the others begin with the
    value of the field `rule`, or else `name`, where there is one: a checkpoint, which knows leaves
    by their paths, then cannot be restored into a template of another kind.
    """
    fields = dataclasses.fields(cls)
    static = [field.name for field in fields if field.metadata.get("static")]
    given = [field.name for field in fields if field.name not in static]
    kind = next((name for name in ("rule", "name") if name in static), None)

    of_dtypes = {field.name for field in fields if field.type == "DTypeLike"}

    def structure(node: Any) -> tuple[Any, ...]:
        found = ((name, getattr(node, name)) for name in static)
        return tuple(np.dtype(x).name if name in of_dtypes else x for name, x in found)

    def flatten(node: Any) -> tuple[Any, Any]:
        return tuple(getattr(node, name) for name in given), structure(node)

    def with_paths(node: Any) -> tuple[Any, Any]:
        prefix = f"{getattr(node, kind)}." if kind else ""
        keys = (jax.tree_util.GetAttrKey(prefix + name) for name in given)
        return tuple(zip(keys, flatten(node)[0], strict=True)), structure(node)

    def unflatten(structure: Any, children: Any) -> Any:
        named = zip(given + static, (*children, *structure), strict=True)
        return cls(**dict(named))

    jax.tree_util.register_pytree_with_keys(cls, with_paths, unflatten, flatten)
    return jax.export.register_pytree_node_serialization(
        cls,
        serialized_name=f"kis_jax.{cls.__name__}",
        serialize_auxdata=lambda structure: json.dumps(structure).encode(),
        deserialize_auxdata=lambda text: tuple(json.loads(text)),
    )


def exported(cls: T) -> T:
    """Registers a `NamedTuple` with `jax.export`, as an output."""
    return jax.export.register_namedtuple_serialization(
        cls, serialized_name=f"kis_jax.{cls.__name__}"
    )
