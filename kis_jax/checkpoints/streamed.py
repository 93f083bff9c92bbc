"""A checkpoint read a layer at a time: for models that are larger than memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from kis_jax.checkpoints.opening import abstract_model, open_checkpoint, path_name
from kis_jax.checkpoints.table import Entry
from kis_jax.models import Model

_BLOCKS, _EMBEDDING = "blocks.", "embedding.embedding"
_AFTER_LAYERS = ("final_norm.", "head.")  # keys depend on neither
_ROWS = 1024  # rows of the embedding come in multiples of this, so that few programs are compiled


class StreamedModel:
    """A model of which memory holds what is asked for: a layer, or some rows of the embedding.

    Names, shapes and dtypes are checked when it is opened, as `load` does; numbers as they are
    read. The head and the last norm, on which no key depends, are never read.

    Attributes:
      config: of the model.
      dtype: of parameters and computation.
      shell: the model with shapes in place of parameters.

    Examples:
      >>> from kis_jax import factlm
      >>> model = StreamedModel(factlm.model_directory())
      >>> model.read_layer(2)["mlp.output.kernel"].shape
      (512, 128)
    """

    def __init__(self, directory: Path, *, dtype: DTypeLike = jnp.float32) -> None:
        """Opens a local directory in HuggingFace layout; reads headers only.

        Raises:
          ValueError: naming what is missing, unknown, corrupt or not supported, and the remedy.
        """
        if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
            raise ValueError(f"dtype: expected float32 or bfloat16, found {jnp.dtype(dtype).name}")
        checkpoint = open_checkpoint(directory)
        self.config = checkpoint.config
        self.dtype = jnp.dtype(dtype)
        self._tensors = checkpoint.tensors
        self._graph, self._parameters = abstract_model(checkpoint.family, self.config, dtype)
        self.shell: Model = nnx.merge(self._graph, nnx.from_flat_state(self._parameters.items()))
        self._block_graph, state = nnx.split(self.shell.blocks)
        self._block_parameters = dict(nnx.to_flat_state(state))
        self._layers: list[list[Entry]] = [[] for _ in range(self.config.num_layers)]
        self._before: list[Entry] = []
        for entry in checkpoint.entries:
            if entry.layer is not None:
                self._layers[entry.layer].append(entry)
            elif not entry.target.startswith(_AFTER_LAYERS):
                self._before.append(entry)

    @property
    def layer_size(self) -> int:
        """How many numbers a layer has."""
        shapes = [leaf.shape[1:] for leaf in self._block_parameters.values()]
        return sum(map(math.prod, shapes))

    def read_layer(self, layer: int) -> dict[str, Array]:
        """The parameters of a layer by their paths within it, on the device in the model's dtype.

        May be called from any thread.

        Raises:
          ValueError: if a number is not finite, or the file has become shorter.
        """
        shapes = {path_name(p): leaf.shape[1:] for p, leaf in self._block_parameters.items()}
        found: dict[str, Any] = {}
        for entry in self._layers[layer]:
            name = entry.target.removeprefix(_BLOCKS)
            if entry.expert is None:
                found[name] = self._read(entry, shapes[name])
            else:
                found.setdefault(name, []).append(self._read(entry, shapes[name][1:]))
        return {
            name: jnp.stack(part) if isinstance(part, list) else part
            for name, part in found.items()
        }

    def block(self, parameters: Mapping[str, Array]) -> Any:
        """A layer made of its parameters, for `kis_jax.models.streaming.run_layer`."""
        state = [
            (path, leaf.replace(parameters[path_name(path)]))
            for path, leaf in self._block_parameters.items()
        ]
        return nnx.merge(self._block_graph, nnx.from_flat_state(state))

    def read_embedding(self, tokens: np.ndarray) -> tuple[dict[str, Array], np.ndarray]:
        """What `embed` needs for some tokens, and no more rows than that.

        Args:
          tokens: all ids that are to be embedded, in any shape.

        Returns:
          The parameters, and the ids of the rows that they hold in ascending order: a token is
          embedded by its place among them.
        """
        ids = np.unique(tokens)
        ids = np.pad(ids, (0, -len(ids) % _ROWS), mode="edge")
        shapes = {path_name(path): leaf.shape for path, leaf in self._parameters.items()}
        found = {}
        for entry in self._before:
            rows = ids if entry.target == _EMBEDDING else None
            shape = shapes[entry.target] if rows is None else (len(ids), self.config.width)
            found[entry.target] = self._read(entry, shape, rows)
        return found, ids

    def embed(self, parameters: Mapping[str, Array], places: Array, mask: Array) -> Array:
        """The residual stream before the first layer, `(b, t, width)`.

        Args:
          parameters: from `read_embedding`.
          places: of the tokens among the ids that it returned, `(b, t)`.
          mask: `(b, t)` bool, False at padding.
        """
        state = [
            (
                path,
                leaf.replace(parameters[name]) if (name := path_name(path)) in parameters else leaf,
            )
            for path, leaf in self._parameters.items()
        ]
        return nnx.merge(self._graph, nnx.from_flat_state(state)).embed(places, mask)

    def _read(self, entry: Entry, shape: tuple[int, ...], rows: np.ndarray | None = None) -> Array:
        tensor = self._tensors[entry.source]
        view = entry.layout.view(tensor.array())
        if rows is not None:
            view = view[rows]
        if view.dtype == np.float64:  # of which jax would take no more than this
            view = view.astype(np.float32)
        # A transposed tensor goes over as it lies: the device turns it ten times as fast.
        transposed = view.ndim == 2 and view.T.flags.c_contiguous and not view.flags.c_contiguous
        raw = view.T if transposed else np.ascontiguousarray(view).reshape(shape)
        values, bad = _converted(jnp.asarray(raw), self.dtype, transposed)
        if int(bad):
            raise ValueError(
                f"{tensor.path}: {entry.source}: expected finite weights, found {int(bad)} "
                f"that are not finite as {self.dtype.name}; the file is damaged, or its training "
                "failed: download it again"
            )
        tensor.forget()
        return values


@functools.partial(jax.jit, static_argnames=("dtype", "transposed"))
def _converted(raw: Array, dtype: np.dtype, transposed: bool) -> tuple[Array, Array]:
    """A parameter from a tensor as it is stored, and how many of its numbers are not finite."""
    values = (raw.T if transposed else raw).astype(dtype)
    return values, jnp.sum(~jnp.isfinite(values), dtype=jnp.int32)
