import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kis_jax as kis
from kis_jax.checkpoints import save_adapter
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.loading import load_model, read_config
from kis_jax.core.editing.ledger import Edit
from tests import golden


def edit_of(config, n, seed=0):
    rng = np.random.default_rng(seed)
    return Edit(
        directions=jnp.asarray(rng.standard_normal((n, config.memory_width)), jnp.float32),
        residuals=jnp.asarray(rng.standard_normal((n, config.width)), jnp.float32),
    )


def delta(edit):
    """What the edit adds to the kernel, in float64."""
    return np.asarray(edit.directions, np.float64).T @ np.asarray(edit.residuals, np.float64)


@pytest.mark.parametrize("name", golden.ONE_MLP)
@pytest.mark.parametrize("n", [1, 3, 100])
def test_the_factors_multiply_to_the_transposed_update(name, n, tmp_path):
    source = golden.DIRECTORY / name
    _, config = read_config(source)
    edits = {0: edit_of(config, n), config.num_layers - 1: edit_of(config, 2, seed=1)}
    save_adapter(edits, tmp_path / "a", source=source)
    attributes = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    rank = max(2, min(n, config.width, config.mlp_width))
    assert attributes["r"] == attributes["lora_alpha"] == rank
    assert len(tensors) == 4
    for edit, module in zip(edits.values(), attributes["target_modules"], strict=True):
        a = tensors[f"base_model.model.{module}.lora_A.weight"]
        b = tensors[f"base_model.model.{module}.lora_B.weight"]
        assert a.shape == (rank, config.mlp_width) and b.shape == (config.width, rank)
        np.testing.assert_allclose(b.astype(np.float64) @ a, delta(edit).T, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of peft and what it imports
@pytest.mark.parametrize("name", golden.ONE_MLP)
def test_merged_by_peft_it_gives_the_edited_model(name, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    import transformers

    source = golden.DIRECTORY / name
    model = load_model(source)
    config = model.config
    edits = {layer: edit_of(config, 3, seed=layer) for layer in (0, config.num_layers - 1)}
    save_adapter(edits, tmp_path / "a", source=source)
    auto = getattr(transformers, golden.torch_class(config))
    network = auto.from_pretrained(source, dtype=torch.float32)
    before = {name: values.numpy().copy() for name, values in network.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(network, tmp_path / "a").merge_and_unload()
    after = {name: values.numpy() for name, values in merged.state_dict().items()}
    modules = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    assert {name for name in after if (after[name] != before[name]).any()} == {
        f"{module}.weight" for module in modules
    }
    kernel = model.blocks.mlp.output.kernel
    for (layer, edit), module in zip(edits.items(), modules, strict=True):
        ours = np.asarray(kernel[...][layer], np.float64) + delta(edit)
        kernel[...] = kernel[...].at[layer].add(delta(edit).astype(np.float32))
        theirs = after[f"{module}.weight"]
        theirs = theirs if theirs.shape == ours.shape else theirs.T
        np.testing.assert_allclose(theirs, ours, atol=1e-5, rtol=1e-5)
    tokens = np.random.default_rng(0).integers(3, config.vocab_size, (2, 9))  # no padding
    with torch.no_grad():
        outputs = merged.eval()(torch.from_numpy(tokens))[0].numpy()
    ours = np.asarray(model(jnp.asarray(tokens, jnp.int32)))
    np.testing.assert_allclose(outputs, ours, atol=2e-4, rtol=2e-4)


def test_faults_are_named(tmp_path):
    source = golden.DIRECTORY / "gpt2_tied"
    _, config = read_config(source)
    good = edit_of(config, 2)
    bad = Edit(directions=good.directions * jnp.inf, residuals=good.residuals)
    turned = Edit(directions=good.residuals, residuals=good.directions)
    for edits, message in (
        ({}, "edits: expected an edit of one layer at least"),
        ({3: good}, "edits: expected layers of the model, 0 to 2, found 3"),
        ({0: bad}, "edits: layer 0: expected finite numbers"),
        ({1: turned}, r"edits: layer 1: expected directions \(n, .*, found \(2, "),
    ):
        with pytest.raises(ValueError, match=message):
            save_adapter(edits, tmp_path / "a", source=source)
    assert not (tmp_path / "a").exists()
    save_adapter({0: good}, tmp_path / "a", source=source)
    save_adapter({1: good}, tmp_path / "a", source=source)
    (tmp_path / "a" / "README.md").write_text("")
    with pytest.raises(ValueError, match="nothing else, found README.md"):
        save_adapter({0: good}, tmp_path / "a", source=source)


def test_the_adapter_of_somebody_else_is_left_alone(tmp_path):
    source, folder = golden.DIRECTORY / "gpt2_tied", tmp_path / "a"
    _, config = read_config(source)
    save_adapter({0: edit_of(config, 2)}, folder, source=source)
    weights = folder / "adapter_model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    before = weights.read_bytes()
    for content in (before, b"", b"\xff" * 64):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="expected an empty directory, or one .*earlier adap"):
            save_adapter({0: edit_of(config, 2)}, folder, source=source)
        assert weights.read_bytes() == content
    shutil.rmtree(folder)
    save_adapter({0: edit_of(config, 2)}, folder, source=source)


def test_the_base_model_is_named_by_its_directory(tmp_path):
    _, config = read_config(locate("factlm"))
    save_adapter({0: edit_of(config, 1)}, tmp_path / "a", source="factlm")
    attributes = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert read_config(Path(attributes["base_model_name_or_path"]))[1] == config


def test_an_edit_of_many_facts_is_no_larger_than_its_matrix(tmp_path):
    """More facts in turn than the matrix has rows: the adapter has the rank of the matrix."""
    source = golden.DIRECTORY / "gpt2_tied"
    model = load_model(source)
    d, m, n = model.config.mlp_width, model.config.width, 150
    rng = np.random.default_rng(0)
    keys = jnp.asarray(rng.standard_normal((n, d)), jnp.float32)
    values = jnp.asarray(rng.standard_normal((n, m)), jnp.float32)
    kernel = model.blocks.mlp.output.kernel[...][1]
    edit = kis.edit_sequential(kernel, keys, values, kis.whitener(jnp.eye(d)))
    save_adapter({1: edit}, tmp_path / "a", source=source)
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    (a,), (b,) = ([v for k, v in tensors.items() if part in k] for part in ("lora_A", "lora_B"))
    assert len(a) == min(d, m) < n
    np.testing.assert_allclose(b.astype(np.float64) @ a, delta(edit).T, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of peft and what it imports
@pytest.mark.parametrize("name", sorted(set(golden.NAMES) - set(golden.ONE_MLP)))
def test_peft_adds_to_every_expert_what_was_written_to_it(name, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    import transformers

    source = golden.DIRECTORY / name
    model = load_model(source)
    config = model.config
    last = config.num_layers - 1
    edits = {0: edit_of(config, 3), last: edit_of(config, 100, seed=1)}
    unwritten = np.array(edits[0].directions).reshape(3, config.experts_per_layer, -1)
    unwritten[:, 1] = 0  # as where no fact reaches an expert
    edits[0] = Edit(jnp.asarray(unwritten.reshape(3, -1)), edits[0].residuals)
    save_adapter(edits, tmp_path / "a", source=source)
    network = transformers.AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, experts_implementation="eager"
    )
    adapted = peft.PeftModel.from_pretrained(network, tmp_path / "a").eval()
    tokens = np.random.default_rng(0).integers(3, config.vocab_size, (2, 9))
    after = kis.edited(model, edits)
    expected = np.asarray(after(jnp.asarray(tokens, jnp.int32)))
    assert np.abs(expected - np.asarray(model(jnp.asarray(tokens, jnp.int32)))).max() > 0.1
    with torch.no_grad():
        beside = adapted(torch.from_numpy(tokens))[0].numpy()
        merged = adapted.merge_and_unload()
        np.testing.assert_allclose(beside, expected, atol=2e-4, rtol=2e-4)
        outputs = merged(torch.from_numpy(tokens))[0].numpy()
    np.testing.assert_allclose(outputs, expected, atol=2e-4, rtol=2e-4)
    kernels = np.asarray(after.blocks.mlp.output.kernel[...])
    for layer in edits:
        theirs = merged.get_parameter(f"model.layers.{layer}.mlp.experts.down_proj").numpy()
        theirs = theirs if theirs.shape == kernels[layer].shape else theirs.swapaxes(1, 2)
        np.testing.assert_allclose(theirs, kernels[layer], atol=1e-5, rtol=1e-5)
