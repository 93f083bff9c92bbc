r"""Second moments of keys whose features lie on several devices: each computes half of its rows.

Device i of m has the columns $K_i$ of the keys, and is to have the rows $K_i^\top K$ of the second
moment. As block (j, i) is block (i, j) transposed, it computes only those of the devices after it
in the ring, $K_i^\top K_{i + s}$ for s = 0 ... m / 2: its band. So operations, traffic and memory
are half of what the rows would take. The other half comes from the neighbours in the end, once.
These functions run within `shard_map`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from kis_jax.core.arrays.mesh import Axes, from_next
from kis_jax.core.arrays.products import gram, mirrored, transposed_product


def band_width(d: int, devices: int) -> int:
    """Columns of the band of each device: `d / devices` for each block of half of the ring."""
    return d // devices * (devices // 2 + 1)


def band(
    keys: Array, where: Array | None, axis_name: str | Axes, dtype: DTypeLike = jnp.float32
) -> Array:
    """The band of this device over some tokens.

    Args:
      keys: `(..., d / m)`, this device's columns of the keys.
      where: `(...)` bool, the tokens that count; all of them if None.
      axis_name: of the mesh axis (or axes) of m devices that hold the columns.
      dtype: to sum in.

    Returns:
      `(d / m, band_width(d, m))`: products with its own columns, then with those of the
      next devices in the ring.
    """
    devices = jax.lax.axis_size(axis_name)
    if where is not None:
        keys = jnp.where(where[..., None], keys, jnp.zeros((), keys.dtype))
    own = other = keys.reshape(-1, keys.shape[-1])
    blocks = [gram(own, dtype)]
    for _ in range(devices // 2):
        other = from_next(other, axis_name, 1)
        blocks.append(transposed_product(own, other, dtype))
    return jnp.concatenate(blocks, axis=1)


def rows_of_band(band: Array, axis_name: str | Axes) -> Array:
    """This device's rows of the second moment, `(d / m, d)`, from the bands of all devices."""
    devices = jax.lax.axis_size(axis_name)
    side = len(band)
    blocks = [band[:, s * side : (s + 1) * side] for s in range(devices // 2 + 1)]
    blocks[0] = mirrored(blocks[0])  # to the last bit: of what is saved, one triangle is kept
    before = [
        from_next(blocks[s].T, axis_name, devices - s) for s in range((devices - 1) // 2, 0, -1)
    ]
    # Of the blocks (i, i), (i, i + 1), ... around the ring, the first belongs to column i.
    ring = jnp.concatenate([*blocks, *before], axis=1)
    return jnp.roll(ring, side * jax.lax.axis_index(axis_name), axis=1)
