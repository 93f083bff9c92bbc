import dataclasses
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orbax.checkpoint as ocp
import pytest

from kis_jax import factlm
from kis_jax.data.corpora import Corpus, open_corpus
from kis_jax.passes import second_moments
from kis_jax.passes.convergence import Watch
from kis_jax.passes.preemption import (
    Preempted,
    Terminated,
    preemption_notice,
    terminated_by_signal,
)
from kis_jax.passes.saved import resumable_second_moments
from kis_jax.passes.store import MomentStore

IDENTITY = {"model": "m", "corpus": "c", "dtype": "float32"}


@pytest.fixture(scope="module")
def corpus():
    return open_corpus(factlm.corpus_path(), limit=60)


@pytest.fixture
def often(monkeypatch):
    """Sums reach the host every third batch, and each batch is saved."""
    monkeypatch.setattr(second_moments, "_BATCHES_ON_DEVICES", 3)


def run(embedded, corpus, directory, on_batch=lambda batch: None, token_budget=256, save_every=0):
    model, tokenizer = embedded
    return resumable_second_moments(
        model,
        tokenizer,
        corpus,
        directory,
        IDENTITY,
        token_budget=token_budget,
        on_batch=on_batch,
        save_every=save_every,
    )


@pytest.fixture(scope="module")
def undisturbed(embedded, corpus, tmp_path_factory):
    """The sums of a pass as `often` has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(second_moments, "_BATCHES_ON_DEVICES", 3)
        return run(embedded, corpus, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def finished(embedded, corpus, tmp_path_factory):
    """The folder of a whole pass, and its sums."""
    folder = tmp_path_factory.mktemp("finished") / "moments"
    return folder, run(embedded, corpus, folder)


@pytest.fixture
def copied(finished, tmp_path):
    """Such a folder of one's own."""
    return shutil.copytree(finished[0], tmp_path / "moments")


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("interrupted_at", [1, 4, 5, 9])
def test_interrupted_and_resumed_ends_with_the_same_bits(
    embedded, corpus, undisturbed, tmp_path, interrupted_at
):
    batches = 0

    def interrupt(batch):
        nonlocal batches
        batches += 1
        if batches == interrupted_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(embedded, corpus, tmp_path / "b", interrupt)
    seen = []
    resumed = run(embedded, corpus, tmp_path / "b", seen.append)
    np.testing.assert_array_equal(resumed.total, undisturbed.total)
    np.testing.assert_array_equal(resumed.count, undisturbed.count)
    assert sum(len(batch.rows) for batch in seen) == 60, "progress counts what was skipped too"


def test_a_finished_pass_reads_no_corpus(embedded, corpus, finished, copied):
    _, first = finished

    def unreadable():
        raise AssertionError("the corpus was read again")

    again = run(embedded, dataclasses.replace(corpus, documents=unreadable), copied)
    np.testing.assert_array_equal(again.total, first.total)
    assert again.total.dtype == np.float64 and again.count.dtype == np.int64


def test_the_moments_of_another_run_are_refused(copied):
    with pytest.raises(ValueError, match=r"those of another: corpus, model differ; choose"):
        MomentStore(copied, IDENTITY | {"corpus": "d", "model": "n"})
    assert MomentStore(copied, IDENTITY).complete


@pytest.mark.parametrize("damage", ["about", "gone", "flip", "cut", "version"])
def test_damaged_moments_are_refused_with_a_remedy(embedded, corpus, copied, damage):
    about, file = copied / "layers.json", next(copied.glob("layer_003.*.f64"))
    content = bytearray(file.read_bytes())
    if damage == "version":
        about.write_text('{"identity": {}}')
    elif damage == "about":
        about.write_text(about.read_text()[:-20])
    elif damage == "gone":
        file.unlink()
    else:
        content[100] ^= 1
        file.write_bytes(content if damage == "flip" else content[:-8])
    with pytest.raises(ValueError, match="delete this folder and run again"):
        np.asarray(run(embedded, corpus, copied).total)


def test_a_save_cut_short_is_not_seen(embedded, corpus, finished, copied):
    """What a killed process leaves behind is ignored: only files that are named count."""
    file = next(copied.glob("layer_003.*.f64"))
    (copied / "layer_003.999.f64").write_bytes(b"half")
    (copied / f".{file.name}.partial-1").write_bytes(b"half")
    again = run(embedded, corpus, copied)
    np.testing.assert_array_equal(again.total, finished[1].total)


def test_nothing_but_the_last_save_is_kept(embedded, corpus, tmp_path, often):
    run(embedded, corpus, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 7 and "layers.json" in names, "a file a layer, and what is said of them"


def test_what_an_earlier_version_finished_is_read(embedded, corpus, finished, tmp_path):
    """One orbax checkpoint of all layers, as kis_jax 0.1 saved them."""
    whole = finished[1]
    about = {"identity": IDENTITY, "batches": 7, "token_budget": 256, "complete": True}
    with ocp.CheckpointManager(tmp_path / "moments") as manager:
        arrays = {"total": np.asarray(whole.total), "count": whole.count}
        parts = {"second_moments": ocp.args.StandardSave(arrays), "about": ocp.args.JsonSave(about)}
        manager.save(15, args=ocp.args.Composite(**parts))
    with pytest.raises(ValueError, match="those of another: model differ; choose"):
        MomentStore(tmp_path / "moments", IDENTITY | {"model": "n"})
    again = run(embedded, corpus, tmp_path / "moments", on_batch=lambda batch: 1 / 0)
    np.testing.assert_array_equal(again.total, whole.total)
    assert not (tmp_path / "moments" / "15").exists(), "it was converted"


def test_what_an_earlier_version_left_unfinished_is_refused(finished, tmp_path):
    about = {"identity": IDENTITY, "batches": 7, "token_budget": 256, "complete": False}
    with ocp.CheckpointManager(tmp_path / "moments") as manager:
        arrays = {"total": np.zeros((6, 8, 8)), "count": finished[1].count}
        parts = {"second_moments": ocp.args.StandardSave(arrays), "about": ocp.args.JsonSave(about)}
        manager.save(14, args=ocp.args.Composite(**parts))
    with pytest.raises(ValueError, match="left them unfinished; delete this folder and run"):
        MomentStore(tmp_path / "moments", IDENTITY)


def test_an_empty_stream_of_documents_gives_no_tokens(embedded, tmp_path):
    nothing = Corpus("nothing", lambda: iter(()), 0, "0")
    result = run(embedded, nothing, tmp_path)
    assert result.count.tolist() == 6 * [0]


def test_documents_are_cut_at_the_length_asked_for(embedded, corpus, tmp_path):
    model, tokenizer = embedded
    lengths = [len(tokenizer(text)["input_ids"]) for text in corpus.documents()]
    result = resumable_second_moments(
        model, tokenizer, corpus, tmp_path, IDENTITY, token_budget=256, document_length=9
    )
    cut = sum(min(length, 9) for length in lengths)
    assert cut < sum(lengths) and result.count.tolist() == 6 * [cut]


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("noticed_at", [1, 3, 5])
def test_sigterm_saves_at_the_next_batch_and_the_same_bits_come_of_it(
    embedded, corpus, undisturbed, tmp_path, noticed_at
):
    batches = 0

    def notice(batch):
        nonlocal batches
        batches += 1
        if batches == noticed_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match=r"over \d batches of text are saved"):
        run(embedded, corpus, tmp_path / "b", notice, save_every=1e9)
    assert batches == noticed_at, "no batch is run after the notice"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "as it was before"
    saved = MomentStore(tmp_path / "b", IDENTITY).restore()
    assert noticed_at - 3 < saved.batches <= noticed_at, "those that the host had settled"
    resumed = run(embedded, corpus, tmp_path / "b", save_every=1e9)
    np.testing.assert_array_equal(resumed.total, undisturbed.total)


def test_sigterm_after_the_last_batch_ends_the_run_once_all_is_saved(
    embedded, corpus, undisturbed, tmp_path, monkeypatch
):
    """Nothing asks for it any more in the pass, and it is not forgotten."""
    save = MomentStore.save

    def signalled(store, state, *arguments, **named):
        if state.complete:
            os.kill(os.getpid(), signal.SIGTERM)
        save(store, state, *arguments, **named)

    monkeypatch.setattr(MomentStore, "save", signalled)
    with terminated_by_signal(), pytest.raises(Terminated):
        run(embedded, corpus, tmp_path / "b", save_every=1e9)
    saved = MomentStore(tmp_path / "b", IDENTITY).restore()
    assert saved.complete
    np.testing.assert_array_equal(np.asarray(saved.moments.total), undisturbed.total)


def test_outside_of_the_main_thread_no_handler_is_set():
    before = signal.getsignal(signal.SIGTERM)

    def inside():
        with preemption_notice() as noticed:
            return noticed(), signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor() as pool:
        assert pool.submit(inside).result() == (False, before)


def test_a_pass_whose_time_is_over_ends_with_a_rough_c_and_is_whole(embedded, tmp_path):
    model, tokenizer = embedded
    corpus = open_corpus(factlm.corpus_path(), limit=200)
    late, read = Watch(end=0.0), []
    found = resumable_second_moments(
        *(model, tokenizer, corpus, tmp_path, IDENTITY),
        token_budget=256,
        watch=late,
        on_batch=read.append,
    )
    least = 8 * model.config.mlp_width
    assert least <= int(found.count[0]) < least + 256
    assert int(found.count[0]) == sum(int(batch.mask.sum()) for batch in read)
    assert MomentStore(tmp_path, IDENTITY).complete
