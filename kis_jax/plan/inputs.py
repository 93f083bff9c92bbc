"""What a plan starts from: model, facts, texts to be left alone, corpus; checked before work."""

from __future__ import annotations

import dataclasses

import numpy as np

from kis_jax.core.arrays.precision import Inverse
from kis_jax.core.editing.recipes import methods_named
from kis_jax.data.facts import Fact, facts_fingerprint
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.data.rewrites import EditPosition
from kis_jax.edit.inputs import settings_of
from kis_jax.passes.inputs import ScanInputs, ScanRequest, open_inputs
from kis_jax.passes.targets.chosen import AUTO
from kis_jax.passes.targets.settings import EditSettings
from kis_jax.plan.forecasts import PLANNED, UNPLANNED


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """What is asked of a plan.

    Attributes:
      model: a local directory or a hub name.
      facts: a JSON file or a known data set; those to be edited come first in it.
      corpus: files or a hub name, for the second moment.
      num_facts: how many are to be edited.
      layers: that come into question: "all", "0,3" or "0:4".
      max_superposition: the bound above which two facts collide.
      max_displacement: the bound on the displacement of other knowledge up to which edits count.
      methods: that come into question.
      num_others: the most texts to be left alone, drawn from the facts' neighborhood prompts and
        the prompts of the facts after them.
      num_rehearsed: the most facts on whose prompts each layer and method is tried in memory; 0
        for the closed forms alone.
      num_documents: for the second moment, the first so many; if None, see `open_text`.
      document_length: tokens at which they are cut; None for the context, 4,096 at most.
      ridge: added to the diagonal of the second moment.
      inverse: how C is inverted; see `Precision.whitener`.
      settings: "auto", "rule", "published" or a file; see `chosen_settings`.
      changes: of single settings, "name=value".
      position: whose key stands for a fact; None for that of the settings.
      strict: whether a record of facts that cannot be read is an error; else it is left out.
    """

    model: str
    facts: str
    corpus: str
    num_facts: int = 500
    layers: str = "all"
    max_superposition: float = 0.5
    max_displacement: float = 1.0
    methods: tuple[str, ...] = PLANNED[:4]
    num_others: int = 256
    num_rehearsed: int = 100
    num_documents: int | None = None
    document_length: int | None = None
    ridge: float = 0.0
    inverse: Inverse = "auto"
    settings: str = AUTO
    changes: tuple[str, ...] = ()
    position: EditPosition | None = None
    strict: bool = False


@dataclasses.dataclass(frozen=True)
class PlanInputs:
    """The files that a request names, opened and checked; the weights are not read yet.

    Attributes:
      request: that opened them.
      scan: model, tokenizer, corpus and all facts that were read, as for a scan.
      facts: to be edited.
      others: texts to be left alone.
      settings: of the methods.
    """

    request: PlanRequest
    scan: ScanInputs
    facts: list[Fact]
    others: list[str]
    settings: EditSettings

    @property
    def paraphrases(self) -> list[tuple[int, str]]:
        """Paraphrase prompts of the facts, each with the place of its fact."""
        return [
            (place, prompt)
            for place, fact in enumerate(self.facts)
            for prompt in fact.paraphrase_prompts
            if prompt.strip()
        ]

    @property
    def plain_settings(self) -> dict[str, object]:
        """The request as it was understood, plain JSON values."""
        asked = dataclasses.asdict(self.request)
        asked["methods"] = list(self.request.methods)
        return {**asked, "layers": self.scan.layers, "document_length": self.scan.document_length}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of model, tokenizer, corpus and the facts to be edited."""
        return {**self.scan.fingerprints, "facts": facts_fingerprint(self.facts)}


def open_plan(request: PlanRequest) -> PlanInputs:
    """Opens all that a request names, cheap things first.

    Raises:
      ValueError: naming what is wrong, before anything is computed.
    """
    for name in ("max_superposition", "max_displacement"):
        if not getattr(request, name) > 0:
            raise ValueError(f"{name}: expected a positive number, found {getattr(request, name)}")
    for name, least in (("num_facts", 2), ("num_others", 1), ("num_rehearsed", 0)):
        if getattr(request, name) < least:
            raise ValueError(f"{name}: expected at least {least}, found {getattr(request, name)}")
    methods = methods_named(request.methods, PLANNED, UNPLANNED)
    request = dataclasses.replace(request, methods=methods)
    scan = open_inputs(
        ScanRequest(
            request.model,
            request.facts,
            request.corpus,
            num_facts=request.num_facts + request.num_others,
            num_documents=request.num_documents,
            document_length=request.document_length,
            layers=request.layers,
            ridge=request.ridge,
            inverse=request.inverse,
            position=request.position or "subject_last",
            strict=request.strict,
        ),
        mixtures=True,
    )
    facts = scan.facts[: request.num_facts]
    for fact in facts:
        if not fact.target_new.strip():
            raise ValueError(
                f"fact {fact.case_id}: expected a `target_new`, the object to be written, found "
                f"none for {fact.text!r}; add it, or leave the fact out"
            )
    others = texts_left_alone(facts, scan.facts[request.num_facts :], request.num_others)
    settings = settings_of(request, scan.config, scan.fingerprints["model"])
    return PlanInputs(request, scan, facts, others, settings)


def texts_left_alone(facts: list[Fact], rest: list[Fact], most: int) -> list[str]:
    """A sample of what edits of some facts should not change.

    Half of it neighborhood prompts of the facts, half prompts of the facts after them, or more of
    the one where there are few of the other; none that names an edited subject.

    Raises:
      ValueError: if there is no such text.
    """
    subjects = {fact.subject.strip() for fact in facts} - {""}
    neighbors = {
        prompt: None
        for fact in without_edited_neighbors(facts)
        for prompt in fact.neighborhood_prompts
        if prompt.strip()
    }
    further = {fact.text: None for fact in rest if fact.subject.strip() not in subjects}
    if not neighbors and not further:
        raise ValueError(
            "facts: expected texts to be left alone, neighborhood prompts or facts after the first "
            f"{len(facts)}, found none; add `neighborhood_prompts`, or plan for fewer of the facts "
            "with --num-facts"
        )
    half = most // 2
    first = min(len(neighbors), max(half, most - len(further)))
    chosen = _some(list(neighbors), first) + _some(list(further), most - first)
    return list(dict.fromkeys(chosen))


def _some(texts: list[str], most: int) -> list[str]:
    """So many of some texts, in their order, always the same ones."""
    if len(texts) <= most:
        return texts
    places = np.random.default_rng(0).choice(len(texts), most, replace=False)
    return [texts[place] for place in sorted(places)]


def parse_planned(text: str) -> tuple[str, ...]:
    """Methods from "sequential,constrained".

    Raises:
      ValueError: if one is unknown, or has no forecast.
    """
    return methods_named((name.strip() for name in text.split(",")), PLANNED, UNPLANNED)
