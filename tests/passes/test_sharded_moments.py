"""Keys and second moments of a model on meshes of eight simulated devices, against one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kis_jax as kis
from kis_jax import factlm
from kis_jax.data.batches import fill_batches
from kis_jax.data.corpora import open_corpus, tokenize_corpus
from kis_jax.data.facts import read_facts
from kis_jax.data.prompts import tokenize_facts
from kis_jax.models.sharding import make_mesh
from kis_jax.passes import second_moments
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.second_moments import SecondMomentPass


def texts(limit=46):
    return list(open_corpus(factlm.corpus_path(), limit=limit).documents())


@pytest.fixture(scope="module")
def batches(embedded):
    """Of one shape but for the last; six texts do not go up over eight groups of devices."""
    encoded = tokenize_corpus(texts(), embedded[1], context_length=14)
    return list(fill_batches(encoded, embedded[0].config, token_budget=6 * 14))


@pytest.fixture(scope="module")
def on_one_device(embedded, batches):
    return run(SecondMomentPass(embedded[0]), batches).result()


def run(running, batches):
    for batch in batches:
        running.add(batch)
    return running


@pytest.fixture(scope="module", params=[1, 2, 8], ids=["8x1", "4x2", "1x8"])
def sharded(request):
    return kis.load("factlm", mesh=make_mesh(model=request.param))


def test_second_moments_are_those_of_one_device(sharded, batches, on_one_device):
    found = run(SecondMomentPass(sharded[0]), batches).result()
    assert found.total.dtype == np.float64 and found.count.dtype == np.int64
    np.testing.assert_array_equal(found.count, on_one_device.count)
    scale = np.abs(on_one_device.total).max()
    np.testing.assert_allclose(found.total, on_one_device.total, rtol=1e-5, atol=1e-7 * scale)


def test_the_public_function_takes_a_model_on_a_mesh(embedded, sharded):
    found = kis.second_moments(*sharded, texts(3))
    one = kis.second_moments(*embedded, texts(3))
    np.testing.assert_array_equal(found.count, one.count)
    np.testing.assert_allclose(found.total, one.total, rtol=1e-5, atol=1e-7 * one.total.max())


def test_keys_are_those_of_one_device(sharded, embedded):
    facts = read_facts(factlm.facts_path(), 5)
    prompts = tokenize_facts(facts, embedded[1], context_length=96)
    found = fact_keys(sharded[0], prompts, token_budget=64)
    np.testing.assert_allclose(
        found, fact_keys(embedded[0], prompts, token_budget=64), rtol=1e-5, atol=1e-5
    )


def test_the_programs_hold_and_send_what_is_needed_and_no_more(sharded):
    """Sums over the devices of a group after attention and MLP, half of a ring for the bands."""
    model, mesh = sharded[0], sharded[0].blocks.mlp.output.kernel[...].sharding.mesh
    share, groups = mesh.shape["model"], mesh.shape["data"]
    running = SecondMomentPass(model)
    width = 512 // share * (share // 2 + 1)
    assert {part.data.shape for part in running._bands.addressable_shards} == {
        (6, 1, 512 // share, width)
    }
    tokens = jnp.zeros((8, 16), jnp.int32)
    program = second_moments._add.lower(running._bands, model, tokens, tokens >= 0, mesh=mesh)
    found = collectives(program)
    if share == 1:
        assert found == {}, "groups of one device have nothing to say to one another"
    else:
        # All heads lie on each of eight devices, as there are four: only the MLP is summed.
        sums = {"all-reduce": 3 if share == 2 else 2}
        assert found == sums | {"collective-permute": share // 2}
    rows = second_moments._rows.lower(running._bands, 0, mesh=mesh, spec=running._layout.spec)
    # One of the sums over groups, two of the norm; all are left out where there is one.
    assert collectives(rows)["all-reduce"] <= 3, f"over {groups} groups"
    assert set(collectives(rows)) <= {"all-reduce", "collective-permute"}
    if share > 1:
        assert "f32[512,512]" not in rows.compile().as_text()


def test_a_host_has_rows_of_its_own(sharded):
    running = SecondMomentPass(sharded[0])
    np.testing.assert_array_equal(running.rows, np.arange(512), "here it has all devices")


def test_keys_that_are_not_finite_are_named_with_their_layer(sharded, batches):
    model = jax.tree.map(lambda array: array, sharded[0])
    bias = model.blocks.mlp.input.bias
    bias[...] = bias[...].at[3, 5].set(jnp.nan)
    with pytest.raises(ValueError, match="second moments: .* NaN or infinity in layer 3"):
        run(SecondMomentPass(model), batches[:1])


def test_a_pass_taken_up_ends_with_the_same_bits(sharded, batches):
    model = sharded[0]
    assert len(batches) >= 7
    undisturbed = run(SecondMomentPass(model), batches)
    first = run(SecondMomentPass(model), batches[:4])
    assert first.settled
    start = {"batches": first.batches, "spread": first.spread}
    second = run(SecondMomentPass(model, first.result(), **start), batches[4:])
    np.testing.assert_array_equal(second.result().total, undisturbed.result().total)


def collectives(lowered):
    """How many of each kind a compiled program has; one in the scan over layers counts once."""
    names = r" (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
    found = re.findall(names, lowered.compile().as_text())
    return {name: found.count(name) for name in found}
