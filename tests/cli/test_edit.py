"""`kis edit`, `kis undo` and `kis ledger` on the embedded model, held against their own files."""

import json
import resource
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from kis_jax import factlm
from kis_jax.checkpoints.ledger_file import load_ledger
from kis_jax.checkpoints.loading import load_model
from kis_jax.data.facts import read_facts
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.scores.measures import evaluate
from kis_jax.passes.targets.values import target_values

LAYER, N = 2, 4
EDITED = f"transformer.h.{LAYER}.mlp.c_proj.weight"
BASE = factlm.model_directory()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """One edit for all tests that only look at its files, its second moments as a scan has them."""
    from kis_jax.cli import main

    folder = tmp_path_factory.mktemp("edit")
    arguments = (
        "edit", "--num-facts", N, "--num-documents", 300, "--layer", LAYER, "--method",
        "sequential", "--corpus", "factlm", "--second-moments", folder / "scan" / "second_moments",
        "--out", folder / "edited",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kis", *map(str, arguments)])
        with pytest.raises(SystemExit, match="0"):
            main()
    return folder


@pytest.fixture
def again(made):
    """The options of an edit that takes the second moments from there."""
    return ("--num-facts", N, "--layer", LAYER, "--second-moments", made / "scan")


def tensors(directory):
    return load_file(directory / "model.safetensors")


def refused(result):
    """The message of a command that must fail with one line."""
    status, printed, error = result
    lines = [line for line in error.splitlines() if line.startswith("kis: error: ")]
    assert status == 2 and len(lines) == 1 and "Traceback" not in error and printed == "", error
    return lines[0]


def test_writes_all_its_files_and_leaves_all_else_as_it_was(made):
    out = made / "edited"
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "ledger.safetensors", "edit.json", "adapter",
    }  # fmt: skip
    assert {path.name for path in made.iterdir()} == {"edited", "scan"}, "nothing half-written"
    before, after = tensors(BASE), tensors(out)
    assert before.keys() == after.keys()
    changed = [name for name in before if before[name].tobytes() != after[name].tobytes()]
    assert changed == [EDITED]


def test_the_record_tells_what_the_files_do(made, embedded):
    _, tokenizer = embedded
    record = json.loads((made / "edited" / "edit.json").read_text())
    facts = without_edited_neighbors(read_facts("factlm", N))
    found = evaluate(load_model(made / "edited"), tokenizer, facts)
    assert record["metrics"]["after"] == found.summary()
    assert [fact["after"] for fact in record["facts"]] == found.records()
    assert [fact["case_id"] for fact in record["facts"]] == [fact.case_id for fact in facts]
    assert [edit["target"] for edit in record["edits"]] == [fact.target_new for fact in facts]
    assert record["metrics"]["after"]["efficacy"]["mean"] > 0
    assert record["metrics"]["before"]["efficacy"]["mean"] == 0
    assert [fact["known"] for fact in record["facts"]] == [True] * N


def test_sequential_is_the_loop_of_rank_one_edits_with_its_target_values(made, embedded):
    model, tokenizer = embedded
    ledger = load_ledger(made / "edited")
    targets = target_values(
        model, tokenizer, read_facts("factlm", N), layer=LAYER, prefixes=ledger.prefixes
    )
    asked = ledger.layers[LAYER].asked
    np.testing.assert_allclose(asked.keys, targets.keys, rtol=2e-4, atol=1e-5)
    kernel = np.asarray(memory_kernel(model, LAYER), np.float64)
    for key, solved, value in zip(asked.keys, asked.solved, targets.values, strict=True):
        kernel += np.outer(solved, value - key @ kernel) / (key @ solved)
    np.testing.assert_allclose(tensors(made / "edited")[EDITED], kernel, rtol=2e-4, atol=1e-5)


def test_undo_of_all_gives_the_base_byte_for_byte(made, kis, tmp_path):
    out = tmp_path / "base"
    for _ in range(2):  # and replaces itself
        status, printed, error = kis("undo", made / "edited", "--all", "--out", out)
        assert status == 0 and "the base, bit for bit" in printed, error
        names = {path.name for path in BASE.iterdir()} - {"training.json"}  # not of a model
        assert {path.name for path in out.iterdir()} == names
        for name in names:
            assert (out / name).read_bytes() == (BASE / name).read_bytes()
    (out / "thesis.tex").write_text("precious")
    message = refused(kis("undo", made / "edited", "--all", "--out", out))
    assert "found thesis.tex" in message and (out / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "rows"), [(("--keep", 2), [0, 1]), (("--remove", "0,2"), [1, 3])]
)
def test_undo_of_some_gives_the_edit_of_the_others(made, kis, tmp_path, options, rows):
    out = tmp_path / "left"
    status, _, error = kis("undo", made / "edited", *options, "--out", out)
    assert status == 0, error
    whole, left = load_ledger(made / "edited"), load_ledger(out)
    assert left.facts == tuple(whole.facts[row] for row in rows)
    kernel = tensors(BASE)[EDITED].astype(np.float64)
    asked = whole.layers[LAYER].asked
    start = kernel.copy()
    for row in rows:
        key, solved = asked.keys[row], asked.solved[row]
        value = key @ start + asked.initial_residuals[row]
        kernel += np.outer(solved, value - key @ kernel) / (key @ solved)
    np.testing.assert_allclose(tensors(out)[EDITED], kernel, rtol=2e-4, atol=1e-5)
    record = json.loads((out / "edit.json").read_text())
    assert record["exact"] and len(record["edits"]) == 2


def test_merged_and_reordered_ledgers(made, kis, tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "both", "back", "again")]
    for options, out in ((("--keep", 2), folders[0]), (("--remove", "0,1"), folders[1])):
        assert kis("undo", made / "edited", *options, "--out", out)[0] == 0
    assert kis("ledger", "merge", folders[0], folders[1], "--out", folders[2])[0] == 0
    assert load_ledger(folders[2]).facts == load_ledger(made / "edited").facts
    np.testing.assert_allclose(
        tensors(folders[2])[EDITED], tensors(made / "edited")[EDITED], rtol=1e-6, atol=1e-7
    )
    for source, out in ((folders[2], folders[3]), (folders[3], folders[4])):
        assert kis("ledger", "reorder", source, "--order", "3,2,1,0", "--out", out)[0] == 0
    assert load_ledger(folders[3]).facts == load_ledger(made / "edited").facts[::-1]
    difference = np.abs(tensors(folders[3])[EDITED] - tensors(made / "edited")[EDITED])
    assert difference.max() > 1e-5, "order matters to sequential edits"
    np.testing.assert_allclose(
        tensors(folders[4])[EDITED], tensors(made / "edited")[EDITED], rtol=1e-6, atol=1e-7
    )
    message = refused(kis("ledger", "merge", folders[0], folders[2], "--out", tmp_path / "x"))
    assert "in both; take row 0 out of the second" in message
    message = refused(kis("ledger", "reorder", folders[2], "--order", "1,0", "--out", folders[3]))
    assert "each of the rows 0 to 3 once" in message


def test_a_ledger_is_listed_and_its_rows_shown(made, kis):
    status, printed, _ = kis("ledger", "list", made / "edited")
    fact = read_facts("factlm", 1)[0]
    assert status == 0 and fact.target_new in printed and "base: factlm" in printed
    status, printed, _ = kis("ledger", "show", made / "edited", 0)
    assert status == 0 and fact.text in printed and printed.count("p = ") == N - 1
    assert "found 4" in refused(kis("ledger", "show", made / "edited", 4))


def test_the_same_command_replaces_its_own_folder_and_nothing_else(made, again, kis, tmp_path):
    out = shutil.copytree(made / "edited", tmp_path / "edited")
    status, printed, error = kis("edit", *again, "--method", "constrained", "--out", out)
    assert status == 0 and printed.splitlines()[-1] == f"model: {out}", error
    assert load_ledger(out).method == "constrained"
    asked = load_ledger(out).layers[LAYER].asked
    kernel = tensors(out)[EDITED].astype(np.float64)
    left = np.linalg.norm(
        asked.keys @ (kernel - tensors(BASE)[EDITED].astype(np.float64)) - asked.initial_residuals,
        axis=1,
    )
    assert np.all(left < 1e-4 * np.linalg.norm(asked.initial_residuals, axis=1))
    (out / "adapter" / "thesis.tex").write_text("precious")
    assert "found adapter" in refused(kis("edit", *again, "--out", out))
    assert (out / "adapter" / "thesis.tex").read_text() == "precious"


def test_a_full_disk_leaves_nothing_broken(made, again, kis, tmp_path):
    """A limit on the size of files stops the weights half-way, as a full disk does."""
    out = shutil.copytree(made / "edited", tmp_path / "out" / "edited")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        result = kis("edit", *again, "--out", out)
        undone = kis("undo", made / "edited", "--all", "--out", tmp_path / "out" / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in refused(result) and "File too large" in refused(undone)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"edited"}
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_ledger_of_another_base_is_refused(made, kis, tmp_path):
    base = shutil.copytree(BASE, tmp_path / "base")
    out = tmp_path / "out"
    undo = ("undo", made / "edited", "--keep", 1, "--out", out, "--base")
    assert kis(*undo, base)[0] == 0
    content = bytearray((base / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (base / "model.safetensors").write_bytes(content)
    before = (out / "model.safetensors").read_bytes()
    message = refused(kis(*undo, base))
    assert "expected the model that was edited, factlm with fingerprint" in message
    assert (out / "model.safetensors").read_bytes() == before
    assert "say by --base" in refused(kis(*undo, tmp_path / "nowhere"))


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.99])
def test_a_damaged_ledger_is_refused(made, kis, tmp_path, place):
    content = bytearray((made / "edited" / "ledger.safetensors").read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / "ledger.safetensors").write_bytes(content)
    undo = ("undo", tmp_path, "--all", "--out", tmp_path / "out")
    for command in (("ledger", "list", tmp_path), undo):
        assert "ledger.safetensors" in refused(kis(*command))
    (tmp_path / "ledger.safetensors").write_bytes(content[:1000])
    assert "truncated or corrupt" in refused(kis("ledger", "list", tmp_path))
    (tmp_path / "ledger.safetensors").unlink()
    assert "no such file" in refused(kis("ledger", "list", tmp_path))


def record(**changes):
    rewrite = {
        "prompt": "{} lives in", "subject": "Vera Holm", "target_true": {"str": "Hexby"},
        "target_new": {"str": "Port Ravel"},
    }  # fmt: skip
    return {"case_id": 7, "requested_rewrite": rewrite | changes}


def test_prompts_about_edited_neighbors_are_not_scored(again, kis, tmp_path):
    """Each is the other's neighbor, and what was true of it no longer is."""
    first, second, third = read_facts("factlm", 3)
    around = [[second.text], [first.text, third.text]]
    records = [
        record(prompt=fact.prompt, subject=fact.subject, target_new={"str": fact.target_new},
               target_true={"str": fact.target_true})
        | {"case_id": fact.case_id, "neighborhood_prompts": prompts}
        for fact, prompts in zip((first, second), around, strict=True)
    ]  # fmt: skip
    (tmp_path / "facts.json").write_text(json.dumps(records))
    arguments = ("--facts", tmp_path / "facts.json", *again[2:], "--out", tmp_path / "out")
    status, _, error = kis("edit", *arguments)
    assert status == 0, error
    metrics = json.loads((tmp_path / "out" / "edit.json").read_text())["metrics"]
    for measured in metrics.values():
        assert measured["efficacy"]["count"] == 2
        assert measured["neighborhood"]["count"] == 1


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(), record(target_new={"str": "Keld"})], "contradicts fact 7"),
        ([record(target_new={"str": " "})], "fact 7: expected a `target_new`"),
        ([record(subject=" ")], "a `subject` for it"),
    ],
)
def test_facts_that_cannot_be_edited(again, kis, tmp_path, records, message):
    (tmp_path / "facts.json").write_text(json.dumps(records))
    facts, out = tmp_path / "facts.json", tmp_path / "out"
    assert message in refused(kis("edit", "--facts", facts, *again[2:], "--out", out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layer", "9"), "layers: expected all, a list"),
        (("--layer", "1,2"), "layers: expected one for constrained"),
        (("--second-moments", "nowhere"), "expected the folder of a finished `kis scan`"),
        (("--ridge", "-1"), "ridge: expected a finite number"),
        (("--num-facts", "0"), "num_facts: expected a positive number"),
        (("--method", "magic"), "method: expected one of rome"),
    ],
)
def test_options_that_make_no_sense(again, kis, tmp_path, options, message):
    out = tmp_path / "out"
    assert message in refused(kis("edit", *again, *options, "--out", out))
    assert not list(tmp_path.iterdir())


def test_second_moments_of_another_model_are_refused(made, again, kis, tmp_path):
    other = shutil.copytree(BASE, tmp_path / "model")
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (other / "model.safetensors").write_bytes(content)
    message = refused(kis("edit", other, "--facts", "factlm", *again, "--out", tmp_path / "out"))
    assert "those of another: model differ" in message


@pytest.mark.parametrize(
    "options", [(), ("--keep", 1, "--all"), ("--keep", 9), ("--remove", "9"), ("--remove", "x")]
)
def test_undo_wants_one_sensible_option(made, kis, tmp_path, options):
    message = refused(kis("undo", made / "edited", *options, "--out", tmp_path / "out"))
    assert "expected" in message and not list(tmp_path.iterdir())


def test_torch_transformers_finds_the_same_metrics(made, embedded):
    """Success on every prompt, by transformers' own model and a loop over the prompts."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(made / "edited").eval()
    _, tokenizer = embedded

    def log_p(prompt, target):
        start = len(tokenizer(prompt)["input_ids"])
        tokens = torch.tensor([tokenizer(f"{prompt} {target}")["input_ids"]])
        with torch.no_grad():
            found = torch.log_softmax(model(tokens).logits[0], -1)
        return found[torch.arange(start - 1, tokens.shape[1] - 1), tokens[0, start:]].mean()

    facts = read_facts("factlm", N)
    told = json.loads((made / "edited" / "edit.json").read_text())["facts"]
    for fact, line in zip(facts, told, strict=True):
        for name, prompts, wanted, other in (
            ("efficacy", [fact.text], fact.target_new, fact.target_true),
            ("paraphrase", fact.paraphrase_prompts, fact.target_new, fact.target_true),
            ("neighborhood", fact.neighborhood_prompts, fact.target_true, fact.target_new),
        ):
            pairs = [(log_p(prompt, wanted), log_p(prompt, other)) for prompt in prompts]
            success = np.mean([float(a > b) for a, b in pairs])
            magnitude = np.mean([float(a.exp() - b.exp()) for a, b in pairs])
            assert line["after"][name] == pytest.approx(success)
            assert line["after"][f"{name}_magnitude"] == pytest.approx(magnitude, abs=1e-4)


def test_facts_without_subjects_and_true_targets_are_edited_at_the_prompts_end(
    again, kis, tmp_path
):
    """And what follows from them is measured, which they bring along."""
    first, second = read_facts("factlm", 2)
    records = [
        {
            "prompt": fact.text,
            "target_new": [fact.target_new, "Somewhere else"],
            "portability": {"one-hop": [{"prompt": fact.text, "ground_truth": fact.target_new}]},
        }
        for fact in (first, second)
    ]
    (tmp_path / "facts.json").write_text(json.dumps(records))
    arguments = ("edit", "--facts", tmp_path / "facts.json", *again[2:], "--out", tmp_path / "out")
    told = refused(kis(*arguments, "--position", "subject_last"))
    assert "expected a subject of each of 2, found none of 2" in told and "--position last" in told
    status, out, error = kis(*arguments, "--position", "last")
    assert status == 0, error
    after = json.loads((tmp_path / "out" / "edit.json").read_text())["metrics"]["after"]
    assert after["efficacy"]["count"] == 0 and after["portability_accuracy"]["count"] == 2
    assert after["portability_accuracy"]["mean"] == after["efficacy_accuracy"]["mean"]
    assert "portability accuracy" in out and "paraphrase" not in out
    assert "before: the model knows 0 of 0 facts; 2 have no true target\n" in out
