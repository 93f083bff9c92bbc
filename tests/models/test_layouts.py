"""Layouts are views: what is read through one is there, and what is written through one arrives."""

import numpy as np
import pytest

from kis_jax.models.families.family import (
    AsIs,
    Columns,
    Transposed,
    TransposedHeads,
    TransposedRows,
)

WIDTH, HEADS, HEAD_DIM = 5, 3, 4


@pytest.mark.parametrize(
    ("layouts", "targets"),
    [
        ([AsIs()], [(WIDTH, 7)]),
        ([Transposed()], [(WIDTH, 7)]),
        ([Columns(i, 3) for i in range(3)], 3 * [(WIDTH, 7)]),
        ([Columns(i, 3) for i in range(3)], 3 * [(7,)]),
        ([TransposedRows(0, 6, 8), TransposedRows(6, 2, 8)], [(WIDTH, 6), (WIDTH, 2)]),
        ([TransposedRows(0, 6, 8), TransposedRows(6, 2, 8)], [(6,), (2,)]),
        ([TransposedHeads(i, 3, HEADS) for i in range(3)], 3 * [(WIDTH, HEADS * HEAD_DIM)]),
        ([TransposedHeads(i, 3, HEADS) for i in range(3)], 3 * [(HEADS * HEAD_DIM,)]),
    ],
)
def test_parts_fill_a_tensor_once_and_are_read_back(layouts, targets, rng):
    (shape,) = {layout.shape(target) for layout, target in zip(layouts, targets, strict=True)}
    tensor = np.full(shape, np.nan)
    parts = [rng.normal(size=target) for target in targets]
    for layout, part in zip(layouts, parts, strict=True):
        place = layout.view(tensor)
        assert np.shares_memory(place, tensor)
        place[...] = part.reshape(place.shape)
    np.testing.assert_array_equal(
        np.sort(tensor, axis=None), np.sort(np.concat([*map(np.ravel, parts)]))
    )
    for layout, part in zip(layouts, parts, strict=True):
        np.testing.assert_array_equal(layout.view(tensor).reshape(part.shape), part)


def test_heads_alternate_row_by_row():
    tensor = np.arange(2 * HEADS * HEAD_DIM * WIDTH).reshape(2 * HEADS * HEAD_DIM, WIDTH)
    kernel = TransposedHeads(1, 2, HEADS).view(tensor).reshape(WIDTH, -1)
    for head in range(HEADS):
        for entry in range(HEAD_DIM):
            row = (2 * head + 1) * HEAD_DIM + entry
            np.testing.assert_array_equal(kernel[:, head * HEAD_DIM + entry], tensor[row])
