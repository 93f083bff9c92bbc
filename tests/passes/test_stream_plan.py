import numpy as np
import pytest

from kis_jax.core.arrays.packed import PackedMoment, packed_size, row_blocks
from kis_jax.models.families import llama
from kis_jax.passes.stream_plan import check_disk, parse_bytes, plan_stream

LLAMA_3B = llama.read_config(
    {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    }
)
LAYER = 100_669_440  # numbers in a layer of it


def plan(memory, length=1024, dtype="float32"):
    return plan_stream(
        LLAMA_3B, layer_size=LAYER, dtype=dtype, document_length=length, memory=memory
    )


@pytest.mark.parametrize("memory", [2_900_000_000, 4_000_000_000, 16_000_000_000])
def test_a_plan_fits_and_more_memory_takes_more_text(memory):
    found, more = plan(memory), plan(2 * memory)
    assert found.memory <= memory == found.available
    parts = (found.weights, found.sums, found.activations, found.stream, found.program)
    assert found.memory == sum(parts) and found.weights == 2 * 4 * LAYER == 2 * found.layer
    assert found.chunk_tokens >= max(found.token_budget, 1024)
    assert more.chunk_tokens >= found.chunk_tokens and more.token_budget >= found.token_budget


def test_half_the_bytes_of_weights_in_bfloat16():
    assert 2 * plan(8 * 10**9, dtype="bfloat16").weights == plan(8 * 10**9).weights


def test_what_does_not_fit_says_what_would():
    with pytest.raises(ValueError, match=r"memory: expected at least ([\d,]+) MB") as caught:
        plan(1_500_000_000)
    needed = int(str(caught.value).split("at least ")[1].split(" MB")[0].replace(",", ""))
    assert plan(needed * 10**6).memory <= needed * 10**6
    with pytest.raises(ValueError, match="memory: expected at least"):
        plan((needed - 2) * 10**6)


def test_a_disk_that_is_too_small(tmp_path):
    import dataclasses

    with pytest.raises(ValueError, match="of free disk for the second moments of 28 layers"):
        check_disk(dataclasses.replace(plan(4 * 10**9), disk=10**18), tmp_path / "not" / "there")
    check_disk(dataclasses.replace(plan(4 * 10**9), disk=1), tmp_path / "not" / "there")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3GB", 3e9), ("2.5 GiB", 2.5 * 2**30), ("800m", 8e8), ("1048576", 2**20), ("1KiB", 1024)],
)
def test_sizes_in_words(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "three", "-3GB", "0GB", "3XB", "GB"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="memory: expected a number of bytes such as 3GB"):
        parse_bytes(text)


@pytest.mark.parametrize("d", [5, 512, 700, 1536])
def test_a_packed_sum_is_the_triangle_of_the_whole(rng, d):
    keys = rng.normal(size=(3, 20, d)).astype(np.float32)
    where = rng.random((3, 20)) < 0.7
    keys[0, ~where[0]] = np.nan  # padding is never read as a number
    found = PackedMoment.zeros(d).update(keys, where).update(keys, where)
    rows = np.where(where[..., None], keys, 0).reshape(-1, d).astype(np.float64)
    expected = 2 * rows.T @ rows
    assert int(found.count) == 2 * where.sum()
    assert sum(block.size for block in found.rows) == packed_size(d) <= d * d
    for block, (start, stop) in zip(found.rows, row_blocks(d), strict=True):
        np.testing.assert_allclose(block, expected[start:stop, start:], rtol=1e-4, atol=1e-3)


def test_a_packed_sum_refuses_other_shapes(rng):
    with pytest.raises(ValueError, match=r"keys: expected shape \(..., 4\)"):
        PackedMoment.zeros(4).update(np.ones((2, 5), np.float32))
    with pytest.raises(ValueError, match=r"where: expected shape \(2,\)"):
        PackedMoment.zeros(4).update(np.ones((2, 4), np.float32), np.ones(3, bool))
