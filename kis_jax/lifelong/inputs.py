"""What a lifelong run starts from: model, facts, layer, steps and text, checked before any work."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np

from kis_jax.core.arrays.precision import Inverse
from kis_jax.core.editing.recipes import methods_named
from kis_jax.data.corpora import open_corpus, tokenize_corpus
from kis_jax.data.facts import Fact
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.data.prompts import Prompt, tokenize_facts
from kis_jax.data.rewrites import EditPosition
from kis_jax.edit.closed_forms import METHODS
from kis_jax.edit.inputs import settings_of
from kis_jax.edit.methods import check_facts, check_method
from kis_jax.models import Model
from kis_jax.models.config import DecoderConfig
from kis_jax.passes.choices.probe import PuzzleProbe, open_probe
from kis_jax.passes.inputs import ScanInputs, ScanRequest, open_inputs
from kis_jax.passes.own_text import HELD_OUT, SELF, open_text
from kis_jax.passes.targets.chosen import AUTO
from kis_jax.passes.targets.settings import EditSettings

Targets = Literal["fixed", "recomputed"]

DEFAULT_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_MOST_DOCUMENTS = 100_000


@dataclasses.dataclass(frozen=True)
class LifelongRequest:
    """What is asked of a lifelong run.

    Attributes:
      model: a local directory or a hub name.
      facts: a JSON file or a known data set; edited in their order.
      corpus: files or a hub name, for the second moment; or "self", see `open_text`.
      layer: whose memory is edited; None for the one that `edit_settings` names.
      steps: numbers of edits after which all is measured; None for those of `DEFAULT_STEPS` that
        there are facts for.
      methods: of editing, side by side.
      batch: edits made together; None: all between two checkpoints, or of methods that seek each
        target value on the edited model one.
      targets: whether v* are "fixed", found once on the unedited model, or "recomputed" on the
        model as it is when a fact's turn comes.
      num_others: the most facts after the edited ones, whose keys nobody edits.
      num_documents: for the second moment, the first so many; None for all that are not held out,
        or, of text that the model writes, as `open_text` has it.
      document_length: tokens at which they are cut; None for the context, 4,096 at most.
      held_out: text for perplexity and for keys of ordinary text; None for the documents of the
        corpus that follow those counted in the second moment, or for others that the model writes.
      num_held_out: documents of it, at most.
      most_evaluated: the most facts scored at a checkpoint, spread evenly over the edited ones;
        None for all of them.
      generated: whether to score also what the model writes by itself after each prompt.
      fluency: whether to generate text at each checkpoint and measure its entropy.
      ridge: added to the diagonal of the second moment.
      inverse: how C is inverted; see `Precision.whitener`.
      probe: puzzles to be answered at each checkpoint, such as "mcqa:factlm-test"; None for none.
      settings: "auto", "rule", "published" or a file; see `chosen_settings`.
      changes: of single settings, "name=value".
      position: whose key stands for a fact; None for that of the settings.
      strict: whether a record of facts that cannot be read is an error; else it is left out.
    """

    model: str
    facts: str
    corpus: str
    layer: int | None = None
    steps: tuple[int, ...] | None = DEFAULT_STEPS
    methods: tuple[str, ...] = ("sequential", "constrained")
    batch: int | None = None
    targets: Targets = "fixed"
    num_others: int = 200
    num_documents: int | None = None
    document_length: int | None = None
    held_out: str | None = None
    num_held_out: int = 200
    most_evaluated: int | None = None
    generated: bool = False
    fluency: bool = False
    ridge: float = 0.0
    inverse: Inverse = "auto"
    probe: str | None = None
    settings: str = AUTO
    changes: tuple[str, ...] = ()
    position: EditPosition | None = None
    strict: bool = False


@dataclasses.dataclass(frozen=True)
class LifelongInputs:
    """The files that a request names, opened and checked; the weights are not read yet.

    Attributes:
      request: that opened them.
      scan: model, tokenizer, corpus and all facts that were read, as for a scan.
      layer: whose memory is edited.
      facts: to be edited, in their order.
      others: prompts of facts that nobody edits, none with the key of one that is.
      text: held-out documents; none before `written`, if the model is to write them.
      settings: of the methods.
      probe: that the request names.
    """

    request: LifelongRequest
    scan: ScanInputs
    layer: int
    facts: list[Fact]
    others: list[Prompt]
    text: list[str]
    settings: EditSettings
    probe: PuzzleProbe | None

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of edits after which all is measured."""
        return self.request.steps or ()

    def written(self, model: Model) -> LifelongInputs:
        """With the held-out documents that the model is to write, if it is."""
        if self.text:
            return self
        scan, limit = self.scan, self.request.num_held_out
        corpus = open_text(
            SELF,
            limit=limit,
            config=scan.config,
            tokenizer=scan.tokenizer,
            model=scan.fingerprints["model"],
            start=HELD_OUT,
        )
        return dataclasses.replace(self, text=list(corpus.read(model)))

    @functools.cached_property
    def scored(self) -> list[Fact]:
        """The facts as they are scored: without neighborhood prompts about other edited subjects.

        The same prompts at every checkpoint, even where the neighbor's edit comes only later, so
        that what changes between checkpoints is the model and not what is asked of it.
        """
        return without_edited_neighbors(self.facts)

    @property
    def text_prompts(self) -> list[Prompt]:
        """A token of each held-out document, whose key stands for ordinary text."""
        length = self.scan.document_length
        texts = tokenize_corpus(self.text, self.scan.tokenizer, context_length=length)
        rng = np.random.default_rng(0)
        return [Prompt(tokens, int(rng.integers(len(tokens)))) for tokens in texts]

    @property
    def plain_settings(self) -> dict[str, object]:
        """The request as it was understood, plain JSON values, by the names of its options."""
        asked = dataclasses.asdict(self.request)
        steps, methods = asked.pop("steps"), asked.pop("methods")
        derived = {
            "layer": self.layer,
            "num_documents": self.scan.request.num_documents,
            "document_length": self.scan.document_length,
            "steps": list(steps),
            "method": list(methods),
        }
        return {**asked, **derived}

    @property
    def identity(self) -> dict[str, object]:
        """What tells this run from another, whatever its files are called.

        Methods are not in it: each is saved on its own, and another one may be added later.
        """
        asked = dataclasses.asdict(self.request)
        names = ("steps", "targets", "num_others", "most_evaluated", "fluency", "ridge")
        return {
            **self.scan.second_moment_identity,
            "facts": self.scan.fingerprints["facts"],
            "held_out": hashlib.sha256(json.dumps(self.text).encode()).hexdigest(),
            "layer": self.layer,
            "edit_settings": dataclasses.asdict(self.settings),
            "probe": None if self.probe is None else self.probe.fingerprint,
            **{name: asked[name] for name in names},
            **({} if self.request.inverse == "auto" else {"inverse": self.request.inverse}),
            **({"generated": True} if self.request.generated else {}),
            **({} if self.request.batch is None else {"batch": self.request.batch}),
        }


def open_lifelong(request: LifelongRequest) -> LifelongInputs:
    """Opens all that a request names, cheap things first.

    Args:
      request: what is asked of a run.

    Returns:
      What `run_lifelong` edits and measures: facts, prompts, texts.

    Raises:
      ValueError: naming what is wrong, before anything is computed.

    Example:
      >>> request = LifelongRequest(
      ...     "factlm", "factlm", "factlm", steps=(1, 2), num_documents=99, num_others=5)
      >>> open_lifelong(request).request.methods
      ('sequential', 'constrained')
    """
    _check_numbers(request)
    request = dataclasses.replace(request, methods=methods_named(request.methods))
    most = (request.steps or DEFAULT_STEPS)[-1]
    counted, text = _split_corpus(request)
    scan = open_inputs(
        ScanRequest(
            request.model,
            request.facts,
            request.corpus,
            num_facts=most + request.num_others,
            num_documents=counted,
            document_length=request.document_length,
            layers="all" if request.layer is None else str(request.layer),
            ridge=request.ridge,
            inverse=request.inverse,
            position=request.position or "subject_last",
            strict=request.strict,
        ),
        mixtures=True,
    )
    for method in request.methods:
        check_method(method, scan.config)
    if not isinstance(scan.config, DecoderConfig):
        raise ValueError(
            f"model: expected a decoder, which says what follows a prompt, found an encoder "
            f"({scan.config.family}); choose a causal language model"
        )
    if request.steps is None:
        steps = tuple(step for step in DEFAULT_STEPS if step <= len(scan.facts))
        request = dataclasses.replace(request, steps=steps)
    num_edits = (request.steps or (0,))[-1]
    if len(scan.facts) < num_edits:
        raise ValueError(
            f"steps: expected at most {len(scan.facts)} edits, as many as there are facts in "
            f"{request.facts}, found {num_edits}; name fewer, or a file with more facts"
        )
    settings = settings_of(request, scan.config, scan.fingerprints["model"])
    facts = scan.facts[:num_edits]
    check_facts(facts)
    # Keys at the token that edits are written at, which a scan of superposition does not know.
    prompts = tokenize_facts(
        scan.facts,
        scan.tokenizer,
        context_length=scan.config.context_length,
        position=settings.target.position,
    )
    edited = {_key_of(prompt) for prompt in prompts[:num_edits]}
    left = prompts[num_edits : num_edits + request.num_others]
    others = [prompt for prompt in left if _key_of(prompt) not in edited]
    layer = settings.layer if request.layer is None else request.layer
    probe = None
    if request.probe is not None:
        probe = open_probe(request.probe, scan.tokenizer, scan.config)
    return LifelongInputs(request, scan, layer, facts, others, text, settings, probe)


def parse_steps(text: str) -> tuple[int, ...]:
    """Numbers of edits from "1,2,5,10", in rising order.

    Raises:
      ValueError: if it is of no such form.

    Examples:
      >>> parse_steps("1,10,5")
      (1, 5, 10)
    """
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ValueError(
            f"steps: expected numbers of edits such as 1,10,100, found {text!r}"
        ) from None


def parse_methods(text: str) -> tuple[str, ...]:
    """Methods from "sequential,constrained", or "all".

    Raises:
      ValueError: if one is unknown, or makes no sense.
    """
    if text == "all":
        return METHODS
    return methods_named(name.strip() for name in text.split(","))


def blocks_of(steps: Sequence[int]) -> list[slice]:
    """The facts edited between one checkpoint and the next."""
    return [slice(start, stop) for start, stop in itertools.pairwise((0, *steps))]


def _check_numbers(request: LifelongRequest) -> None:
    steps = request.steps
    if steps is not None and (not steps or steps[0] < 1 or sorted(set(steps)) != [*steps]):
        raise ValueError(f"steps: expected rising numbers of edits, 1 or more, found {steps}")
    least = {
        "num_others": 0,
        "num_held_out": 1,
        "most_evaluated": 1,
        "num_documents": 1,
        "batch": 1,
    }
    for name, smallest in least.items():
        number = getattr(request, name)
        if number is not None and number < smallest:
            raise ValueError(f"{name}: expected a number of at least {smallest}, found {number}")


def _key_of(prompt: Prompt) -> tuple[int, ...]:
    """The tokens that a prompt's key depends on."""
    return tuple(prompt.tokens[: prompt.index + 1])


def _split_corpus(request: LifelongRequest) -> tuple[int | None, list[str]]:
    """How many documents to count in the second moment, and those held out from it.

    Of text that the model writes as many as `open_text` says, and none held out: see `written`.
    """
    counted = request.num_documents
    if request.held_out is not None:
        text = open_corpus(request.held_out, limit=request.num_held_out)
        most = None if request.corpus == SELF else _MOST_DOCUMENTS
        return counted or most, list(text.documents())
    if request.corpus == SELF:
        return counted, []
    corpus = open_corpus(request.corpus)
    if counted is None:
        total = corpus.num_documents
        kept = None if total is None else max(1, total - min(request.num_held_out, total // 10))
        counted = min(kept or _MOST_DOCUMENTS, _MOST_DOCUMENTS)
    stop = counted + request.num_held_out
    text = list(itertools.islice(corpus.documents(), counted, stop))
    if not text:
        raise ValueError(
            f"corpus: expected documents after the first {counted}, which the second moment "
            f"counts, found none in {request.corpus}; name other text with --held-out, or count "
            "fewer with --num-documents"
        )
    return counted, text
