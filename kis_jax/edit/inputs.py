"""What an edit starts from: model, facts, method and second moments, checked before any is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerFast

from kis_jax.checkpoints import fingerprint
from kis_jax.checkpoints.hub import locate
from kis_jax.checkpoints.ledger import Ledger
from kis_jax.checkpoints.ledger_file import load_ledger
from kis_jax.checkpoints.opening import read_config
from kis_jax.checkpoints.tokenizers import require_tokenizer
from kis_jax.core.arrays.precision import Inverse
from kis_jax.core.editing.recipes import recipe
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.batches import Batch, token_budget
from kis_jax.data.corpora import Corpus
from kis_jax.data.facts import Fact, facts_fingerprint, read_facts
from kis_jax.data.rewrites import EditPosition, tokenize_rewrites
from kis_jax.edit.methods import check_facts, check_method
from kis_jax.models import Model, ModelConfig
from kis_jax.passes.inputs import parse_layers
from kis_jax.passes.measuring import check_enough_tokens
from kis_jax.passes.memory import checked_length
from kis_jax.passes.own_text import open_text
from kis_jax.passes.saved import resumable_second_moments
from kis_jax.passes.store import MomentStore, store_of
from kis_jax.passes.targets.chosen import AUTO, chosen_settings
from kis_jax.passes.targets.settings import EditSettings, check_together

# Files of second moments: steps of orbax, those of layers and of hosts, and what is being written.


@dataclasses.dataclass(frozen=True)
class EditRequest:
    """What is asked of an edit.

    Attributes:
      model: a local directory or a hub name.
      facts: a file or a known data set.
      method: of editing.
      second_moments: a folder: of a finished scan, or where they are kept once measured.
      corpus: files or a hub name, over which they are measured; None if the folder has them.
      layers: "3" or "2,3" or "2:4"; None for those of the settings.
      num_facts: take the first so many facts; None for all.
      num_documents: take at most so many documents; if None, see `open_text`.
      document_length: tokens at which they are cut; None for the context, 4,096 at most.
      ridge: added to the diagonal of the second moment.
      inverse: how C is inverted; see `Precision.whitener`.
      original_keys: of "rome"; see `make_edits`.
      at_most_damage: see `make_edits`.
      settings: "auto", "rule", "published" or a file; see `chosen_settings`.
      changes: of single settings, "name=value".
      position: whose key stands for a fact; None for that of the settings.
      strict: whether a record of facts that cannot be read is an error; else it is left out.
      after: folder of an earlier edit of the model, upon which this one is made: its edits stay,
        but for those of facts that are edited again, which are replaced.
      generated: whether to score also what the model writes by itself; see `generated_scores`.
    """

    model: str
    facts: str
    method: str
    second_moments: Path
    corpus: str | None = None
    layers: str | None = None
    num_facts: int | None = None
    num_documents: int | None = None
    document_length: int | None = None
    ridge: float = 0.0
    inverse: Inverse = "auto"
    original_keys: bool = False
    at_most_damage: float | None = None
    settings: str = AUTO
    changes: tuple[str, ...] = ()
    position: EditPosition | None = None
    strict: bool = False
    after: Path | None = None
    generated: bool = False


@dataclasses.dataclass(frozen=True)
class EditInputs:
    """The files that a request names, opened and checked; the weights are not read yet.

    Attributes:
      request: that opened them.
      directory: of the checkpoint.
      config: of the model.
      tokenizer: of the model.
      facts: to be edited.
      layers: whose memory is written.
      settings: of the methods.
      corpus: for the second moments; None where they are measured already.
      fingerprints: of model, tokenizer and facts.
      earlier: the ledger upon which the edit is made; None for a first one.
    """

    request: EditRequest
    directory: Path
    config: ModelConfig
    tokenizer: PreTrainedTokenizerFast
    facts: list[Fact]
    layers: list[int]
    settings: EditSettings
    corpus: Corpus | None
    fingerprints: dict[str, str]
    earlier: Ledger | None = None

    @property
    def moments_identity(self) -> dict[str, object]:
        """What the second moments must have been measured with, as far as that is known."""
        known: dict[str, object] = {
            name: self.fingerprints[name] for name in ("model", "tokenizer")
        }
        if self.corpus is None:
            return known
        length = checked_length(self.request.document_length, self.config)
        return {
            **known,
            "corpus": self.corpus.fingerprint,
            "dtype": "float32",
            "document_length": length,
            "until": None,
        }


def open_edit(request: EditRequest) -> EditInputs:
    """Opens all that a request names, cheap things first.

    Raises:
      ValueError: naming what is wrong, before anything is computed.
    """
    if not 0 <= request.ridge < float("inf"):
        raise ValueError(f"ridge: expected a finite number, 0 or more, found {request.ridge}")
    if request.at_most_damage is not None and not 0 < request.at_most_damage < float("inf"):
        raise ValueError(
            f"at_most_damage: expected a positive number, found {request.at_most_damage}"
        )
    if request.corpus is None and not store_of(request.second_moments).is_dir():
        raise ValueError(
            f"second_moments: expected the folder of a finished `kis scan`, found none at "
            f"{request.second_moments}; name one, or pass --corpus, over which they are measured"
        )
    directory = locate(request.model)
    _, config = read_config(directory)
    check_method(request.method, config)
    of_model = fingerprint.of_model(directory)
    settings = settings_of(request, config, of_model)
    layers = _layers(request, config, settings)
    tokenizer = require_tokenizer(directory)
    facts = read_facts(request.facts, request.num_facts, strict=request.strict)
    check_facts(facts)
    tokenize_rewrites(
        facts,
        [""],
        tokenizer,
        context_length=config.context_length,
        position=settings.target.position,
    )
    corpus = None
    if request.corpus is not None:
        corpus = open_text(
            request.corpus,
            limit=request.num_documents,
            config=config,
            tokenizer=tokenizer,
            model=of_model,
        )
    fingerprints = {
        "model": of_model,
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "facts": facts_fingerprint(facts),
    }
    earlier = None
    if request.after is not None:
        earlier = _earlier(request.after, recipe(request.method).name, layers, of_model)
    return EditInputs(
        *(request, directory, config, tokenizer, facts, layers, settings, corpus, fingerprints),
        earlier=earlier,
    )


def _earlier(after: Path, method: str, layers: list[int], of_model: str) -> Ledger:
    """The ledger upon which an edit is made.

    Raises:
      ValueError: if it is not of the same model, method and layers.
    """
    ledger = load_ledger(after)
    of_base = None if ledger.base is None else ledger.base.fingerprint
    if of_base != of_model:
        raise ValueError(
            f"after: expected an edit of the model itself, {of_model[:12]}, found one of "
            f"{str(of_base)[:12]} in {after}; name the model that was edited there, "
            f"{'unknown' if ledger.base is None else ledger.base.source}"
        )
    if (ledger.method, sorted(ledger.layers)) != (method, sorted(layers)):
        raise ValueError(
            f"after: expected edits by {method} in layers {layers}, found {ledger.method} in "
            f"{sorted(ledger.layers)}; edit by the same --method and --layer"
        )
    if any(own.asked is None for own in ledger.layers.values()):
        raise ValueError(
            f"after: expected edits in closed form, which can be joined, found {method}; edit the "
            "facts of both at once"
        )
    return ledger


def edit_moments(
    inputs: EditInputs, model: Model, *, on_batch: Callable[[Batch], None] = lambda batch: None
) -> tuple[SecondMoment, dict[str, object]]:
    """Second moments from the folder of the request, measured there first if need be.

    Returns:
      The second moments of all layers, and their identity.

    Raises:
      ValueError: if the folder holds those of another model or run, or of one that was cut short;
        or if the corpus has fewer tokens than C needs.
    """
    request = inputs.request
    inverted: Any = {"ridge": request.ridge, "inverse": request.inverse}
    directory, identity = store_of(request.second_moments), inputs.moments_identity
    if inputs.corpus is not None:
        moments = resumable_second_moments(
            model,
            inputs.tokenizer,
            inputs.corpus,
            directory,
            identity,
            token_budget=token_budget(inputs.config),
            document_length=checked_length(request.document_length, inputs.config),
            on_batch=on_batch,
        )
        check_enough_tokens(moments, inputs.config, name=inputs.corpus.name, **inverted)
        return moments, identity
    store = MomentStore(directory, identity)
    saved = store.restore()
    if saved is None or not saved.complete:
        raise ValueError(
            f"{request.second_moments}: expected second moments over a whole corpus, found none, "
            "or those of a run that was cut short; let that run finish, or pass --corpus"
        )
    where = str(request.second_moments)
    check_enough_tokens(saved.moments, inputs.config, name=where, **inverted)
    return saved.moments, store.saved_identity()


class _Asked(Protocol):
    @property
    def settings(self) -> str: ...

    @property
    def changes(self) -> tuple[str, ...]: ...

    @property
    def position(self) -> EditPosition | None: ...


def settings_of(request: _Asked, config: ModelConfig, model_fingerprint: str) -> EditSettings:
    """The settings that a request names; raises ValueError as `chosen_settings`."""
    found = chosen_settings(
        config,
        source=request.settings,
        changes=request.changes,
        fingerprint=model_fingerprint,
    )
    return _placed(found, request.position)


def _placed(settings: EditSettings, position: EditPosition | None) -> EditSettings:
    """The settings with another token for that whose key stands for a fact; None for theirs."""
    if position is None:
        return settings
    return dataclasses.replace(
        settings,
        target=dataclasses.replace(settings.target, position=position),
        batch_target=dataclasses.replace(settings.batch_target, position=position),
    )


def _layers(request: EditRequest, config: ModelConfig, settings: EditSettings) -> list[int]:
    if request.layers is None:
        return list(settings.layers) if recipe(request.method).name == "batch" else [settings.layer]
    layers = parse_layers(request.layers, config.num_layers)
    made_of = recipe(request.method)
    if len(layers) > 1 and made_of.name != "batch" and not made_of.base.gradients:
        raise ValueError(
            f"layers: expected one for {request.method}, found {layers}; only batch writes several"
        )
    check_together(layers, config)
    return layers
