"""Makes the golden files: small random torch models, and what torch computes with them.

They let the parity tests run where torch is not installed. Run with the `torch` extra:

    python -m scripts.make_golden            # those that are missing
    python -m scripts.make_golden gemma2     # these again
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    PreTrainedModel,
)

from tests import golden
from tests.golden.cases import CASES, CHOICE_CASES, Case

_ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2")

# What torch's modules call the second matrix of the MLP; written down here anew, so that a fault
# in a family's table shows.
_SECOND_MATRIX = re.compile(
    r"\.mlp\.(experts|c_proj|fc_out|dense_4h_to_h|down_proj)$|\.ffn\.lin2$|\.layer\.\d+\.output\.dense$"
)
# What is stored of a mixture beside its keys.
_ROUTES = ("experts", "gates")


def random_model(case: Case, seed: int = 0) -> PreTrainedModel:
    """A torch model whose every parameter, norms and biases too, is away from its default."""
    if case.bare:
        auto = AutoModel
    elif case.config.model_type in _ENCODERS:
        auto = AutoModelForMaskedLM
    elif hasattr(case.config, "vision_config"):
        auto = AutoModelForImageTextToText
    else:
        auto = AutoModelForCausalLM
    return _random(auto, case, seed)


def _random(auto: Any, case: Case, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    case.config._experts_implementation = "eager"  # others run in float32 and less alone
    model = auto.from_config(case.config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def random_batch(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `(4, 13)` and their mask: padded nowhere, on the right, on the left, on both sides."""
    rng = np.random.default_rng(seed)
    # Token 1 is for padding, which positions of RoBERTa leave out wherever it stands.
    tokens = rng.integers(2, case.config.get_text_config().vocab_size, (4, 13), dtype=np.int32)
    place = np.arange(13)
    mask = np.stack([place >= 0, place < 7, place >= 2, (place >= 3) & (place < 12)])
    return np.where(mask, tokens, 1).astype(np.int32), mask


def torch_outputs(
    model: PreTrainedModel, tokens: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, ...]:
    """What the model returns, and the inputs of every layer's second MLP matrix.

    Each text runs alone, without padding, mask or positions, in float64: the definition, against
    which whatever a batch does can be held.

    Returns:
      Logits of a decoder `(b, t, v)`, or hidden states `(b, t, width)` of an encoder or of a
      model without a head; keys `(layers, b, t, d)`. Of a mixture of experts keys
      `(layers, b, t, k, d)`, then the experts of each token and their gates, `(layers, b, t, k)`.
      Zero at padding.
    """
    model = model.double()
    keys: list[tuple[torch.Tensor, ...]] = []

    def read(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        keys.append(_routed(module, *inputs) if len(inputs) == 3 else (inputs[0][0],))

    hooks = [
        module.register_forward_pre_hook(read)
        for name, module in model.named_modules()
        if _SECOND_MATRIX.search(name)
    ]
    headed = model.config.model_type not in _ENCODERS and hasattr(model, "lm_head")
    headed = headed or hasattr(model, "embed_out")
    outputs, all_keys = {}, {}
    with torch.no_grad():
        # From the shortest on: torch's dynamic rotary positions remember the longest text so far.
        for row in np.argsort(mask.sum(axis=1)):
            keys.clear()
            inputs = torch.tensor(tokens[row, mask[row]][None], dtype=torch.long)
            found = model(inputs) if headed else model.base_model(inputs)
            outputs[row] = _spread(found[0][0], mask[row])
            all_keys[row] = [
                np.stack([_spread(layer, mask[row]) for layer in part])
                for part in zip(*keys, strict=True)
            ]
    for hook in hooks:
        hook.remove()
    rows = range(len(tokens))
    parts = zip(*(all_keys[row] for row in rows), strict=True)
    return np.stack([outputs[row] for row in rows]), *(np.stack(part, 1) for part in parts)


def _routed(
    experts: Any, x: torch.Tensor, chosen: torch.Tensor, gates: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Keys of each token's experts `(t, k, d)`, one by one; which these are; and their gates."""
    keys = []
    for token, own in zip(x, chosen, strict=True):
        for expert in own:
            if hasattr(experts, "gate_up_proj_bias"):
                both = token @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
                keys.append(experts._apply_gate(both))
                continue
            gate, up = (experts.gate_up_proj[expert] @ token).chunk(2)
            keys.append(experts.act_fn(gate) * up)
    return torch.stack(keys).reshape(*chosen.shape, -1), chosen, gates


def _spread(values: torch.Tensor, there: np.ndarray) -> np.ndarray:
    """Values of a text's tokens at their places, zero elsewhere."""
    spread = np.zeros((len(there), *values.shape[1:]))
    spread[there] = values.numpy()
    return spread


def write(name: str, directory: Path) -> None:
    """Writes a case's model and what torch computes with it."""
    model = random_model(CASES[name])
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    tokens, mask = random_batch(CASES[name])
    outputs, keys, *routes = torch_outputs(model, tokens, mask)
    np.savez_compressed(
        directory / "outputs.npz",
        tokens=tokens,
        mask=mask,
        outputs=outputs.astype(np.float32),
        keys=keys.astype(np.float32),
        **{name: part.astype(np.float32) for name, part in zip(_ROUTES, routes, strict=False)},
    )


def write_choices(
    name: str, directory: Path, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Writes a case's model with a head over multiple choices, and what torch computes with it.

    Returns:
      Inputs, `logits` and `loss`; and the gradient of each parameter, by its name.
    """
    case = CASES[name]
    model = _random(AutoModelForMultipleChoice, case, seed)
    model.save_pretrained(directory)
    rng = np.random.default_rng(seed)
    place, ends = np.arange(11), rng.integers(5, 12, (3, 4, 1))
    mask = place < ends
    tokens = np.where(mask, rng.integers(2, case.config.vocab_size, mask.shape), 1)
    types = np.where(mask & (place >= 3), 1, 0)
    labels = rng.integers(0, 4, 3)
    inputs = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    if getattr(case.config, "type_vocab_size", 2) < 2 or case.config.model_type == "roberta":
        types[:] = 0  # the model has one type alone, or none
    if case.config.model_type != "distilbert":
        inputs["token_type_ids"] = types
    model = model.double()
    found = model(**{k: torch.tensor(v, dtype=torch.long) for k, v in inputs.items()})
    found.loss.backward()
    gradients = {
        key: parameter.grad.float().numpy()
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    arrays = {
        "tokens": tokens.astype(np.int32),
        "mask": mask,
        "types": types.astype(np.int32),
        "labels": labels.astype(np.int32),
        "logits": found.logits.detach().numpy().astype(np.float32),
        "loss": found.loss.detach().numpy().astype(np.float32),
    }
    np.savez_compressed(directory / "outputs.npz", **arrays)
    save_file(gradients, directory / "gradient.safetensors")
    return arrays, gradients


def main() -> None:
    """Writes one directory for each golden case that is missing, or that is named."""
    for name in CHOICE_CASES:
        directory = golden.DIRECTORY / "multiple_choice" / name
        if not (directory / "outputs.npz").exists() or name in sys.argv[1:]:
            write_choices(name, directory)
            print("multiple_choice/" + name)
    missing = [name for name, case in CASES.items() if case.golden and name not in golden.NAMES]
    for name in sys.argv[1:] or missing:
        write(name, golden.DIRECTORY / name)
        print(name)


if __name__ == "__main__":
    main()
