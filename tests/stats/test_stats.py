"""Second moments merged, and brought in and out of ROME's files."""

import numpy as np
import pytest

from kis_jax import factlm
from kis_jax.data.corpora import open_corpus
from kis_jax.passes.saved import resumable_second_moments
from kis_jax.passes.second_moments import second_moments
from kis_jax.passes.store import MomentStore, packed_rows
from kis_jax.stats.run import describe, export_rome, import_rome, merge_stats, open_stats

IDENTITY = {"model": "m", "tokenizer": "t", "dtype": "float32", "document_length": 96}


@pytest.fixture(scope="module")
def lines():
    return factlm.corpus_path().read_text().splitlines()[:120]


@pytest.fixture(scope="module")
def parts(embedded, lines, tmp_path_factory):
    """Second moments over two halves of a text, as two runs leave them."""
    model, tokenizer = embedded
    folder = tmp_path_factory.mktemp("parts")
    for name, half in (("a", lines[:60]), ("b", lines[60:])):
        (folder / f"{name}.txt").write_text("\n".join(half))
        corpus = open_corpus(folder / f"{name}.txt")
        identity = IDENTITY | {"corpus": corpus.fingerprint}
        resumable_second_moments(
            model, tokenizer, corpus, folder / name, identity, token_budget=512
        )
    return folder


def test_parts_merge_to_the_moments_of_the_whole(embedded, lines, parts, tmp_path):
    expected = second_moments(*embedded, lines, token_budget=512)
    merged = merge_stats([open_stats(parts / name) for name in "ab"], tmp_path / "ab")
    assert merged.complete and merged.moments.count.tolist() == expected.count.tolist()
    for layer in range(6):
        total = expected.total[layer]
        np.testing.assert_allclose(
            merged.moments.total[layer], total, rtol=0, atol=1e-6 * total.max()
        )
    other_way = merge_stats([open_stats(parts / name) for name in "ba"], tmp_path / "ba")
    np.testing.assert_array_equal(merged.moments.total[3], other_way.moments.total[3])
    assert merged.identity == other_way.identity and len(merged.corpora) == 2
    spreads = [open_stats(parts / name).spread for name in "ab"]
    assert merged.spread.parts == sum(spread.parts for spread in spreads)
    assert all(line["error"] > 0 for line in describe(merged))


@pytest.mark.parametrize("change", ["model", "dtype", "twice", "unfinished", "one", "full"])
def test_what_cannot_be_merged(parts, tmp_path, change):
    a, b = open_stats(parts / "a"), open_stats(parts / "b")
    found = {
        "model": ([a, _with(b, identity=b.identity | {"model": "n"})], "found model to differ"),
        "dtype": ([a, _with(b, identity=b.identity | {"dtype": "x"})], "found dtype to differ"),
        "twice": ([a, b, a], "one corpus in two of them"),
        "unfinished": ([a, _with(b, complete=False)], "cut short"),
        "one": ([a], "two folders of second moments or more, found 1"),
        "full": ([a, b], "expected an empty folder"),
    }
    if change == "full":
        (tmp_path / "thesis.tex").write_text("precious")
    given, message = found[change]
    with pytest.raises(ValueError, match=message):
        merge_stats(given, tmp_path)


def _with(stats, **changes):
    import dataclasses

    return dataclasses.replace(stats, **changes)


def test_a_folder_without_any(tmp_path):
    with pytest.raises(ValueError, match="expected a folder of second moments, found none"):
        open_stats(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def of_factlm(embedded, lines, tmp_path_factory):
    from kis_jax.checkpoints import fingerprint

    model, tokenizer = embedded
    folder = tmp_path_factory.mktemp("factlm")
    (folder / "text.txt").write_text("\n".join(lines))
    corpus = open_corpus(folder / "text.txt")
    name = fingerprint.of_model(factlm.model_directory())
    identity = IDENTITY | {"model": name, "corpus": "c"}
    resumable_second_moments(model, tokenizer, corpus, folder / "c", identity, token_budget=512)
    return open_stats(folder / "c")


def test_romes_files_and_back(of_factlm, tmp_path):
    """Entries, names and the number of documents are those that ROME's `tally` asks for."""
    paths = export_rome(of_factlm, "factlm", tmp_path / "stats", sample_size=120)
    assert [path.relative_to(tmp_path / "stats").as_posix() for path in paths] == [
        f"factlm/wikipedia_stats/transformer.h.{layer}.mlp.c_proj_float32_mom2_120.npz"
        for layer in range(6)
    ]
    with np.load(paths[4]) as arrays:  # without pickles, as ROME loads it
        arrays = dict(arrays)
    assert set(arrays) == {"mom2.constructor", "mom2.count", "mom2.mom2", "sample_size"}
    assert arrays["sample_size"] == 120 and int(arrays["mom2.count"]) == of_factlm.moments.count[4]
    assert arrays["mom2.mom2"].dtype == np.float32
    np.testing.assert_allclose(arrays["mom2.mom2"], of_factlm.moments.total[4], rtol=1e-6)

    back = import_rome([paths[4], paths[1]], "factlm", tmp_path / "back")
    assert back.complete and back.moments.count.tolist() == [
        of_factlm.moments.count[layer] if layer in (1, 4) else 0 for layer in range(6)
    ]
    for layer in (1, 4):
        total = of_factlm.moments.total[layer]
        np.testing.assert_allclose(back.moments.total[layer], total, atol=1e-6 * total.max())
    assert [line["layer"] for line in describe(back)] == [1, 4]
    assert back.identity["model"] == of_factlm.identity["model"]


def test_a_file_without_a_layer_in_its_name(of_factlm, tmp_path):
    (path, *_) = export_rome(of_factlm, "factlm", tmp_path / "stats")
    bare = path.rename(tmp_path / "mom2.npz")
    with pytest.raises(ValueError, match="a name with a layer in it.*pass --layer"):
        import_rome([bare], "factlm", tmp_path / "back")
    back = import_rome([bare], "factlm", tmp_path / "back", layer=0)
    assert back.moments.count[0] == of_factlm.moments.count[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mom2.count": 3}, "mom2.mom2 and mom2.count as ROME's"),
        ({"mom2.count": 3, "mom2.mom2": np.eye(3)}, r"shape \(512, 512\).*another model"),
        ({"mom2.count": 0, "mom2.mom2": np.eye(512)}, "over 0; it belongs"),
    ],
)
def test_files_that_are_not_romes(tmp_path, arrays, message):
    path = tmp_path / "transformer.h.2.mlp.c_proj_float32_mom2_5.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        import_rome([path], "factlm", tmp_path / "out")


def _sum(**entries):
    """A sum of products of 512 numbers over three tokens, some of its entries others."""
    total = np.eye(512)
    for place, value in entries.items():
        i, j = map(int, place.strip("at").split("_"))
        total[i, j] = value
    return total


@pytest.mark.parametrize(
    ("total", "count", "message"),
    [
        (_sum(at3_5=np.nan, at5_3=np.nan), 3, "a number that is not finite, nan at 3, 5"),
        (_sum(at511_2=np.inf), 3, "inf at 511, 2|no symmetry"),
        (_sum(at7_7=-1e-3), 3, "-0.001 on its diagonal, at 7"),
        (_sum(at7_7=np.nan), 3, "nan on its diagonal, at 7"),
        (_sum(at1_2=0.5), 3, "no symmetry, 0.5 at 1, 2"),
        (_sum(at1_2=2, at2_1=2), 3, "a product larger than those of its factors, 2.0 at 1, 2"),
        (np.zeros((512, 512)), 3, "zeros alone"),
        (np.eye(512), 3.0, "no whole number, 3.0 of float64"),
        (np.eye(512), 3.5, "no whole number, 3.5 of float64"),
    ],
)
def test_sums_that_none_can_be_are_refused_at_once(tmp_path, total, count, message):
    path = tmp_path / "transformer.h.2.mlp.c_proj_float32_mom2_5.npz"
    np.savez(path, **{"mom2.mom2": total, "mom2.count": np.array(count)})
    with pytest.raises(ValueError, match=f"sum of products of keys for layer 2, found .*{message}"):
        import_rome([path], "factlm", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_dead_neuron_and_the_rounding_of_float32_are_taken(tmp_path):
    total = _sum(at4_4=0, at1_2=0.3, at2_1=0.3 + 1e-5)
    path = tmp_path / "transformer.h.2.mlp.c_proj_float32_mom2_5.npz"
    np.savez(path, **{"mom2.mom2": total.astype(np.float32), "mom2.count": np.array(3)})
    assert import_rome([path], "factlm", tmp_path / "out").moments.count[2] == 3


def test_layers_that_the_model_does_not_have_or_twice(tmp_path):
    far, near = (tmp_path / f"transformer.h.{n}.mlp.c_proj_x.npz" for n in (6, 2))
    with pytest.raises(ValueError, match="found layer 6"):
        import_rome([far], "factlm", tmp_path / "out")
    with pytest.raises(ValueError, match="found layer 2 again"):
        import_rome([near, near], "factlm", tmp_path / "out")


def test_moments_of_another_model_are_not_exported(parts, tmp_path):
    with pytest.raises(ValueError, match="model: expected the one whose second moments"):
        export_rome(open_stats(parts / "a"), "factlm", tmp_path)


@pytest.mark.parametrize("d", [3, 512, 1300])
def test_a_store_gives_back_what_it_was_given(tmp_path, rng, d):
    keys = rng.normal(size=(50, d))
    total = keys.T @ keys
    store = MomentStore(tmp_path, IDENTITY, num_layers=1, width=d)
    store.add(0, packed_rows(total), 50, 1)
    store.add(0, packed_rows(total), 50, 2)
    np.testing.assert_allclose(store.read(0), 2 * total, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(store.layers[0].norm, 2 * np.linalg.norm(total), rtol=1e-12)
