"""A scan of a mixture of experts: what is measured, held against loops; what is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

from kis_jax import factlm
from kis_jax.checkpoints.loading import load
from kis_jax.checkpoints.saving import save
from kis_jax.cli import app
from kis_jax.core.editing.routed import edit_routed, routed_values
from kis_jax.core.geometry.routed import Routed, routed_superposition
from kis_jax.core.geometry.whitening import whitener
from kis_jax.factlm.shapes import attributes_of
from kis_jax.models import Decoder
from kis_jax.models.families import FAMILIES
from kis_jax.passes.store import MomentStore
from kis_jax.scan.mixtures import scan_mixture

N, DOCUMENTS = 12, 50


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A random mixture of four experts, with factlm's tokenizer."""
    directory = tmp_path_factory.mktemp("mixture")
    config = attributes_of(
        4,
        vocab_size=2048,
        context_length=96,
        width=24,
        num_layers=2,
        num_heads=2,
        end_of_text=0,
    )
    model = Decoder(FAMILIES["qwen3_moe"].read_config(config), rngs=nnx.Rngs(0))
    state = jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim > 1 else leaf, nnx.state(model))
    nnx.update(model, state)
    save(model, directory, config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(factlm.model_directory() / name, directory / name)
    return directory


@pytest.fixture(scope="module")
def scanned(mixture, tmp_path_factory):
    out = tmp_path_factory.mktemp("scan") / "out"
    result = run("scan", mixture, *DATA, "--out", out)
    assert result.exit_code == 0, result.output
    return out


DATA = [
    *("--facts", factlm.model_directory().parent / "facts.json"),
    *("--corpus", factlm.model_directory().parent / "corpus.txt"),
    *("--num-facts", N, "--num-documents", DOCUMENTS),
]


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_scan_is_that_of_an_explicit_loop(mixture, scanned):
    model, tokenizer = load(mixture)
    record = json.loads((scanned / "scan.json").read_text())
    lines = (factlm.model_directory().parent / "corpus.txt").read_text().splitlines()[:DOCUMENTS]
    run_keys = jax.jit(lambda model, tokens: model(tokens, tap=lambda keys, _: keys)[1])
    sums, reads, tokens = np.zeros((2, 4, 36, 36)), np.zeros((2, 4), int), 0
    for text in lines:
        ids = tokenizer(text)["input_ids"][:96]
        padded = jnp.asarray([ids + [0] * (96 - len(ids))])
        found = jax.tree.map(np.asarray, run_keys(model, padded))
        tokens += len(ids)
        for layer in range(2):
            for place in range(len(ids)):
                for slot in range(2):
                    expert = found.experts[layer, 0, place, slot]
                    key = found.keys[layer, 0, place, slot].astype(np.float64)
                    gated = key * found.gates[layer, 0, place, slot]
                    sums[layer, expert] += np.outer(gated, gated)
                    reads[layer, expert] += 1
    assert record["token_count"] == tokens
    assert record["architecture"]["num_experts"], record["architecture"]["experts_per_token"] == (
        4,
        2,
    )
    for layer, numbers in enumerate(record["layers"]):
        assert [one["tokens"] for one in numbers["experts"]] == reads[layer].tolist()
        with np.load(scanned / f"layer_{layer:03d}.npz") as arrays:
            arrays = dict(arrays)
        enough = reads[layer] >= 2 * 36
        assert [one["filled"] for one in numbers["experts"]] == (~enough).tolist()
        assert enough.all(), "a loop over what is filled up is another test"
        rows = np.zeros((N, 4, 36))
        for fact in range(N):
            for slot in range(2):
                expert = arrays["experts"][fact, slot]
                rows[fact, expert] = arrays["keys"][fact, slot] * arrays["gates"][fact, slot]
        inverses = [np.linalg.inv(c) for c in sums[layer] / tokens]
        products = sum(rows[:, e] @ inverses[e] @ rows[:, e].T for e in range(4))
        expected = products / np.diagonal(products)[:, None]
        np.testing.assert_allclose(arrays["superposition"], expected, rtol=1e-3, atol=1e-4)
        raw = np.einsum("ied,jed->ij", rows, rows)
        np.testing.assert_allclose(arrays["gram"], raw, rtol=1e-5, atol=1e-9)
        shared = (arrays["experts"][:, None, :, None] == arrays["experts"][:, None]).sum((2, 3))
        off = ~np.eye(N, dtype=bool)
        assert {one["experts_shared"]: one["pairs"] for one in numbers["sharing"]} == {
            number: int((shared[off] == number).sum()) // 2 for number in np.unique(shared[off])
        }
        assert numbers["std"] == pytest.approx(expected[off].std(), rel=1e-3)
        facts_of = [int((arrays["experts"] == e).any(axis=1).sum()) for e in range(4)]
        assert [one["facts"] for one in numbers["experts"]] == facts_of


def test_a_scan_is_taken_up_and_reports(mixture, scanned):
    before = (scanned / "scan.json").read_bytes()
    result = run("scan", mixture, *DATA, "--out", scanned)
    assert result.exit_code == 0, result.output
    assert (scanned / "scan.json").read_bytes() == before
    assert (scanned / "report.html").exists()


def test_a_forecast_is_what_the_edited_model_shows(mixture, scanned):
    """Of joint edits of the kernels of a layer, one fact at a time, on all other facts."""
    model, tokenizer = load(mixture)
    record = json.loads((scanned / "scan.json").read_text())
    texts = [
        tokenizer(fact["prompt"].format(fact["subject"]))["input_ids"][: fact["token_index"] + 1]
        for fact in record["facts"]
    ]
    layer, rng = 1, np.random.default_rng(0)

    def values(model):
        found = []
        for text in texts:
            stream = model.embed(jnp.asarray([text]), jnp.ones((1, len(text)), bool))
            _, seen = model.run(
                stream, jnp.ones((1, len(text)), bool), watch=lambda glimpse: glimpse.values
            )
            found.append(np.asarray(seen)[layer, 0, -1])
        return np.stack(found).astype(np.float64)

    with np.load(scanned / f"layer_{layer:03d}.npz") as arrays:
        routed = Routed(*(arrays[name] for name in ("keys", "experts", "gates")))
        p = arrays["superposition"]
    kernels = np.asarray(model.blocks.mlp.output.kernel[...][layer], np.float64)
    store = MomentStore(scanned / "second_moments", {})
    before = values(model)
    facts, asked, deltas = (0, 5), before + rng.normal(size=before.shape), {}
    with jax.enable_x64(True):
        spaces = {e: whitener(store.read(4 * layer + e) / record["token_count"]) for e in range(4)}
        np.testing.assert_allclose(routed_values(kernels, routed), before, atol=1e-4)
        np.testing.assert_allclose(routed_superposition(routed, spaces), p, atol=1e-6)
        for fact in facts:
            one = routed[fact : fact + 1]
            edits = edit_routed(kernels, one, asked[fact : fact + 1], spaces)
            deltas[fact] = {e: np.asarray(edit.delta, np.float32) for e, edit in edits.items()}
    for fact in facts:
        edited = nnx.clone(model)
        kernel = edited.blocks.mlp.output.kernel
        for e, delta in deltas[fact].items():
            kernel[...] = kernel[...].at[layer, e].add(delta)
        moved = values(edited) - before
        forecast = p[fact][:, None] * (asked[fact] - before[fact])
        np.testing.assert_allclose(moved, forecast, atol=1e-4)
        assert np.abs(np.delete(moved, fact, axis=0)).max() > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--until", 0.1), "until: expected none for a mixture of experts"),
        (("--stream",), "stream: expected none for a mixture"),
        (("--shrinkage",), "shrinkage: expected none for a mixture"),
    ],
)
def test_what_a_scan_of_a_mixture_has_not_is_refused(mixture, tmp_path, arguments, message):
    result = run("scan", mixture, *DATA, *arguments, "--out", tmp_path / "out")
    assert isinstance(result.exception, ValueError) and message in str(result.exception)


@pytest.mark.parametrize("command", ["edit", "plan"])
def test_commands_that_take_one_mlp_a_layer_say_so(mixture, tmp_path, command):
    result = run(command, mixture, *DATA, "--out", tmp_path / "out")
    assert "expected one MLP a layer for" in str(result.exception)


def layer_of(counts, experts):
    """Keys of facts routed to some experts, and what a pass over few tokens gives of these."""
    rng = np.random.default_rng(3)
    n, d = len(experts), 4
    routed = Routed(rng.normal(size=(n, 1, d)), np.array(experts)[:, None], np.ones((n, 1)))
    totals = [sum(np.outer(k, k) for k in rng.normal(size=(c, d))) * np.eye(d) for c in counts]
    return routed, [np.zeros((d, d)) + total for total in totals], np.array(counts)


def test_experts_of_few_tokens_or_none_are_filled_up_and_named():
    routed, totals, counts = layer_of([100, 3, 0, 2], [0, 0, 1, 1, 2, 2])
    with pytest.warns(UserWarning, match="layer 7: experts 1, 2 read fewer than 8 tokens"):
        found = scan_mixture(
            routed,
            routed[:0],
            totals.__getitem__,
            counts,
            ridge=0.0,
            inverse="auto",
            duplicate_of=[None] * 6,
            layer=7,
        )
    assert [one["filled"] for one in found.statistics["experts"]] == [False, True, True, True]
    assert [one["facts"] for one in found.statistics["experts"]] == [2, 2, 2, 0]
    # Of an expert that no token reached all directions count alike: P is that of the keys.
    keys = np.asarray(routed.keys)[4:, 0]
    expected = keys @ keys.T / np.sum(keys**2, axis=1)[:, None]
    np.testing.assert_allclose(found.arrays["superposition"][4:, 4:], expected, rtol=1e-9)


def test_a_gate_that_is_nan_is_named():
    routed, totals, counts = layer_of([100, 100], [0, 1, 0])
    routed.gates[1] = np.nan
    with pytest.raises(ValueError, match="finite gates, found NaN or infinity in fact 1"):
        scan_mixture(
            routed,
            routed[:0],
            totals.__getitem__,
            counts,
            ridge=0.0,
            inverse="auto",
            duplicate_of=[None] * 3,
            layer=0,
        )
