"""scripts/real_models.py: GGUF files as directories; two real models against torch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer

from kis_jax.checkpoints.loading import load_model
from kis_jax.checkpoints.tokenizers import load_tokenizer
from scripts import real_models
from tests import golden

gguf = pytest.importorskip("gguf")

SOURCE = golden.DIRECTORY / "llama"
THEIRS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
FIELDS = {
    "context_length": 24,
    "embedding_length": 16,
    "feed_forward_length": 22,
    "block_count": 2,
    "attention.head_count": 4,
    "attention.head_count_kv": 4,
    "rope.dimension_count": 4,
    "vocab_size": 41,
    "rope.freq_base": 1e4,
    "attention.layer_norm_rms_epsilon": 1e-6,
}


def tables():
    """A byte-level BPE; its vocabulary need not fit the model's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["The capital of France is Paris, the town of it too."], trainer)
    content = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].get)
    return tokens, [" ".join(merge) for merge in content["merges"]]


def turned_together(rows):
    """Rows as llama.cpp stores them: entries i and i + 2 of a head of 4 side by side."""
    return np.concatenate([rows[4 * head :][[0, 2, 1, 3]] for head in range(4)])


def write_gguf(path, *, fields=FIELDS, kind="llama", split="gpt-2", more=()):
    writer = gguf.GGUFWriter(str(path), kind)
    for name, value in fields.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{kind}.{name}", value)
    tokens, merges = tables()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(merges)
    writer.add_eos_token_id(0)
    for name, tensor in load_file(SOURCE / "model.safetensors").items():
        head, _, layer = name.removesuffix(".weight").partition("model.layers.")
        stored = THEIRS.get(head)
        if layer:
            number, _, part = layer.partition(".")
            stored = f"blk.{number}.{IN_LAYER[part]}"
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                tensor = turned_together(tensor)
        writer.add_tensor(f"{stored}.weight", tensor)
    for name in more:
        writer.add_tensor(name, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_written_as_the_directory_that_it_came_from(tmp_path):
    path = write_gguf(tmp_path / "a.gguf")
    directory = real_models.write_decoder(path, tmp_path / "model")
    expected = load_file(SOURCE / "model.safetensors")
    found = load_file(directory / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    assert load_model(directory).config == load_model(SOURCE).config
    tokenizer = load_tokenizer(directory)
    text = "The capital of France is Paris"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.eos_token_id == 0
    # Again over itself; never over anything else.
    real_models.write_decoder(path, directory)
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="notes.txt"):
        real_models.write_decoder(path, directory)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "qwen2"}, "expected the architecture llama, found 'qwen2'"),
        ({"fields": FIELDS | {"rope.scaling.factor": 2.0}}, "found rope.scaling.factor besides"),
        ({"fields": {k: FIELDS[k] for k in list(FIELDS)[1:]}}, "and context_length missing"),
        ({"more": ["blk.0.attn_q.bias"]}, "found blk.0.attn_q.bias besides"),
        ({"more": ["rope_freqs.weight"]}, "found rope_freqs.weight besides"),
        ({"split": "llama-bpe"}, "split as gpt-2 or smollm, found 'gpt2', 'llama-bpe'"),
    ],
)
def test_what_is_not_a_plain_llama_is_refused(tmp_path, changed, message):
    path = write_gguf(tmp_path / "a.gguf", **changed)
    with pytest.raises(ValueError, match=message):
        real_models.write_decoder(path, tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]


def test_damaged_files_are_one_line(tmp_path, capsys):
    whole = write_gguf(tmp_path / "a.gguf").read_bytes()
    for number, content in enumerate((b"", b"not one", whole[:40], whole[:3000])):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(content)
        with pytest.raises(SystemExit) as ended:
            real_models.main(["--gguf", str(path), "--out", str(tmp_path / "model")])
        printed = capsys.readouterr()
        assert ended.value.code == 2 and printed.err.startswith(f"error: {path}: expected a")
        assert len(printed.err.splitlines()) == 1 and not (tmp_path / "model").exists()


def test_a_gguf_file_named_as_a_model_is_told_the_way_out(tmp_path):
    from kis_jax.checkpoints.hub import locate

    path = write_gguf(tmp_path / "a.gguf")
    with pytest.raises(ValueError, match="GGUF file; .*scripts.real_models --gguf"):
        locate(str(path))


def packaged(package):
    try:
        return real_models.packaged(*package)
    except ValueError:
        pytest.skip("`make real-models` has not installed this model")


# In one batch, padded; 1984 is four tokens.
TEXTS = ["The capital of France is Paris.", "In 1984, George Orwell wrote of", "Hello"]


def in_batch(tokenizer):
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return tokens, mask


def assert_as_torch(directory, auto):
    """Outputs, and keys at every layer, to 1e-5 of the largest entry of each."""
    torch = pytest.importorskip("torch")
    from scripts import make_golden

    theirs = auto.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    tokens, mask = in_batch(load_tokenizer(directory))
    expected, expected_keys = make_golden.torch_outputs(theirs.eval(), tokens, mask)
    run = jax.jit(lambda model, *inputs: model(*inputs, tap=lambda keys, mask: keys))
    found, keys = run(load_model(directory), jnp.asarray(tokens), jnp.asarray(mask))
    pairs = [(found, expected), *zip(keys, expected_keys, strict=True)]
    for ours, reference in pairs:
        ours, reference = np.asarray(ours)[mask], reference[mask]
        assert np.abs(ours - reference).max() <= 1e-5 * np.abs(reference).max()


def test_the_real_decoder_is_as_torch_computes_it(tmp_path):
    path = packaged(real_models.DECODER)
    transformers = pytest.importorskip("torch") and pytest.importorskip("transformers")
    directory = real_models.write_decoder(path, tmp_path / "smollm2")
    texts = [*TEXTS, "3.14159\n\n\tnaïve 你好  <|im_end|>", "the 2 of 365, 1/7 or 2^10"]
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ours = load_tokenizer(directory)
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]
    # Digits are split off before blanks are taken together; transformers leaves that out.
    blanks = "a   2"
    assert ours.tokenize(blanks) == ["a", "ĠĠĠ", "2"]
    assert theirs.tokenize(blanks) == ["a", "ĠĠ", "Ġ", "2"]
    assert_as_torch(directory, transformers.AutoModelForCausalLM)


def test_the_real_encoder_is_as_torch_computes_it(tmp_path):
    source = packaged(real_models.ENCODER)
    transformers = pytest.importorskip("torch") and pytest.importorskip("transformers")
    directory = real_models.copy_encoder(source, tmp_path / "minilm")
    assert_as_torch(directory, transformers.AutoModel)
