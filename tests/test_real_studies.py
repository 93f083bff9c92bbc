"""The studies on real models, on the embedded one: what they measure is what edited models say."""

import json
from pathlib import Path

import numpy as np
import pytest

import kis_jax as kis
from kis_jax import factlm
from kis_jax.core.arrays.precision import HOST
from kis_jax.data.facts import read_facts
from kis_jax.models.memory import edited, memory_kernel
from kis_jax.passes.scores.scoring import score
from kis_jax.passes.store import MomentStore
from scripts import damage_study, damage_summary, real_claims

LAYER = 2


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A scan of a few facts, their file, and a study of two edits."""
    folder = tmp_path_factory.mktemp("study")
    records = json.loads((Path(factlm.__file__).parent / "facts.json").read_text())
    (folder / "facts.json").write_text(json.dumps(records[:200:8]))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="0"):
        words = ["kis", "scan", "--facts", folder / "facts.json", "--out", folder / "scan"]
        words += ["--num-documents", 400, "--num-facts", 25, "--layers", f"0,{LAYER}"]
        patch.setattr("sys.argv", [*map(str, words)])
        from kis_jax.cli import main

        main()
    damage_study.main(
        "factlm",
        folder / "scan",
        work=folder / "damage",
        facts=str(folder / "facts.json"),
        layers=str(LAYER),
        num_edits=2,
    )
    return folder


@pytest.mark.slow
def test_damage_is_that_of_edited_models(scanned, embedded):
    model, tokenizer = embedded
    facts = read_facts(scanned / "facts.json")
    with np.load(scanned / "damage" / "facts.npz") as arrays:
        places = arrays["edits"]
    with np.load(scanned / "damage" / f"layer_{LAYER:03d}.npz") as arrays:
        found = dict(arrays)
    moments = MomentStore(scanned / "scan" / "second_moments", {}).restore().moments
    whitener = HOST.whitener(moments.total[LAYER] / moments.count[LAYER])
    sought = damage_study.target_values(
        model,
        tokenizer,
        [facts[place] for place in places],
        layer=LAYER,
        settings=damage_study.TARGET,
        prefixes=("",),
    )
    kernel = np.asarray(memory_kernel(model, LAYER), np.float64)
    texts = damage_study.Texts.of(facts, [fact.target_true for fact in facts], model, tokenizer)
    for row, place in enumerate(places):
        arguments = (kernel, sought.keys[row], sought.values[row], whitener)
        edit = HOST.run(kis.edit_rank_one, *arguments)
        after = score(edited(model, {LAYER: edit}), texts.told, token_budget=512)
        np.testing.assert_allclose(found["log_p"][row], after.log_probabilities, atol=2e-5)
        assert found["p"][row, place] == pytest.approx(1, abs=1e-4)
    # Slopes, by a hundredth of the last edit there and back.
    before = damage_study.look(model, texts, LAYER)
    along, moves = (np.asarray(part)[0] for part in (edit.directions, edit.residuals))
    there, back = (
        damage_study.after(model, texts, before, LAYER, along, step * moves)
        for step in (0.01, -0.01)
    )
    slopes = found["first_order"][-1]
    np.testing.assert_allclose((there - back) / 0.02, slopes, atol=1e-3 * np.abs(slopes).max())


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(scanned, monkeypatch):
    monkeypatch.setattr(damage_study, "_SAVE_EVERY", 1)
    path = scanned / "damage" / f"layer_{LAYER:03d}.npz"
    with np.load(path) as arrays:
        before = dict(arrays)
    again = dict(work=scanned / "damage", facts=str(scanned / "facts.json"), layers=str(LAYER))
    damage_study.main("factlm", scanned / "scan", num_edits=3, **again)
    with np.load(path) as arrays:
        assert len(arrays["log_p"]) == 3 and np.isfinite(arrays["log_p"]).all()
        np.testing.assert_array_equal(arrays["log_p"][:2], before["log_p"])


@pytest.mark.slow
def test_the_summary_counts_right(scanned, tmp_path, monkeypatch):
    monkeypatch.setattr(damage_summary, "_RESAMPLES", 20)
    damage_summary.main(work=scanned / "damage", out=tmp_path)
    told = json.loads((tmp_path / "damage.json").read_text())[str(LAYER)]
    with np.load(scanned / "damage" / f"layer_{LAYER:03d}.npz") as arrays:
        found = dict(arrays)
    with np.load(scanned / "damage" / "facts.npz") as arrays:
        places = arrays["edits"]
    others = np.arange(found["p"].shape[1]) != places[:, None]
    damage, values = (found["before"] - found["log_p"])[others], np.abs(found["p"])[others]
    worst = damage >= np.quantile(damage, 0.95)
    wins = [np.mean((one > values[~worst]) + (one == values[~worst]) / 2) for one in values[worst]]
    assert told["foretold"]["p"]["worst"][0] == pytest.approx(np.mean(wins))
    assert (tmp_path / "damage.png").read_bytes().startswith(b"\x89PNG")


def test_a_common_direction_is_found_and_taken_out(rng):
    keys = rng.normal(size=(60, 400))
    shared = keys + 2 * np.eye(400)[0] * np.sqrt(50)
    for rows, mean, share in ((keys, 0.0, 0.0), (shared, 1 / 3, 1 / 3)):
        gram = rows @ rows.T
        found = real_claims.common_direction(gram / np.diag(gram)[:, None])
        assert found["half_mean"] == pytest.approx(mean, abs=0.02)
        assert found["common_share"] == pytest.approx(share, abs=0.05)
        left = found["without_common_mean"] - found["left_by_chance"]
        assert abs(left) < 0.01 and found["left_by_chance"] < 0.03
        np.testing.assert_allclose(found["half_std"], 1 / 20, rtol=0.5)


@pytest.mark.slow
def test_claims_of_a_scan(scanned, tmp_path):
    real_claims.main([scanned / "scan"], str(factlm.corpus_path()), tmp_path)
    told = json.loads((tmp_path / "claims.json").read_text())["scan"]
    assert [layer["layer"] for layer in told["layers"]] == [0, LAYER]
    record = json.loads((scanned / "scan" / "scan.json").read_text())
    for layer, places, scan in zip(told["layers"], told["places"], record["layers"], strict=True):
        assert layer["mean"] == scan["mean"] and layer["kurtosis"] == scan["kurtosis"]
        assert places["facts_mean"] == pytest.approx(scan["mean"], rel=1e-3, abs=1e-5)
        assert places["facts_kurtosis"] == pytest.approx(scan["kurtosis"], rel=1e-3)


def test_committed_figures_are_drawn_from_committed_numbers(tmp_path):
    kept = Path(__file__).parent.parent / "docs" / "real"
    for study, name in ((damage_summary, "damage"), (real_claims, "claims")):
        (tmp_path / f"{name}.json").write_text((kept / f"{name}.json").read_text())
        study.main(out=tmp_path, only_draw=True)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (kept / f"{name}.png").exists()
