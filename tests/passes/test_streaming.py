"""A streamed scan against a plain one, cut off at any moment."""

import os
import shutil
import signal

import numpy as np
import pytest

from kis_jax import factlm
from kis_jax.checkpoints.loading import load_model
from kis_jax.checkpoints.streamed import StreamedModel
from kis_jax.data.batches import fill_batches
from kis_jax.data.prompts import Prompt
from kis_jax.passes import streaming
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.preemption import Preempted
from kis_jax.passes.second_moments import SecondMomentPass
from kis_jax.passes.store import ABOUT, MomentStore
from kis_jax.passes.streaming import streamed_keys_and_moments
from tests import golden

# Layers alike; with windows and two kinds of rotation; without a past; with norms after.
MODELS = ["gpt2_tied", "gemma3", "bert", "phi3_longrope"]


def texts_of(rng, vocabulary, count=40):
    return [rng.integers(0, vocabulary, rng.integers(1, 9)).tolist() for _ in range(count)]


def stream(model, texts, prompts, directory, **options):
    store = MomentStore(
        directory,
        {"model": "m"},
        num_layers=model.config.num_layers,
        width=model.config.mlp_width,
        settings={"token_budget": 64, "chunk_tokens": 160},
    )
    keys = streamed_keys_and_moments(
        model, texts, prompts, store, token_budget=64, chunk_tokens=160, **options
    )
    return keys, store.restore()


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_moments_are_those_of_a_model_in_memory(name, rng, tmp_path):
    whole, model = load_model(golden.DIRECTORY / name), StreamedModel(golden.DIRECTORY / name)
    texts = texts_of(rng, model.config.vocab_size)
    prompts = [Prompt(text, int(rng.integers(len(text)))) for text in texts[:8]]
    running = SecondMomentPass(whole)
    for batch in fill_batches(texts, whole.config, token_budget=64):
        running.add(batch)
    expected = running.result()
    keys, saved = stream(model, texts, prompts, tmp_path)
    np.testing.assert_allclose(
        keys, fact_keys(whole, prompts, token_budget=64), atol=1e-5, err_msg=name
    )
    assert saved.complete and saved.moments.count.tolist() == expected.count.tolist()
    for layer in range(model.config.num_layers):
        total = expected.total[layer]
        np.testing.assert_allclose(
            saved.moments.total[layer], total, atol=1e-5 * total.max(), err_msg=f"{name}, {layer}"
        )


def test_bfloat16_runs_as_in_memory(rng, tmp_path):
    directory = golden.DIRECTORY / "llama"
    texts = texts_of(rng, 40)
    running = SecondMomentPass(load_model(directory, dtype="bfloat16"))
    for batch in fill_batches(texts, running.model.config, token_budget=64):
        running.add(batch)
    _, saved = stream(StreamedModel(directory, dtype="bfloat16"), texts, [], tmp_path)
    expected = running.result().total
    for layer in range(len(expected)):
        found = saved.moments.total[layer]
        np.testing.assert_allclose(found, expected[layer], atol=2e-2 * expected[layer].max())


@pytest.fixture(scope="module")
def model():
    return StreamedModel(golden.DIRECTORY / "gpt2_tied")


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    texts = texts_of(np.random.default_rng(0), 61)
    directory = tmp_path_factory.mktemp("undisturbed")
    stream(model, texts, [], directory)
    return texts, (directory / ABOUT).read_text()


@pytest.mark.parametrize("layers_done", [0, 1, 4, 8])
def test_killed_between_any_two_layers_it_ends_with_the_same_bits(
    model, undisturbed, tmp_path, monkeypatch, layers_done
):
    texts, expected = undisturbed
    added, add = 0, MomentStore.add

    def killed(self, *arguments, **options):
        nonlocal added
        if added == layers_done:
            raise KeyboardInterrupt
        added += 1
        return add(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MomentStore, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            stream(model, texts, [], tmp_path)
    prompts = [Prompt(texts[0], 0)]
    keys, _ = stream(model, texts, prompts, tmp_path)
    assert keys.any(), "facts ride in the first chunk that is run again"
    assert (tmp_path / ABOUT).read_text() == expected, "digests of all sums among it"
    assert {path.name for path in tmp_path.iterdir()} == {
        ABOUT,
        *(layer.file for layer in MomentStore(tmp_path, {}).layers),
    }


def test_sigterm_ends_it_and_nothing_that_was_saved_is_lost(model, undisturbed, tmp_path):
    texts, expected = undisturbed
    batches = 0

    def notice(batch):
        nonlocal batches
        batches += 1
        if batches == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        stream(model, texts, [], tmp_path, on_layer=notice)
    assert batches == 8 and any(layer.batches for layer in MomentStore(tmp_path, {}).layers)
    stream(model, texts, [], tmp_path)
    assert (tmp_path / ABOUT).read_text() == expected


def test_a_finished_one_reads_no_corpus_and_still_gives_keys(model, undisturbed, tmp_path):
    texts, _ = undisturbed
    prompts = [Prompt(text, 0) for text in texts[:8]]
    first, _ = stream(model, texts, prompts, tmp_path)
    again, saved = stream(model, iter(lambda: 1 / 0, None), prompts, tmp_path)
    np.testing.assert_array_equal(again, first)
    assert saved.complete


def test_weights_are_read_once_a_chunk(model, tmp_path, monkeypatch):
    texts = texts_of(np.random.default_rng(1), 61, count=20)
    read = []
    original = StreamedModel.read_layer

    def watched(self, layer):
        read.append(layer)
        return original(self, layer)

    monkeypatch.setattr(StreamedModel, "read_layer", watched)
    chunks = len(list(streaming._chunks(fill_batches(texts, model.config, token_budget=64), 160)))
    stream(model, texts, [], tmp_path)
    ahead = 1  # begun before it is known that no chunk follows
    assert len(read) <= chunks * model.config.num_layers + ahead
    assert read[: chunks * 3] == list(range(3)) * chunks


def test_weights_that_are_not_finite_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    directory = shutil.copytree(golden.DIRECTORY / "gpt2_tied", tmp_path / "model")
    tensors = dict(load_file(directory / "model.safetensors"))
    name = next(name for name in tensors if "h.1.mlp.c_fc.weight" in name)
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = np.nan
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ValueError, match="h.1.mlp.c_fc.weight: expected finite weights, found 1"):
        StreamedModel(directory).read_layer(1)


def test_a_store_of_another_run_or_with_damage_is_refused(model, undisturbed, tmp_path):
    texts, _ = undisturbed
    _, saved = stream(model, texts, [], tmp_path)
    with pytest.raises(ValueError, match="those of another: model differ; choose"):
        MomentStore(tmp_path, {"model": "n"})
    store = MomentStore(tmp_path, {})
    path = tmp_path / store.layers[1].file
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other numbers than were saved; delete this folder"):
        saved.moments.total[1]
    path.write_bytes(content[:-8])
    with pytest.raises(ValueError, match="of another size"):
        store.read(1)
    (tmp_path / ABOUT).write_text("{}")
    with pytest.raises(ValueError, match="written by another version"):
        MomentStore(tmp_path, {})


def test_keys_that_are_not_finite_stop_it(model, tmp_path, monkeypatch):
    original = StreamedModel.read_layer

    def broken(self, layer):
        found = original(self, layer)
        kernel = found["mlp.input.kernel"]
        return found | {"mlp.input.kernel": kernel * np.float32("inf")} if layer == 2 else found

    monkeypatch.setattr(StreamedModel, "read_layer", broken)
    with pytest.raises(ValueError, match="NaN or infinity in layer 2"):
        stream(model, texts_of(np.random.default_rng(0), 61), [], tmp_path)


def test_the_embedding_is_read_by_rows(model):
    parameters, ids = model.read_embedding(np.array([[5, 3], [3, 60]]))
    assert len(ids) == 1024 and set(ids.tolist()) == {3, 5, 60}
    whole = load_model(golden.DIRECTORY / "gpt2_tied").embedding.embedding[...]
    np.testing.assert_array_equal(parameters["embedding.embedding"], np.asarray(whole)[ids])
    assert not any(name.startswith(("head", "final_norm", "blocks")) for name in parameters)


def test_a_float_of_another_width_is_the_same_number(tmp_path):
    from safetensors.numpy import load_file, save_file

    directory = shutil.copytree(golden.DIRECTORY / "gpt2_tied", tmp_path / "model")
    tensors = load_file(directory / "model.safetensors")
    save_file(
        {name: tensor.astype(np.float64) for name, tensor in tensors.items()},
        directory / "model.safetensors",
    )
    wide = StreamedModel(directory).read_layer(0)
    narrow = StreamedModel(golden.DIRECTORY / "gpt2_tied").read_layer(0)
    for name, values in narrow.items():
        np.testing.assert_array_equal(wide[name], values, err_msg=name)


def test_dtypes_that_do_not_stream():
    with pytest.raises(ValueError, match="dtype: expected float32 or bfloat16, found float16"):
        StreamedModel(factlm.model_directory(), dtype="float16")
