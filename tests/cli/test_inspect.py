import itertools
import json
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from kis_jax.checkpoints import hub
from kis_jax.checkpoints.loading import load_model, read_config
from kis_jax.checkpoints.tensors import open_tensors
from kis_jax.cli.console import _duration
from kis_jax.data import batches
from kis_jax.inspect.run import inspect_model
from kis_jax.passes import memory
from tests import golden


def inspect(kis, *arguments):
    status, out, err = kis("inspect", *arguments, "--json")
    assert status == 0 and not err
    return json.loads(out)


@pytest.mark.parametrize("name", golden.NAMES)
def test_what_is_told_is_so(kis, name):
    directory = golden.DIRECTORY / name
    found = inspect(kis, directory, "--tokens", 10)
    model, tensors = load_model(directory), open_tensors(directory)
    shape = found["architecture"]
    assert shape["num_parameters"] == sum(leaf.size for leaf in jax.tree.leaves(model))
    assert shape["num_layers"] == model.config.num_layers
    kernel = model.blocks.mlp.output.kernel
    *stack, d, m = kernel[...].shape
    experts = stack[1] if len(stack) > 1 else 1
    chosen = model.config.experts_per_token
    assert (shape["num_experts"], shape["experts_per_token"]) == (experts, chosen)
    for layer, expert in itertools.product(range(shape["num_layers"]), range(experts)):
        name = shape["memory_tensor"].replace("{layer}", str(layer))
        stored = tensors[name.replace("{expert}", str(expert))].array()
        stored = stored[expert] if stored.ndim > 2 else stored  # of all experts, in one tensor
        ours = np.asarray(kernel[...][(layer, expert)[: len(stack)]])
        assert (stored.shape == ours.shape and (stored == ours).all()) or (stored.T == ours).all()
    layers = stack[0]
    assert (shape["key_dimension"], shape["width"]) == (d, m)
    assert found["weights"]["bytes"] == sum(t.array().nbytes for t in tensors.values())
    assert found["weights"]["dtypes"].keys() >= {"float32"}
    held = found["memory"]
    assert held["weights"] == sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    assert held["second_moments"] == 4 * layers * experts * d * d
    assert held["fits"] is True
    cost = found["cost"]
    assert cost["second_moment_per_token"] == 2 * layers * chosen * d * d
    per_token = cost["forward_per_token"] + cost["second_moment_per_token"]
    assert cost["total"] == 10 * per_token


def test_the_forward_pass_costs_what_xla_counts(kis):
    """Matrix products alone: XLA counts norms, activations and softmax too."""
    found = inspect(kis, "factlm")
    model = load_model(hub.locate("factlm"))
    context = model.config.context_length
    tokens = np.zeros((1, context), np.int32)
    run = jax.jit(lambda block, x, mask: block(x, mask)[0])
    block = jax.tree.map(lambda leaf: leaf[0], model.blocks)
    x = model.embed(tokens, np.ones_like(tokens, bool))
    counted = run.lower(block, x, np.ones_like(tokens, bool)).compile().cost_analysis()["flops"]
    ours = found["cost"]["forward_per_token"] * context / model.config.num_layers
    assert ours <= counted <= 1.25 * ours


def test_no_weights_are_read(kis, monkeypatch, tmp_path):
    """A file of the right size and no content will do; or no file at all."""
    directory = shutil.copytree(golden.DIRECTORY / "gpt2_untied", tmp_path / "model")
    path = directory / "model.safetensors"
    content = path.read_bytes()
    header = content[: 8 + int.from_bytes(content[:8], "little")]
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(content))
    whole = inspect(kis, directory)
    assert whole["weights"]["files"] == 1
    path.unlink()
    bare = inspect(kis, directory)
    assert bare["weights"] is None and bare["architecture"] == whole["architecture"]
    status, out, _ = kis("inspect", directory)
    assert status == 0 and "none here" in out


def test_the_names_are_those_of_the_checkpoint(kis, tmp_path):
    source = golden.DIRECTORY / "gpt2_untied"
    shutil.copy(source / "config.json", tmp_path)
    tensors = {
        name.removeprefix("transformer."): tensor.array().astype(np.float16)
        for name, tensor in open_tensors(source).items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    found = inspect(kis, tmp_path)
    assert found["architecture"]["memory_tensor"] == "h.{layer}.mlp.c_proj.weight"
    assert found["weights"]["dtypes"].keys() == {"float16"}


def test_the_table_says_whether_a_scan_fits(kis, monkeypatch):
    status, out, err = kis("inspect")
    assert status == 0 and not err
    for words in ("factlm", "gpt2", "1,464,320", "mlp.c_proj.weight", "float32 5.59 MiB", "yes:"):
        assert words in out
    _, config = read_config(hub.locate("factlm"))
    needed = inspect_model("factlm").memory.device
    monkeypatch.setattr(memory, "token_budget", lambda config: 1)
    least = inspect_model("factlm").memory.device
    context = config.context_length
    assert needed - least == (4096 - context) * batches.bytes_per_token(config, context)
    for available, fits in ((least, "yes:"), (least - 1, "no:")):
        monkeypatch.setattr(memory, "device_memory", lambda available=available: available)
        assert fits in kis("inspect")[1]


def test_a_long_context_fits_as_far_as_its_texts_do(kis, monkeypatch, tmp_path):
    """A text of 131,072 tokens of a Llama 3.2 1B would need terabytes, one of 4,096 does not."""
    config = {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128_256, "max_position_embeddings": 131_072, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    for module in (memory, batches):
        monkeypatch.setattr(module, "device_memory", lambda: 30 * 2**30)
        monkeypatch.setattr(module, "host_memory", lambda: 30 * 2**30)
    usual = inspect(kis, tmp_path)["memory"]
    assert usual["document_length"] == usual["token_budget"] == 4096 and usual["fits"]
    longest = usual["longest_text"]
    assert 4096 < longest < 131_072
    fits, longer, full = (
        inspect(kis, tmp_path, "--document-length", length)["memory"]
        for length in (longest, longest + 1, 131_072)
    )
    assert fits["fits"] and not longer["fits"] and not full["fits"]
    assert full["activations"] > 4 * 2**40
    assert f"{longest:,} tokens" in kis("inspect", tmp_path)[1]
    status, _, error = kis(
        "scan", tmp_path, "--facts", "a", "--corpus", "b", "--document-length", longest + 1
    )
    assert status == 2 and f"pass --document-length {longest}, which cuts" in error
    for length in (0, 131_073):
        status, _, error = kis("inspect", tmp_path, "--document-length", length)
        assert status == 2 and "document_length: expected 1 to 131072 tokens" in error


def test_a_duration_is_told_in_a_unit_that_fits():
    durations = {0.5: "0.5 s", 59: "59 s", 90: "1.5 min", 3600: "1 h"}
    for seconds, told in (durations | {1e9: "1.16e+04 d"}).items():
        assert _duration(seconds) == told


def test_half_the_precision_takes_half_the_memory(kis):
    whole, half = inspect(kis, "factlm"), inspect(kis, "factlm", "--dtype", "bfloat16")
    assert half["memory"]["weights"] * 2 == whole["memory"]["weights"]


def test_of_a_model_on_the_hub_the_configuration_alone_is_fetched(kis, monkeypatch, tmp_path):
    shutil.copy(golden.DIRECTORY / "gpt2_tied" / "config.json", tmp_path)
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert inspect(kis, "someone/gpt2")["weights"] is None
    assert asked == [("someone/gpt2", ["config.json"])]


def test_faults_are_one_line_and_status_2(kis, tmp_path):
    damaged = shutil.copytree(golden.DIRECTORY / "gpt2_tied", tmp_path / "model")
    (damaged / "model.safetensors").write_bytes(b"")
    for arguments, message in (
        ([tmp_path / "nowhere"], "no such directory"),
        ([tmp_path], "config.json: no such file"),
        ([damaged], "truncated or corrupt"),
        (["factlm", "--tokens", 0], "tokens: expected a positive number, found 0"),
        (["factlm", "--dtype", "int8"], "int8"),
    ):
        status, out, err = kis("inspect", *arguments)
        assert status == 2 and not out and message in err
        assert len(err.splitlines()) == 1


def test_what_of_a_file_changes_nothing_is_named(kis, tmp_path):
    directory = shutil.copytree(golden.DIRECTORY / "gpt2_untied", tmp_path / "model")
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"wandb_run": "x", "_own": 1}))
    status, out, _ = kis("inspect", directory)
    assert status == 0 and re.search(r"in config.json, unused +│ +_own, wandb_run", out)
    assert inspect(kis, directory)["ignored_attributes"] == ["_own", "wandb_run"]
