"""Edits of mixtures of experts by command: against least squares, undone, forecast, refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from kis_jax.checkpoints.ledger_file import load_ledger
from kis_jax.checkpoints.loading import load, load_model
from kis_jax.core.editing.interference import interference
from kis_jax.data.facts import read_facts
from kis_jax.data.notes import DataNote
from kis_jax.data.prompts import tokenize_facts
from kis_jax.models.families import FAMILIES
from kis_jax.models.memory import memory_kernel
from kis_jax.passes.keys import fact_keys
from kis_jax.passes.store import MomentStore
from kis_jax.passes.targets.values import target_values
from tests.small_mixtures import CORPUS, FACTS, attributes, random_model, run, values_at, write

N, D, EXPERTS = 5, 36, 4
TEXT = ["--corpus", CORPUS, "--num-documents", 50]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    config = attributes()
    return write(random_model(config), tmp_path_factory.mktemp("mixture"), config)


@pytest.fixture(scope="module")
def edited(mixture, tmp_path_factory):
    """Gives the folder of an edit by a method, made once."""
    folder, made = tmp_path_factory.mktemp("edited"), {}

    def of(method, *more):
        if (method, *more) not in made:
            out = folder / f"{method}{len(made)}"
            made[method, *more] = edit(mixture, out, "--method", method, *more)
        return made[method, *more]

    return of


def edit(model, out, *arguments):
    result = run(
        *("edit", model, "--facts", FACTS, "--num-facts", N, *TEXT, "--layer", 0, "--out", out),
        *("--second-moments", out.parent / "moments", "--set", "target.steps=5", *arguments),
    )
    assert result.exit_code == 0, result.output or result.exception
    return out


def second_moment(folder, tokens):
    """The block-diagonal C of layer 0."""
    store, whole = MomentStore(folder / "moments", {}), np.zeros((EXPERTS * D, EXPERTS * D))
    for expert in range(EXPERTS):
        part = slice(expert * D, (expert + 1) * D)
        whole[part, part] = store.read(expert) / tokens
    return whole


def tokens_of(folder):
    counts = [state.count for state in MomentStore(folder / "moments", {}).layers[:EXPERTS]]
    assert min(counts) >= 2 * D, "or some are filled up"
    return sum(counts) / 2


def delta_of(ledger):
    """What an edit adds to layer 0, float64."""
    edit = ledger.edits[0]
    return np.asarray(edit.directions).T @ np.asarray(edit.residuals)


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("batch", "rome")]


@pytest.mark.parametrize("method", ["constrained", "sequential", *SLOW])
def test_an_edit_is_least_squares_over_the_whole_memory(edited, mixture, method):
    out = edited(method)
    ledger = load_ledger(out)
    asked = ledger.layers[0].asked
    keys, requested = asked.keys, asked.initial_residuals
    c = second_moment(out.parent, tokens_of(out.parent))
    inverse = np.linalg.inv(c)
    if method in ("sequential", "rome"):
        delta = np.zeros((EXPERTS * D, 24))
        for key, wanted in zip(keys, requested, strict=True):
            along = inverse @ key / (key @ inverse @ key)
            delta += np.outer(along, wanted - key @ delta)
    else:  # the least cost of all that meet the values, or nearly
        weight = 0 if ledger.weight is None else ledger.weight
        gram = keys @ inverse @ keys.T + weight * np.eye(N)
        delta = inverse @ keys.T @ np.linalg.solve(gram, requested)
    found = delta_of(ledger)
    np.testing.assert_allclose(found, delta, rtol=1e-6, atol=1e-9 * np.abs(delta).max())
    written = [load_file(each / "model.safetensors") for each in (mixture, out)]
    changed = {name for name in written[0] if (written[0][name] != written[1][name]).any()}
    name = "model.layers.0.mlp.experts.{}.down_proj.weight"
    assert changed == {name.format(expert) for expert in ledger.written(0)}
    for expert, part in enumerate(delta.reshape(EXPERTS, D, 24)):
        before, after = (tensors[name.format(expert)] for tensors in written)
        np.testing.assert_allclose(after, before + part.T, rtol=1e-6, atol=1e-6)


def test_what_is_foreseen_is_measured(edited, mixture):
    """On facts that were not edited, and on the edited ones, by the files that were written."""
    out = edited("constrained")
    base, tokenizer = load(mixture)
    facts = read_facts(str(FACTS), 4 * N)
    prompts = tokenize_facts(facts, tokenizer, context_length=96)
    texts = [prompt.tokens[: prompt.index + 1] for prompt in prompts]
    rows = fact_keys(base, prompts, token_budget=512)[0].astype(np.float64)
    before = values_at(base, texts, 0)
    kernel, size = np.asarray(memory_kernel(base, 0), np.float64), np.abs(before).max()
    np.testing.assert_allclose(rows @ kernel, before, atol=1e-4 * size)
    moved = values_at(load_model(out), texts, 0) - before
    with jax.enable_x64(True):
        foreseen = np.asarray(interference(load_ledger(out).edits[0], jnp.asarray(rows)))
    np.testing.assert_allclose(moved, foreseen, atol=1e-4 * size)
    assert np.abs(moved[N:]).max() > 0.01 * size
    asked = load_ledger(out).layers[0].asked
    written = asked.keys @ delta_of(load_ledger(out))
    np.testing.assert_allclose(written, asked.initial_residuals, atol=1e-9 * size)


def test_directions_of_all_experts_are_weighed_together(edited):
    out = edited("null-space", *("--set", "null_space=0.05"))
    ledger = load_ledger(out)
    c = second_moment(out.parent, tokens_of(out.parent))
    sizes, vectors = np.linalg.eigh(c)
    free = vectors[:, np.cumsum(sizes) <= 0.05 * sizes.sum()]
    np.testing.assert_allclose(
        ledger.layers[0].asked.solved, ledger.layers[0].asked.keys @ free @ free.T, atol=1e-8
    )
    assert ledger.method == "null-space"


def test_edits_are_listed_taken_back_and_brought_into_another_order(edited, mixture, tmp_path):
    out = edited("constrained")
    shown = run("ledger", "show", out, 1)
    reached = load_ledger(out).written(0, 1)
    assert f"experts {', '.join(map(str, reached))}" in shown.output, shown.output
    assert 0 < len(reached) <= EXPERTS
    left = tmp_path / "left"
    assert run("undo", out, "--remove", "0,3", "--out", left).exit_code == 0
    expected = load_ledger(out).take([1, 2, 4])
    found = load_ledger(left)
    np.testing.assert_array_equal(found.edits[0].delta, expected.edits[0].delta)
    kernel = np.asarray(memory_kernel(load_model(left), 0))
    own = np.asarray(memory_kernel(load_model(mixture), 0)) + expected.edits[0].delta
    np.testing.assert_allclose(kernel, own, atol=1e-6)
    assert (
        run("ledger", "reorder", left, "--order", "2,0,1", "--out", tmp_path / "r").exit_code == 0
    )
    assert run("undo", out, "--all", "--out", tmp_path / "base").exit_code == 0
    same = [each / "model.safetensors" for each in (mixture, tmp_path / "base")]
    assert same[0].read_bytes() == same[1].read_bytes()


def test_a_ledger_holds_only_the_experts_that_are_reached(edited):
    out = edited("constrained", "--num-facts", 1, "--set", "target.prefixed=false")
    tensors = load_file(out / "ledger.safetensors")
    reached = tensors["layers.0.experts"].tolist()
    assert reached == load_ledger(out).written(0) and len(reached) == 2
    assert tensors["layers.0.keys"].shape == tensors["layers.0.directions"].shape == (1, 2, D)
    assert load_ledger(out).layers[0].asked.keys.shape == (1, EXPERTS * D)


def test_several_layers_by_memit(edited, mixture):
    out = edited("batch", "--layer", "0,1")
    assert sorted(load_ledger(out).layers) == [0, 1]
    metrics = json.loads((out / "edit.json").read_text())["metrics"]
    assert metrics["after"]["efficacy"]["mean"] >= metrics["before"]["efficacy"]["mean"]


def test_one_expert_is_edited_as_the_dense_model_to_the_bit(tmp_path, monkeypatch):
    """Given the same target values: the two searches are different programs, which round apart."""
    found = []

    def searched_once(*arguments, **settings):
        found.append(target_values(*arguments, **settings))
        np.testing.assert_allclose(found[-1].values, found[0].values, rtol=1e-3, atol=1e-3)
        return dataclasses.replace(found[-1], values=found[0].values)

    monkeypatch.setattr("kis_jax.edit.job.target_values", searched_once)
    for name, model, config in zip("md", *one_expert_and_its_dense_twin(), strict=True):
        write(model, tmp_path / name / "model", config)
        edit(tmp_path / name / "model", tmp_path / name / "out", "--num-facts", 3)
    assert len(found) == 2 and np.abs(found[0].values - found[0].initial).max() > 0.1
    ours, theirs = (load_ledger(tmp_path / name / "out") for name in "md")
    for part in ("keys", "solved", "initial_residuals"):
        assert_same_bits(getattr(ours.layers[0].asked, part), getattr(theirs.layers[0].asked, part))
    assert_same_bits(ours.edits[0].delta, theirs.edits[0].delta)
    weights = [load_file(tmp_path / name / "out" / "model.safetensors") for name in "md"]
    assert_same_bits(
        weights[0]["model.layers.0.mlp.experts.0.down_proj.weight"],
        weights[1]["model.layers.0.mlp.down_proj.weight"],
    )
    told = [json.loads((tmp_path / name / "out/edit.json").read_text()) for name in "md"]
    assert told[0]["damage_foreseen"] == told[1]["damage_foreseen"]
    assert told[0]["metrics"] == told[1]["metrics"]


def one_expert_and_its_dense_twin():
    """Two models of the same numbers, and what their `config.json` holds."""
    config = attributes(num_local_experts=1, num_experts_per_tok=1)
    of_mixtures = ("num_local_experts", "num_experts_per_tok", "norm_topk_prob")
    dense_config = {name: value for name, value in config.items() if name not in of_mixtures}
    del dense_config["moe_intermediate_size"]
    dense_config |= {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "intermediate_size": D,
    }
    assert FAMILIES["qwen3"].read_config(dense_config).mlp_width == D
    mixture, dense = random_model(config), random_model(dense_config)
    state = [
        (path, leaf.replace(leaf[...][:, 0]) if path[:2] == ("blocks", "mlp") else leaf)
        for path, leaf in nnx.to_flat_state(nnx.state(mixture))
        if "router" not in path
    ]
    nnx.update(dense, nnx.from_flat_state(state))
    return (mixture, dense), (config, dense_config)


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.slow
def test_experts_that_a_file_holds_in_one_tensor_with_biases(tmp_path):
    sizes = {"vocab_size": 2048, "hidden_size": 24, "intermediate_size": D, "head_dim": 12}
    config = sizes | {
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "sliding_window": 8,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }
    directory = write(random_model(config), tmp_path / "model", config)
    out = edit(directory, tmp_path / "out")
    before, after = (load_file(each / "model.safetensors") for each in (directory, out))
    changed = {name for name in before if (before[name] != after[name]).any()}
    name = "model.layers.0.mlp.experts.down_proj"
    assert changed == {name}
    delta = delta_of(load_ledger(out)).reshape(EXPERTS, D, 24)
    np.testing.assert_allclose(after[name], before[name] + delta, rtol=1e-5, atol=1e-5)
    assert run("undo", out, "--all", "--out", tmp_path / "base").exit_code == 0
    same = [each / "model.safetensors" for each in (directory, tmp_path / "base")]
    assert same[0].read_bytes() == same[1].read_bytes()


@pytest.mark.parametrize("inverse", ["auto", pytest.param("pseudo", marks=pytest.mark.slow)])
def test_an_expert_that_no_token_reached_is_named_and_left_alone(tmp_path, inverse):
    config = attributes(num_local_experts=5)
    model = random_model(config)
    router = model.blocks.mlp.router.kernel
    # Whatever the first one's logit is, two others are above the third's, which is 0.
    ranks = jnp.array([1.0, 2.0, 0.0, -1.0, -2.0])
    router[...] = router[...].at[0].set(router[0, :, :1] * ranks)
    directory = write(model, tmp_path / "model", config)
    told = "experts 2 read fewer than 72" if inverse == "auto" else "singular in 36 directions"
    with pytest.warns(DataNote, match=f"layer 0: .*{told}"):
        result = run(
            *("edit", directory, "--facts", FACTS, "--num-facts", N, *TEXT, "--layer", 0),
            *("--out", tmp_path / "out", "--set", "target.steps=5", "--inverse", inverse),
        )
    assert result.exit_code == 0, result.output or result.exception
    ledger, moments = load_ledger(tmp_path / "out"), tmp_path / "out-second-moments"
    assert MomentStore(moments, {}).layers[2].count == 0
    assert 2 not in ledger.written(0) and len(ledger.written(0)) == 4


def test_what_cannot_be_is_refused(mixture, tmp_path):
    def refused(*arguments):
        return str(run("edit", mixture, "--facts", FACTS, *TEXT, *arguments).exception)

    assert "one MLP a layer for method finetune" in refused("--method", "finetune")
    assert "layers: expected one for constrained" in refused(
        "--layer", "0,1", "--out", tmp_path / "out"
    )
