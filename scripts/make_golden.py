"""Makes the golden files: small random torch models, and what torch computes with them.

They let the parity tests run where torch is not installed. Run with the `torch` extra:

    python scripts/make_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"

# No two sizes are equal, so that a transposition shows.
_SIZES = {
    "vocab_size": 61,
    "n_positions": 24,
    "n_embd": 12,
    "n_layer": 3,
    "n_head": 3,
    "n_inner": 20,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CONFIGS = {
    "gpt2_tied": GPT2Config(**_SIZES),
    "gpt2_untied": GPT2Config(
        **_SIZES, tie_word_embeddings=False, activation_function="gelu", scale_attn_weights=False
    ),
}


def random_model(config: GPT2Config, seed: int = 0) -> PreTrainedModel:
    """A torch model whose every parameter, norms and biases too, is away from its default."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def random_tokens(config: GPT2Config, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `(3, 15)` and their mask; the second text is padded on the right."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, config.vocab_size, (3, 15), dtype=np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[1, 9:] = False
    return tokens, mask


def torch_outputs(
    model: PreTrainedModel, tokens: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and the inputs of every layer's second MLP matrix, in float64."""
    model = model.double()
    keys: list[np.ndarray] = []
    hooks = [
        block.mlp.c_proj.register_forward_hook(
            lambda module, inputs, output: keys.append(inputs[0].detach().numpy())
        )
        for block in model.transformer.h
    ]
    with torch.no_grad():
        logits = model(
            torch.tensor(tokens), attention_mask=torch.tensor(mask, dtype=torch.long)
        ).logits
    for hook in hooks:
        hook.remove()
    return logits.numpy(), np.stack(keys)


def main() -> None:
    """Writes one directory for each configuration."""
    for name, config in CONFIGS.items():
        directory = GOLDEN / name
        model = random_model(config)
        model.save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)
        tokens, mask = random_tokens(config)
        logits, keys = torch_outputs(model, tokens, mask)
        np.savez(directory / "outputs.npz", tokens=tokens, mask=mask, logits=logits, keys=keys)
        print(json.dumps({"golden": name, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
