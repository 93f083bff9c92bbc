"""The memory of a layer, the second matrix of its MLP: read, and replaced in a new model.

Of a mixture it is the second matrices of all experts, one below the other, which gated keys side
by side multiply: see `kis_jax.core.geometry.routed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from kis_jax.core.editing.ledger import Edit
from kis_jax.core.geometry.routed import concatenated
from kis_jax.models import Model, ModelConfig

AnyModel = TypeVar("AnyModel", bound=Model)


def memory_rows(keys: Any, config: ModelConfig) -> Array:
    """Keys as a tap hands them out, as rows that a layer's memory multiplies, `(..., d)`."""
    return keys if config.experts is None else concatenated(keys, config.experts.count)


def memory_kernel(model: Model, layer: int) -> Array:
    """The kernel of a layer's memory, `(d, m)`, with values = keys @ kernel + bias.

    Of a mixture, `(experts * d, m)`: the keys are those of `memory_rows`.

    Raises:
      ValueError: if the model has no such layer.

    Examples:
      >>> from kis_jax import load
      >>> model, _ = load("factlm")
      >>> memory_kernel(model, 3).shape
      (512, 128)
    """
    check_layers([layer], model.config)
    return _stacked(model)[layer].reshape(model.config.memory_width, -1)


def edited(model: AnyModel, edits: Mapping[int, Edit]) -> AnyModel:
    """A model with edits made to it; the one given stays as it is.

    The two share every array but the one stacked kernel, so that an edited model costs the memory
    of `(layers, d, m)` numbers more, however large the rest. Works under `jit`.

    Args:
      model: to be edited.
      edits: by the layer whose second MLP matrix they update, all made to the kernels as they are
        in `model`.

    Returns:
      The edited model, in the dtype of `model`; updates are added up in that of the edits if it
      is wider.

    Raises:
      ValueError: if the model has no such layer, or an edit is of another shape than its memory.

    Examples:
      >>> import jax.numpy as jnp
      >>> from kis_jax import Edit, load
      >>> model, _ = load("factlm")
      >>> edit = Edit(directions=jnp.ones((1, 512)), residuals=jnp.ones((1, 128)))
      >>> after = edited(model, {3: edit})
      >>> bool(jnp.all(memory_kernel(after, 3) == memory_kernel(model, 3) + 1))
      True
    """
    check_layers(edits, model.config)
    kernels = {}
    for layer, edit in edits.items():
        try:
            with jax.enable_x64(True):  # else an edit computed in float64 would be cut
                kernels[layer] = edit.apply(memory_kernel(model, layer))
        except ValueError as error:
            raise ValueError(f"edits: layer {layer}: {error}") from None
    return with_memory(model, kernels)


def with_memory(model: AnyModel, kernels: Mapping[int, ArrayLike]) -> AnyModel:
    """A model with other kernels, `(d, m)`, in the memory of some layers; see `edited`.

    Raises:
      ValueError: if the model has no such layer, or a kernel has another shape.
    """
    check_layers(kernels, model.config)
    stacked = _stacked(model)
    expected = (model.config.memory_width, model.config.width)
    for layer, kernel in kernels.items():
        if jnp.shape(kernel) != expected:
            raise ValueError(
                f"kernels: layer {layer}: expected shape {expected}, keys by values, "
                f"found {jnp.shape(kernel)}"
            )
    if kernels:
        rows = jnp.stack([_as(kernel, stacked.dtype) for kernel in kernels.values()])
        rows = rows.reshape(-1, *stacked.shape[1:])
        stacked = stacked.at[np.array(list(kernels))].set(rows)
    made = jax.tree.map(lambda array: array, model)  # variables of its own, the same arrays
    made.blocks.mlp.output.kernel[...] = stacked
    return made


def check_layers(layers: Mapping[int, object] | list[int], config: ModelConfig) -> None:
    """Raises ValueError if a model has no such layers."""
    for layer in layers:
        if not 0 <= layer < config.num_layers:
            raise ValueError(
                f"layer: expected one of the model, 0 to {config.num_layers - 1}, found {layer}"
            )


def _stacked(model: Model) -> Array:
    return model.blocks.mlp.output.kernel[...]


def _as(kernel: ArrayLike, dtype: jnp.dtype) -> Array:
    """In the dtype of the model, on its device; NumPy's float64 is rounded once, on the host."""
    return jnp.asarray(kernel.astype(dtype) if isinstance(kernel, np.ndarray) else kernel, dtype)
