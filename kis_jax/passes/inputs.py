"""What a scan starts from: model, facts, corpus and settings, all checked before any is run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.opening import parameter_shapes, read_config
from kis_jax.checkpoints.tokenizers import require_tokenizer
from kis_jax.core.arrays.precision import Inverse
from kis_jax.data.batches import token_budget
from kis_jax.data.corpora import Corpus
from kis_jax.data.facts import Fact, facts_fingerprint, read_facts
from kis_jax.data.prompts import Position, Prompt, other_tokens, tokenize_facts
from kis_jax.models import ModelConfig
from kis_jax.passes.memory import ScanMemory, checked_length, scan_memory
from kis_jax.passes.own_text import NUM_DOCUMENTS, open_text


@dataclasses.dataclass(frozen=True)
class ScanRequest:
    """What is asked of a scan.

    Attributes:
      model: a local directory or a hub name.
      facts: a file or a known data set; None for second moments alone.
      corpus: files or a hub name; or "self", see `open_text`.
      num_facts: take the first so many facts.
      num_documents: take at most so many documents; if None, see `open_text`.
      document_length: tokens at which they are cut; if None, the context, 4,096 at most.
      layers: "all", "0,3" or "0:4".
      position: the token whose key stands for a fact.
      ridge: added to the diagonal of every second moment.
      inverse: how C is inverted; see `Precision.whitener`.
      dtype: of the forward pass.
      until: the pass over the corpus may end where C is known to this relative error, and kurtosis
        stays; None for never.
      reliability: the pass over the corpus may end where P between the facts is estimated to
        correlate so with that of endless text, at every layer asked for; None for never.
      shrinkage: whether every second moment is shrunk towards its diagonal.
      strict: whether a record of facts that cannot be read is an error; else it is left out.
    """

    model: str
    facts: str | None
    corpus: str
    num_facts: int = 128
    num_documents: int | None = None
    layers: str = "all"
    position: Position = "subject_last"
    ridge: float = 0.0
    inverse: Inverse = "auto"
    dtype: str = "float32"
    document_length: int | None = None
    until: float | None = None
    shrinkage: bool = False
    reliability: float | None = None
    strict: bool = False


@dataclasses.dataclass(frozen=True)
class ScanInputs:
    """The files that a request names, opened and checked; the weights are not read yet.

    Attributes:
      request: that opened them.
      directory: of the checkpoint.
      config: of the model.
      tokenizer: of the model.
      facts: to be scanned.
      prompts: their tokens.
      controls: the same texts with other tokens, what facts are held against; empty where a
        command asks for none.
      corpus: for the second moments.
      layers: indices of the layers asked for.
      document_length: the most tokens of a document.
      token_budget: the most tokens run at once.
      num_parameters: of the model.
      fingerprints: of model, tokenizer, corpus and facts.
    """

    request: ScanRequest
    directory: Path
    config: ModelConfig
    tokenizer: PreTrainedTokenizerFast
    facts: list[Fact]
    prompts: list[Prompt]
    controls: list[Prompt]
    corpus: Corpus
    layers: list[int]
    document_length: int
    token_budget: int
    num_parameters: int
    fingerprints: dict[str, str]

    @property
    def measured(self) -> list[Prompt]:
        """The prompts whose keys are taken: those of the facts, then the controls."""
        return [*self.prompts, *self.controls]

    @property
    def settings(self) -> dict[str, object]:
        """The request as it was understood, and what was derived from it."""
        return {
            **dataclasses.asdict(self.request),
            "num_documents": self.request.num_documents
            or (None if self.corpus.written_by else NUM_DOCUMENTS),
            "layers": self.layers,
            "context_length": self.config.context_length,
            "document_length": self.document_length,
            "token_budget": self.token_budget,
        }

    @property
    def second_moment_identity(self) -> dict[str, object]:
        """What the second moments depend on, and nothing else."""
        return {
            **{name: self.fingerprints[name] for name in ("model", "tokenizer", "corpus")},
            **{name: self.settings[name] for name in ("dtype", "document_length")},
            **self._end,
        }

    @property
    def _end(self) -> dict[str, object]:
        """What decides where a pass over the corpus ends before it does."""
        request = self.request
        if request.until is None and request.reliability is None:
            return {"until": None}
        facts = self.fingerprints.get("facts")
        known = {} if request.reliability is None else {"reliability": request.reliability}
        return {
            "until": request.until,
            **known,
            "until_facts": facts,
            **{
                f"until_{name}": self.settings[name] if facts else None
                for name in ("layers", "position", "ridge")
            },
            **(
                {} if request.inverse == "auto" or not facts else {"until_inverse": request.inverse}
            ),
        }

    @property
    def identity(self) -> dict[str, object]:
        """What tells this run from another, whatever its files are called."""
        return {
            **{name: self.fingerprints[name] for name in ("model", "tokenizer", "corpus")},
            "facts": self.fingerprints.get("facts"),
            **{
                name: self.settings[name]
                for name in (
                    "dtype",
                    "document_length",
                    "until",
                    "reliability",
                    "layers",
                    "position",
                    "ridge",
                    "inverse",
                    "shrinkage",
                )
            },
        }


def open_inputs(
    request: ScanRequest,
    *,
    streamed: bool = False,
    controls: bool = False,
    mixtures: bool = False,
    task: str = "this command",
    model_fingerprint: str | None = None,
) -> ScanInputs:
    """Opens all that a request names, cheap things first.

    Args:
      request: what is asked for.
      streamed: whether the model is read layer by layer, so that it need not fit the memory.
      controls: whether other tokens of the facts' prompts are measured as well.
      mixtures: whether the command takes mixtures of experts.
      task: how a refusal of these names it.
      model_fingerprint: where another host has read the model for it already.

    Raises:
      ValueError: naming what is wrong, before anything is computed.
    """
    if not 0 <= request.ridge < float("inf"):
        raise ValueError(f"ridge: expected a finite number, 0 or more, found {request.ridge}")
    if request.shrinkage and request.until is not None:
        raise ValueError(
            "shrinkage, until: expected one of the two, found both; a corpus of which a part is "
            "enough needs no shrinkage, so leave it out"
        )
    if request.reliability is not None and request.facts is None:
        raise ValueError(
            "reliability: expected facts, so that P is looked at on the way; leave it out, or name "
            "--num-documents or --until"
        )
    directory = locate(request.model)
    family, config = read_config(directory)
    if not mixtures:
        config.check_one_mlp(task)
    _check_mixture(request, config, streamed=streamed)
    length = checked_length(request.document_length, config)
    shapes = parameter_shapes(family, config)
    if not streamed:
        _check_fits(scan_memory(config, shapes, request.dtype, length))
    layers = parse_layers(request.layers, config.num_layers)
    tokenizer = require_tokenizer(directory)
    facts = []
    if request.facts is not None:
        facts = read_facts(request.facts, request.num_facts, strict=request.strict)
    if len(facts) == 1:
        raise ValueError("num_facts: expected at least two facts to compare, found one")
    prompts = []
    if facts:
        prompts = tokenize_facts(
            facts, tokenizer, context_length=config.context_length, position=request.position
        )
    of_model = model_fingerprint or fingerprint.of_model(directory)
    corpus = open_text(
        request.corpus,
        limit=request.num_documents,
        config=config,
        tokenizer=tokenizer,
        model=of_model,
    )
    if streamed and corpus.written_by is not None:
        corpus.documents()
    fingerprints = {
        "model": of_model,
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "corpus": corpus.fingerprint,
    }
    if facts:
        fingerprints["facts"] = facts_fingerprint(facts)
    return ScanInputs(
        request,
        directory,
        config,
        tokenizer,
        facts,
        prompts,
        other_tokens(prompts, tokenizer) if controls else [],
        corpus,
        layers,
        length,
        token_budget(config),
        sum(map(math.prod, shapes.values())),
        fingerprints,
    )


def _check_mixture(request: ScanRequest, config: ModelConfig, *, streamed: bool) -> None:
    """Mixtures are held in memory and measured to the end of the corpus, each C as it is."""
    asked = {
        "stream": streamed,
        "until": request.until is not None,
        "reliability": request.reliability is not None,
        "shrinkage": request.shrinkage,
    }
    if config.experts is not None and (found := [name for name, given in asked.items() if given]):
        raise ValueError(
            f"{', '.join(found)}: expected none for a mixture of experts, which is scanned in "
            "memory over all of the corpus; leave it out"
        )


def _check_fits(memory: ScanMemory) -> None:
    """Before the weights are read, not at the first long document of a corpus.

    Where not even a short text would fit, the figures are left to `kis inspect`: some systems
    find room on disk.
    """
    if 0 < memory.longest_text < memory.document_length:
        raise ValueError(
            f"document_length: expected at most {memory.longest_text} tokens, whose attention fits "
            f"this device beside the weights, found {memory.document_length}; pass "
            f"--document-length {memory.longest_text}, which cuts longer documents"
        )


def parse_layers(text: str, num_layers: int) -> list[int]:
    """Layer indices from "all", "0,3" or "0:4" (4 itself is out).

    Raises:
      ValueError: if it is of no such form, or names a layer that the model does not have.
    """
    try:
        if text == "all":
            layers = list(range(num_layers))
        elif ":" in text:
            start, stop = text.split(":")
            layers = list(range(int(start or 0), int(stop or num_layers)))
        else:
            layers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        layers = []
    if not layers or not all(0 <= layer < num_layers for layer in layers):
        raise ValueError(
            f"layers: expected all, a list such as 0,3 or a range such as 0:4 within the "
            f"{num_layers} layers 0 to {num_layers - 1}, found {text!r}"
        )
    return layers
