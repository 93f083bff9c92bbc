"""What `factlm` can be trained as: the shipped GPT-2, a mixture of experts, its dense twin."""

from __future__ import annotations

from typing import Any

CHOSEN = 2  # experts that read a token
_SHARE = 1.5  # width of an expert's hidden layer, in widths of the stream


def attributes_of(
    experts: int | None,
    *,
    vocab_size: int,
    context_length: int,
    width: int,
    num_layers: int,
    num_heads: int,
    end_of_text: int,
) -> dict[str, Any]:
    """The attributes of the `config.json`.

    Args:
      experts: None for a GPT-2. Two or more for a mixture of so many, of which two read each token;
        one for the same model with one gated MLP, as wide as two of the experts: of a token's
        view, both have as many parameters.
      vocab_size: number of tokens.
      context_length: the most tokens of a text.
      width: of the residual stream.
      num_layers: blocks.
      num_heads: of attention.
      end_of_text: the token that ends texts.

    Raises:
      ValueError: when there are fewer experts than none.
    """
    if experts is not None and experts < 1:
        raise ValueError(f"experts: expected one or more, found {experts}")
    special = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    if experts is None:
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": vocab_size,
            "n_positions": context_length,
            "n_embd": width,
            "n_layer": num_layers,
            "n_head": num_heads,
            **special,
        }
    hidden = int(_SHARE * width)
    common = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": CHOSEN * hidden,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads,
        "head_dim": width // num_heads,
        "max_position_embeddings": context_length,
        "tie_word_embeddings": True,
        **special,
    }
    if experts == 1:
        return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **common}
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        **common,
        "moe_intermediate_size": hidden,
        "num_local_experts": experts,
        "num_experts_per_tok": CHOSEN,
        "norm_topk_prob": False,
    }
