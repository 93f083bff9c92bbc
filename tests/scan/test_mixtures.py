"""A scan of a mixture of experts: what is measured, held against loops; what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax.checkpoints.loading import load
from kis_jax.core.geometry.routed import Routed
from kis_jax.passes.means import ExpertMeans
from kis_jax.scan.mixtures import scan_mixture
from tests.small_mixtures import CORPUS, FACTS, attributes, random_model, run, write

N, DOCUMENTS = 12, 50


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A random mixture of four experts, with factlm's tokenizer."""
    config = attributes()
    return write(random_model(config), tmp_path_factory.mktemp("mixture"), config)


@pytest.fixture(scope="module")
def scanned(mixture, tmp_path_factory):
    out = tmp_path_factory.mktemp("scan") / "out"
    result = run("scan", mixture, *DATA, "--out", out)
    assert result.exit_code == 0, result.output
    return out


DATA = [
    *("--facts", FACTS, "--corpus", CORPUS),
    *("--num-facts", N, "--num-documents", DOCUMENTS),
]


@pytest.mark.slow
def test_a_scan_is_that_of_an_explicit_loop(mixture, scanned):
    model, tokenizer = load(mixture)
    record = json.loads((scanned / "scan.json").read_text())
    lines = CORPUS.read_text().splitlines()[:DOCUMENTS]
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


@pytest.mark.slow
def test_a_scan_is_taken_up_and_reports(mixture, scanned):
    before = (scanned / "scan.json").read_bytes()
    result = run("scan", mixture, *DATA, "--out", scanned)
    assert result.exit_code == 0, result.output
    assert (scanned / "scan.json").read_bytes() == before
    assert (scanned / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--until", 0.1), "until: expected none for a mixture of experts"),
        (("--stream",), "stream: expected none for a mixture"),
        (("--shrinkage",), "shrinkage: expected none for a mixture"),
        (("--reliability", 0.1), "reliability: expected none for a mixture"),
        (("--model-axis", 2), "expected one MLP a layer for a mesh of devices"),
    ],
)
def test_what_a_scan_of_a_mixture_has_not_is_refused(mixture, tmp_path, arguments, message):
    result = run("scan", mixture, *DATA, *arguments, "--out", tmp_path / "out")
    assert isinstance(result.exception, ValueError) and message in str(result.exception)


@pytest.mark.parametrize("command", [("stats", "collect"), ("tune",)])
def test_commands_that_take_one_mlp_a_layer_say_so(mixture, tmp_path, command):
    data = DATA[:4] if command == ("tune",) else DATA[2:4]
    result = run(*command, mixture, *data, "--out", tmp_path / "out")
    assert "expected one MLP a layer for" in str(result.exception), result.output


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
            ExpertMeans(totals.__getitem__, counts, 1),
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
            ExpertMeans(totals.__getitem__, counts, 1),
            duplicate_of=[None] * 3,
            layer=0,
        )
