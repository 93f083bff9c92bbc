"""How the parameters of a model are laid out over a mesh: one table for all families."""

from __future__ import annotations

import re
from collections.abc import Iterable

from jax.sharding import Mesh, PartitionSpec

from kis_jax.core.mesh import MODEL
from kis_jax.models.config import ModelConfig

# A pattern of a parameter's path; its axis that is cut; and what must go up evenly over the devices
# of the model axis for that. The first row that fits and goes up is taken; what fits none is kept
# whole on every device: norms, and biases that are added once to a sum over devices. Parameters of
# layers are stacked, their axis 0 is that of the layers. A matrix that reads the stream is cut by
# its columns and the one that writes it back by its rows, so that a layer needs two sums over
# devices, one after attention and one after the MLP.
PLAN = (
    (r"embedding\.embedding", 0, "vocab_size"),
    (r"embedding\.embedding", 1, "width"),
    (r"head\.kernel", 1, "vocab_size"),
    (r"head\.bias", 0, "vocab_size"),
    (r"blocks\.attention\.query\.kernel", 2, "num_heads"),
    (r"blocks\.attention\.query\.bias", 1, "num_heads"),
    (r"blocks\.attention\.(key|value)\.kernel", 2, "num_kv_heads"),
    (r"blocks\.attention\.(key|value)\.bias", 1, "num_kv_heads"),
    (r"blocks\.attention\.output\.kernel", 1, "num_heads"),
    (r"blocks\.mlp\.(input|gate)\.kernel", 2, "mlp_width"),
    (r"blocks\.mlp\.(input|gate)\.bias", 1, "mlp_width"),
    (r"blocks\.mlp\.output\.kernel", 1, "mlp_width"),
)


def partition(path: str, config: ModelConfig, mesh: Mesh) -> PartitionSpec:
    """Where the parts of a parameter lie.

    Args:
      path: of the parameter, such as `blocks.mlp.output.kernel`.
      config: of the model.
      mesh: with axes `data` and `model`.

    Example:
      >>> import jax
      >>> from kis_jax.core.mesh import make_mesh
      >>> from kis_jax.models.families import gpt2
      >>> mesh = make_mesh(devices=jax.devices()[:1])
      >>> partition("blocks.mlp.output.kernel", gpt2.read_config({}), mesh)
      P(None, 'model')
    """
    devices = mesh.shape[MODEL]
    for pattern, axis, unit in PLAN:
        if re.fullmatch(pattern, path) and getattr(config, unit) % devices == 0:
            return PartitionSpec(*(None,) * axis, MODEL)
    return PartitionSpec()


def partitions(paths: Iterable[str], config: ModelConfig, mesh: Mesh) -> dict[str, PartitionSpec]:
    """Where the parts of all parameters lie, by their paths.

    Raises:
      ValueError: if keys do not go up over the devices of the model axis.
    """
    devices = mesh.shape[MODEL]
    if config.mlp_width % devices:
        raise ValueError(
            f"mesh: expected a model axis that divides {config.mlp_width}, the width of the keys, "
            f"found one of {devices} devices; choose a divisor"
        )
    return {path: partition(path, config, mesh) for path in paths}
