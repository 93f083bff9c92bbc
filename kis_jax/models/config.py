"""The shapes of models in this library's words; `models.families` reads them from others'."""

from __future__ import annotations

import dataclasses
from typing import Literal

from kis_jax.models.relative import RelativePositions
from kis_jax.models.rotary import Rotary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
    """How a layer's MLP is a mixture of experts, each as wide as `mlp_width` says.

    Attributes:
      count: how many there are.
      chosen: how many read a token: those with the largest share in a softmax over all.
      renormalized: whether these shares are divided by their sum.
      router_bias: whether what the router says of each expert has a bias.
    """

    count: int
    chosen: int
    renormalized: bool
    router_bias: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What decoders and encoders have in common.

    Attributes:
      family: `model_type` of its HuggingFace checkpoint.
      vocab_size: number of tokens.
      context_length: the most tokens of a text.
      width: of the residual stream; also of values, m.
      num_layers: number of blocks.
      num_heads: attention heads.
      num_kv_heads: heads of attention's keys and values, each shared by
        `num_heads / num_kv_heads` heads.
      head_dim: width of a head.
      attention_scale: factor on the products of queries and keys.
      attention_cap: bound on these scaled products, through a tanh.
      sinks: whether each head may attend to nothing, by a product of its own.
      causal: whether tokens see only themselves and those before them.
      rotary: positions as rotations of queries and keys; None for learned positions.
      query_key_norm: a norm on queries and keys, over each `"head"` or the whole `"projection"`.
      mlp_width: of the hidden layer of the MLP; also of keys, d.
      activation: a name in `mlp.ACTIVATIONS`, or, of a gated MLP, in `mlp.GATES`.
      gated: whether the activation multiplies a second projection, as in SwiGLU.
      norm: of layers: `"layer"`, mean and variance; `"rms"`, root mean square; `"rms_offset"`,
        the same with scales stored as their distance from one.
      norm_epsilon: added to the variance, or to the mean square.
      qkv_bias: whether the projections to queries, keys and values have biases.
      output_bias: whether attention's output projection has one.
      mlp_bias: whether the matrices of the MLP have biases.
      experts: that stand in place of the MLP of every layer; None if one MLP does.
    """

    family: str
    vocab_size: int
    context_length: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    attention_scale: float
    attention_cap: float | None = None
    sinks: bool = False
    causal: bool = True
    rotary: Rotary | None = None
    query_key_norm: Literal["head", "projection"] | None = None
    mlp_width: int
    activation: str
    gated: bool = False
    norm: Literal["layer", "rms", "rms_offset"] = "layer"
    norm_epsilon: float
    qkv_bias: bool = True
    output_bias: bool = True
    mlp_bias: bool = True
    experts: Experts | None = None

    @property
    def experts_per_layer(self) -> int:
        """Second matrices of MLPs in a layer, each with its own second moment; 1 of one MLP."""
        return 1 if self.experts is None else self.experts.count

    @property
    def experts_per_token(self) -> int:
        """How many MLPs of a layer read a token."""
        return 1 if self.experts is None else self.experts.chosen

    @property
    def memory_width(self) -> int:
        """Rows of a layer's memory: of a mixture, of its experts' one below the other."""
        return self.experts_per_layer * self.mlp_width

    def check_one_mlp(self, task: str) -> None:
        """Raises ValueError if layers are mixtures of experts, which a task does not take."""
        if self.experts is not None:
            raise ValueError(
                f"model: expected one MLP a layer for {task}, found mixtures of "
                f"{self.experts.count} experts; docs/mixtures.md has what can be done with these"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(ModelConfig):
    """The shape of a decoder; the defaults are GPT-2's.

    Attributes:
      windows: for each layer, how many tokens back from a token, itself included, attention
        reaches; None for all of them. Empty if no layer has a window.
      local_rotary: in place of `rotary` in layers with a window, where they have their own.
      unrotated: layers in which queries and keys know no positions.
      parallel: whether the MLP reads what attention reads, rather than what it leaves.
      shared_norm: whether both read it through one norm.
      norms_before: whether attention and MLP read through norms.
      norms_after: whether they write through norms.
      embedding_scale: factor on the embeddings of tokens.
      residual_scale: factor on what attention and MLP add to the residual stream.
      tied_head: whether logits are products with the token embedding.
      head_bias: whether a head that is not tied has a bias.
      logit_scale: factor on logits.
      logit_cap: bound on these, through a tanh.
    """

    windows: tuple[int | None, ...] = ()
    local_rotary: Rotary | None = None
    unrotated: tuple[int, ...] = ()
    parallel: bool = False
    shared_norm: bool = False
    norms_before: bool = True
    norms_after: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    tied_head: bool = True
    head_bias: bool = False
    logit_scale: float = 1.0
    logit_cap: float | None = None


@dataclasses.dataclass(frozen=True)
class Convolution:
    """What an encoder adds to its first layer's output: neighbouring tokens, mixed.

    Attributes:
      size: how many tokens side by side are mixed.
      activation: a name in `mlp.ACTIVATIONS`.
    """

    size: int
    activation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """The shape of an encoder of BERT's kind.

    Attributes:
      token_types: rows of the embedding of token types, of which the first is used where nothing
        else is said; 0 if there is none.
      learned_positions: whether a learned vector is added to a token for its place in the text.
      position_offset: rows at the head of the table of these that no token uses.
      relative: how attention sees the distance between tokens; None if it does not.
      convolution: beside the first layer; None if there is none.
      choice_activation: of the head that answers multiple-choice questions, a name in
        `mlp.ACTIVATIONS`.
    """

    causal: bool = False
    token_types: int = 0
    learned_positions: bool = True
    position_offset: int = 0
    relative: RelativePositions | None = None
    convolution: Convolution | None = None
    choice_activation: str = "tanh"
