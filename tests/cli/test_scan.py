"""The whole of `kis scan` on the embedded model, held against its own files."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from kis_jax import factlm
from kis_jax.passes.store import MomentStore
from tests import references

SMALL = ("--num-facts", 24, "--num-documents", 300, "--layers", "0,5")


@pytest.fixture(scope="session")
def scanned(tmp_path_factory):
    """One scan for all tests that only look at its files."""
    from pytest import MonkeyPatch

    from kis_jax.cli import main

    out = tmp_path_factory.mktemp("scan") / "run"
    with MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["kis", "scan", "--out", str(out), *map(str, SMALL)])
        with pytest.raises(SystemExit, match="0"):
            main()
    return out, json.loads((out / "scan.json").read_text())


def independent_second_moments(embedded, record):
    """C of every layer from one text at a time, in float64 NumPy."""
    model, tokenizer = embedded
    keys_of = jax.jit(lambda tokens, mask: model(tokens, mask, tap=lambda keys, _: keys)[1])
    texts = factlm.corpus_path().read_text().splitlines()[: record["document_count"]]
    total, count = 0.0, 0
    for text in texts:
        tokens = tokenizer(text)["input_ids"][: record["settings"]["context_length"]]
        padded = np.array([tokens + [0] * (96 - len(tokens))], np.int32)
        keys = np.asarray(keys_of(padded, np.arange(96)[None] < len(tokens)), np.float64)
        keys = keys[:, 0, : len(tokens)]
        total = total + np.matrix_transpose(keys) @ keys
        count += len(tokens)
    return total / count, count


def test_writes_all_its_files(scanned):
    out, record = scanned
    names = {path.name for path in out.iterdir()}
    assert names == {
        "scan.json",
        "layer_000.npz",
        "layer_005.npz",
        "second_moments",
        "report.html",
        "figures",
    }
    assert [layer["layer"] for layer in record["layers"]] == [0, 5]
    assert record["family"] == "gpt2" and record["model"] == "factlm"
    assert set(record["fingerprints"]) == {"model", "tokenizer", "corpus", "facts"}
    assert all(fact["known"] is True for fact in record["facts"])


def test_every_number_follows_from_its_own_files(scanned, embedded):
    """P, Q and both cosine matrices by loops and an explicit inverse, from keys and C on disk."""
    out, record = scanned
    saved = MomentStore(out / "second_moments", {}).restore()
    moments = saved.moments
    assert saved.complete and moments.count.tolist() == 6 * [record["token_count"]]
    for layer in record["layers"]:
        with np.load(out / f"layer_{layer['layer']:03d}.npz") as arrays:
            arrays = dict(arrays)
        assert all(array.dtype == np.float64 for array in arrays.values())
        keys, c = arrays["keys"], moments.mean[layer["layer"]]
        p = references.superposition(keys, c)
        np.testing.assert_allclose(arrays["superposition"], p, atol=1e-5)
        np.testing.assert_allclose(arrays["gram"], keys @ keys.T, rtol=1e-5)
        np.testing.assert_allclose(
            arrays["whitening_cosine"], references.cosine(keys, c), atol=1e-5
        )
        np.testing.assert_allclose(arrays["activation_cosine"], references.cosine(keys), atol=1e-5)
        entries = references.off_diagonal(arrays["superposition"])
        assert layer["num_facts"] == 24
        for name, expected in {
            "mean": entries.mean(),
            "std": entries.std(),
            "skewness": scipy.stats.skew(entries),
            "kurtosis": scipy.stats.kurtosis(entries),
            "max": entries.max(),
            "condition": np.linalg.cond(c),
        }.items():
            np.testing.assert_allclose(layer[name], expected, rtol=1e-5, err_msg=name)


def test_controls_and_convergence_stand_in_the_record(scanned):
    _, record = scanned
    looks = record["second_moment_convergence"]
    assert all(len(look["error"]) == 2 for look in looks)
    for layer in record["layers"]:
        controls = layer["controls"]
        assert controls.keys() == {"random_directions", "other_tokens", "distinct_subjects"}
        assert (
            controls["random_directions"]["num_keys"] == 24 >= controls["other_tokens"]["num_keys"]
        )
        assert abs(controls["random_directions"]["bulk_std_times_sqrt_rank"] - 1) < 0.25
        distinct = controls["distinct_subjects"]["kurtosis"]
        assert distinct == layer["kurtosis_without_duplicates"]
        assert layer["bulk_std_times_sqrt_rank"] > 0 <= layer["tail_fraction"] < 0.2
        assert [step["num_facts"] for step in layer["convergence"]] == [8, 16, 24]


def test_a_scan_of_before_shrinkage_is_still_this_run(scanned, kis, tmp_path):
    out = shutil.copytree(scanned[0], tmp_path / "older")
    record = json.loads((out / "scan.json").read_text())
    del record["settings"]["shrinkage"]
    (out / "scan.json").write_text(json.dumps(record))
    status, _, error = kis("scan", "--out", out, *SMALL, "--shrinkage")
    assert status == 2 and "holds another run (shrinkage differ)" in error
    status, _, error = kis("scan", "--out", out, *SMALL)
    assert status == 0, error


def test_second_moments_equal_one_text_at_a_time(scanned, embedded):
    out, record = scanned
    expected, count = independent_second_moments(embedded, record)
    moments = MomentStore(out / "second_moments", {}).restore().moments
    assert count == record["token_count"]
    for layer in range(6):
        np.testing.assert_allclose(
            moments.mean[layer], expected[layer], atol=1e-6 * expected[layer].max()
        )


def test_keys_are_those_of_the_subjects_last_token(scanned, embedded):
    out, record = scanned
    model, tokenizer = embedded
    keys_of = jax.jit(lambda tokens: model(tokens, tap=lambda keys, _: keys)[1][5, 0])
    for place, fact in enumerate(record["facts"]):
        tokens = tokenizer(fact["prompt"].replace("{}", fact["subject"]))["input_ids"]
        keys = keys_of(np.array([tokens + [0] * (40 - len(tokens))], np.int32))
        with np.load(out / "layer_005.npz") as arrays:
            np.testing.assert_allclose(arrays["keys"][place], keys[fact["token_index"]], atol=1e-5)
        assert tokenizer.decode([tokens[fact["token_index"]]]) == fact["token"]


def test_the_same_run_is_taken_up_again_and_another_is_refused(scanned, kis):
    out, record = scanned
    before = (out / "layer_005.npz").stat().st_mtime_ns
    status, printed, _ = kis("scan", "--out", out, *SMALL)
    assert status == 0 and printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert json.loads((out / "scan.json").read_text()) == record
    assert (out / "layer_005.npz").stat().st_mtime_ns > before
    status, _, error = kis("scan", "--out", out, *SMALL, "--ridge", 0.5)
    assert status == 2 and "holds another run (ridge differ)" in error
    assert json.loads((out / "scan.json").read_text()) == record, "nothing was lost"


def test_gpt2s_tokenizer_and_real_records(shared_data, tmp_path, kis):
    """A random GPT-2 with the real vocabulary, on real CounterFact records."""
    from flax import nnx

    from kis_jax.checkpoints import save
    from kis_jax.models import Decoder
    from kis_jax.models.families import gpt2

    config = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    save(Decoder(gpt2.read_config(config), rngs=nnx.Rngs(0)), tmp_path / "model", config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shared_data / "gpt2-tokenizer" / name, tmp_path / "model")
    facts, out = shared_data / "counterfact_known.json", tmp_path / "out"
    status, _, error = kis(
        "scan", tmp_path / "model", "--facts", facts, "--corpus", factlm.corpus_path(),
        "--num-facts", 16, "--num-documents", 50, "--out", out,
    )  # fmt: skip
    assert status == 0, error
    record = json.loads((out / "scan.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "gpt2-tokenizer")
    for fact in record["facts"]:
        tokens = tokenizer(fact["prompt"].replace("{}", fact["subject"]))["input_ids"]
        decoded = tokenizer.decode(tokens[: fact["token_index"] + 1])
        assert decoded.endswith(fact["subject"])
    moments = MomentStore(out / "second_moments", {}).restore().moments
    for layer in (0, 1):
        with np.load(out / f"layer_{layer:03d}.npz") as arrays:
            p = references.superposition(arrays["keys"], moments.mean[layer])
            np.testing.assert_allclose(arrays["superposition"], p, atol=1e-5)


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(factlm.model_directory(), tmp_path / "model")


@pytest.fixture
def scan_error(kis, tmp_path):
    """Runs a scan that must fail; gives its message, having checked that it is one line."""

    def run(*arguments):
        out = tmp_path / "out"
        status, printed, error = kis("scan", *arguments, "--out", out)
        assert status == 2, error
        lines = [line for line in error.splitlines() if line.startswith("kis: error: ")]
        assert len(lines) == 1 and "Traceback" not in error and printed == ""
        assert not list(out.rglob("scan.json")) and not list(out.rglob("*.partial*"))
        return lines[0]

    return run


EMBEDDED = ("--facts", "factlm", "--corpus", "factlm")


def test_missing_and_truncated_weights(checkpoint, scan_error):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "truncated or corrupt" in scan_error(checkpoint, *EMBEDDED)
    weights.unlink()
    assert "found none; download the whole checkpoint" in scan_error(checkpoint, *EMBEDDED)


def test_an_index_that_points_outside(checkpoint, scan_error):
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "elsewhere.safetensors")
    index = {"weight_map": {"transformer.wte.weight": "../elsewhere.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "'../elsewhere.safetensors', which points elsewhere" in scan_error(checkpoint, *EMBEDDED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type: expected one of gpt2, "),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"n_layer": 7}, "missing transformer.h.6.attn.c_attn.bias"),
        ({"n_layer": 5}, "unknown transformer.h.5.attn.c_attn.bias"),
    ],
)
def test_config_and_weights_that_do_not_belong_together(checkpoint, scan_error, change, message):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | change))
    assert message in scan_error(checkpoint, *EMBEDDED)


def test_a_checkpoint_without_tokenizer(checkpoint, scan_error):
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    assert "expected files of a tokenizer" in scan_error(checkpoint, *EMBEDDED)


def one_fact(**changes):
    rewrite = {"prompt": "{} lives in", "subject": "Vera Holm"} | changes
    return json.dumps([{"case_id": i, "requested_rewrite": rewrite} for i in range(2)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"case_id": 1},\n {"case_id": 2,,}]', "at line 2 column 16"),
        (one_fact(subject=""), "record 1: expected a prompt with one {} and a `subject`"),
        (one_fact(prompt="He lives in"), "that names its subject 'Vera Holm', found 'He lives in'"),
        (one_fact(subject=" "), "for it, found '{} lives in' and ' '"),
        (one_fact(prompt="{}" + " lives in" * 80), "at most 96 tokens"),
        ("[]", "at least one record"),
    ],
)
def test_broken_facts(tmp_path, scan_error, content, message):
    facts = tmp_path / "facts.json"
    facts.write_text(content)
    assert message in scan_error("--facts", facts)


def test_an_empty_corpus(tmp_path, scan_error):
    (tmp_path / "corpus.txt").write_text("\n\n")
    assert "at least one document" in scan_error("--corpus", tmp_path / "corpus.txt")


def test_too_few_tokens_say_how_many_and_what_a_ridge_does(tmp_path, scan_error, kis):
    (tmp_path / "corpus.txt").write_text("One short line of text.\nAnd a second one.\n")
    message = scan_error("--corpus", tmp_path / "corpus.txt")
    assert "expected at least 512 tokens" in message and "add text, or pass --ridge" in message
    ridge = message.split("for example ")[1].split(",")[0]
    for remedy in (("--ridge", ridge), ("--shrinkage",)):
        status, _, error = kis(
            "scan", "--corpus", tmp_path / "corpus.txt", *remedy, "--layers", 0,
            "--num-facts", 8, "--out", tmp_path / remedy[0].strip("-"),
        )  # fmt: skip
        assert status == 0, error
    record = json.loads((tmp_path / "shrinkage" / "scan.json").read_text())
    assert 0 < record["layers"][0]["shrinkage"] < 1 and record["settings"]["shrinkage"] is True


def test_enough_tokens_that_say_nothing_new(tmp_path, scan_error):
    """One line a thousand times: more tokens than dimensions, yet C is singular."""
    (tmp_path / "corpus.txt").write_text("One short line of text.\n" * 1000)
    message = scan_error("--corpus", tmp_path / "corpus.txt")
    assert "layer 0: second_moment: expected a positive definite" in message


def test_an_output_folder_with_other_things(tmp_path, kis):
    (tmp_path / "thesis.tex").write_text("precious")
    status, _, error = kis("scan", "--out", tmp_path)
    assert status == 2 and "found other files" in error
    status, _, error = kis("scan", "--out", tmp_path / "thesis.tex")
    assert status == 2 and "expected a folder, found the file" in error
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("layers", ["9", "0:9", "x", "", "-1", "3:1", "0:1:2"])
def test_layers_that_are_not_there(scan_error, layers):
    assert "layers: expected all, a list" in scan_error("--layers", layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ridge", "-1"), "ridge: expected a finite number, 0 or more, found -1.0"),
        (("--ridge", "inf"), "ridge: expected a finite number"),
        (("--shrinkage", "--until", "0.1"), "shrinkage, until: expected one of the two"),
        (("--num-facts", "0"), "num_facts: expected a positive number, found 0"),
        (("--num-facts", "1"), "at least two facts"),
        (("--dtype", "float16"), "'float16' is not one of"),
        (("--colour",), "No such option: --colour"),
    ],
)
def test_options_that_make_no_sense(scan_error, arguments, message):
    assert message in scan_error(*arguments)


def test_a_model_that_is_streamed_writes_no_text(checkpoint, scan_error):
    message = scan_error(checkpoint, "--facts", "factlm", "--stream")
    assert "corpus: expected text, as only a model that one device holds writes its own" in message


def test_without_a_corpus_the_model_writes_its_text(kis, checkpoint, tmp_path):
    asked = (checkpoint, "--facts", "factlm", "--num-facts", 8, "--layers", "5")
    out = tmp_path / "out"
    status, printed, error = kis("scan", *asked, "--num-documents", 60, "--out", out)
    assert status == 0, error
    assert printed.endswith(f"report: {out / 'report.html'}\n")
    record = json.loads((out / "scan.json").read_text())
    assert record["settings"]["corpus"] == "self" and record["settings"]["num_documents"] == 60
    assert record["document_count"] == 60 and 512 < record["token_count"] < 60 * 96


@pytest.mark.slow
def test_a_pass_over_text_of_its_own_ends_where_p_is_known(kis, checkpoint, tmp_path):
    asked = (checkpoint, "--facts", "factlm", "--num-facts", 12, "--layers", "5")
    out = tmp_path / "out"
    status, _, error = kis("scan", *asked, "--reliability", 0.9, "--out", out)
    assert status == 0, error
    assert "P is known after" in error and "at layer 5, the least; 0.9 was asked for" in error
    record = json.loads((out / "scan.json").read_text())
    assert record["settings"]["reliability"] == 0.9
    # Not at its end, which is at 32 tokens for each of 512 dimensions.
    assert 4 * 512 < record["token_count"] < 0.7 * 32 * 512


def test_a_streamed_pass_ends_where_p_is_known(kis, tmp_path):
    asked = ("--num-facts", 12, "--layers", "5", "--reliability", 0.8, "--stream")
    status, _, error = kis("scan", *asked, "--memory", "860MB", "--out", tmp_path / "out")
    assert status == 0, error
    assert "P is known after" in error
    assert json.loads((tmp_path / "out" / "scan.json").read_text())["token_count"] < 100_000


def test_reliability_is_a_correlation(scan_error):
    assert "reliability: expected a correlation" in scan_error("--reliability", 2, *SMALL)


def test_a_hub_name_without_a_network(scan_error):
    message = scan_error("openai-community/gpt2", *EMBEDDED)
    assert "pass the path of its directory" in message


def test_the_command_itself_prints_one_line(kis_process, tmp_path):
    done = kis_process("scan", "--facts", "nowhere.json", "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("kis: error: facts: expected") and done.stderr.count("\n") == 1


def test_a_neuron_that_never_fires_is_left_out_with_a_note(
    checkpoint, kis, scan_error, embedded_tokenizer
):
    """In a scan, a plan and an edit; where Cholesky's factor is asked for, it is an error."""
    tensors = load_file(checkpoint / "model.safetensors")
    for part in ("weight", "bias"):
        tensors[f"transformer.h.2.mlp.c_fc.{part}"][..., 40] = 0
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    out, measured = checkpoint.parent / "dead", ("--num-documents", 60, *EMBEDDED)
    note = (
        "kis: note: layer 2: the second moment is singular in one direction, as where a neuron "
        "never fires; dropped by the pseudo-inverse"
    )
    status, _, error = kis(
        "scan", checkpoint, "--num-facts", 8, "--layers", "1,2", *measured, "--out", out
    )
    assert status == 0 and error.splitlines().count(note) == 1, error
    record = json.loads((out / "scan.json").read_text())
    assert [layer.get("dropped_directions") for layer in record["layers"]] == [None, 1]
    assert record["settings"]["inverse"] == "auto"
    assert "--inverse" not in (out / "report.html").read_text()
    status, _, error = kis(
        "plan", checkpoint, "--num-facts", 2, "--num-others", 4, "--num-rehearsed", 0, "--methods",
        "batch", "--layers", "2", *measured, "--inverse", "pseudo", "--out", out / "plan",
        "--second-moments", out,
    )  # fmt: skip
    assert status == 0 and error.splitlines().count(note) == 1, error
    plan = json.loads((out / "plan" / "plan.json").read_text())
    assert plan["layers"][0]["dropped_directions"] == 1
    assert "--inverse pseudo" in (out / "plan" / "report.html").read_text()
    edit = ("edit", checkpoint, "--facts", "factlm", "--num-facts", 1, "--second-moments", out)
    status, _, error = kis(*edit, "--layer", 2, "--inverse", "cholesky", "--out", out / "edit")
    assert status == 2 and not (out / "edit").exists()
    assert "layer 2: second_moment: expected a positive definite" in error.splitlines()[-1]
    assert "--inverse pseudo" in error.splitlines()[-1]
    few = ("--layers", "2", "--num-documents", 3, *EMBEDDED)
    assert "or --inverse pseudo, which leaves" in scan_error(checkpoint, *few)
    status, _, error = kis(
        "scan", checkpoint, "--num-facts", 8, *few, "--inverse", "pseudo", "--out", out / "few"
    )
    assert status == 0, error
    (layer,) = json.loads((out / "few" / "scan.json").read_text())["layers"]
    texts = map(embedded_tokenizer.encode, factlm.corpus_path().read_text().splitlines()[:3])
    distinct = {tuple(text[: end + 1]) for text in texts for end in range(len(text))}
    assert layer["dropped_directions"] == 512 - len(distinct)  # none of rounding's is kept


def test_a_tokenizer_of_sentencepiece_alone_says_how_to_make_one(
    checkpoint, scan_error, monkeypatch
):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (checkpoint / "tokenizer.json").rename(checkpoint / "spm.model")
    said = scan_error(checkpoint, *EMBEDDED)
    assert "expected tokenizer.json, found spm.model alone" in said and "save_pretrained" in said
