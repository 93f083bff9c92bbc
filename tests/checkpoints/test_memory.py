"""Memory while loading: the model in its new dtype, and a piece of a file."""

import multiprocessing
import sys

import pytest

from benchmarks import loading

CONFIG = {"model_type": "gpt2", "n_layer": 7, "n_embd": 1024, "n_head": 8, "vocab_size": 20_000}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_peaks_at_a_fifth_more_than_the_model(tmp_path):
    model = 4 * loading.write_checkpoint(tmp_path, "BF16", CONFIG)
    assert model > 400e6, "large beside the pieces that are read at a time"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        _, before, peak = pool.apply(loading.load, (tmp_path, "float32"))
    assert model < peak - before < 1.2 * model
