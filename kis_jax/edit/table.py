"""Methods of editing side by side: random subsets of facts, edited and measured, run by run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kis_jax.core.editing.recipes import recipe
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.data.facts import Fact
from kis_jax.data.neighbors import without_edited_neighbors
from kis_jax.edit.job import target_settings
from kis_jax.edit.methods import make_edits
from kis_jax.models import Model
from kis_jax.passes.intervals import mean_intervals
from kis_jax.passes.scores.fluency import fluency
from kis_jax.passes.scores.measures import KINDS, MEASURES, evaluate
from kis_jax.passes.scores.perplexity import perplexity
from kis_jax.passes.targets.settings import TargetSettings, edit_settings
from kis_jax.passes.targets.values import TargetValues, target_values

# Texts are generated for so many facts of a run, of so many tokens each.
_FLUENCY_FACTS, _FLUENCY_TOKENS = 10, 30


@dataclasses.dataclass(frozen=True)
class Run:
    """One line of work: some facts, drawn at random, edited into the model by one method.

    Attributes:
      method: of editing.
      num_edits: how many facts.
      seed: of the draw, which all methods share.
    """

    method: str
    num_edits: int
    seed: int

    @property
    def name(self) -> str:
        """Of the file that keeps its result."""
        return f"{self.method}_{self.num_edits:04d}_{self.seed:03d}"


class EditTable:
    """What all runs share: the model, the facts to draw from, and their target values."""

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerFast,
        facts: Sequence[Fact],
        second_moments: SecondMoment,
        held_out: Sequence[str],
    ) -> None:
        """Takes what is measured on.

        Args:
          model: a decoder.
          tokenizer: of the model.
          facts: to draw from; none that settings were tuned on.
          second_moments: of the model, over text that does not hold the following.
          held_out: documents for perplexity.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._facts = facts
        self._second_moments = second_moments
        self._held_out = held_out
        self._settings = edit_settings(model.config)
        self._targets: dict[TargetSettings, TargetValues] = {}

    def measure(self, run: Run) -> dict[str, Any]:
        """Makes the edits of a run and measures the edited model.

        Prompts about neighbors that are edited too are left out.

        Returns:
          Plain JSON: the run; `facts`, a record each, in the order of the edits, those left out
          by the method included; `perplexity`, and `perplexity_before`; `fluency`.

        Raises:
          ValueError: if there are not as many facts.
        """
        if run.num_edits > len(self._facts):
            raise ValueError(f"num_edits: expected at most {len(self._facts)}, found {run}")
        dice = np.random.default_rng([run.num_edits, run.seed])
        chosen = dice.permutation(len(self._facts))[: run.num_edits]
        facts = [self._facts[place] for place in chosen]
        made = make_edits(
            self._model,
            self._tokenizer,
            facts,
            self._second_moments,
            method=run.method,
            layers=[self._settings.layer],
            settings=self._settings,
            targets=self._targets_of(run.method, chosen),
        )
        found = evaluate(made.model, self._tokenizer, without_edited_neighbors(facts))
        written = fluency(
            made.model, self._tokenizer, facts[:_FLUENCY_FACTS], num_tokens=_FLUENCY_TOKENS
        )
        return {
            **dataclasses.asdict(run),
            "facts": found.records(),
            "left_out": sum(outcome.reason is not None for outcome in made.outcomes),
            "perplexity": perplexity(made.model, self._tokenizer, self._held_out),
            "perplexity_before": self._perplexity_before,
            "fluency": float(np.nanmean(written)),
        }

    @functools.cached_property
    def _perplexity_before(self) -> float:
        return perplexity(self._model, self._tokenizer, self._held_out)

    def _targets_of(self, method: str, chosen: np.ndarray) -> TargetValues | None:
        """Target values found once on the unedited model; None for methods that seek their own."""
        if recipe(method).kind == "rome" or recipe(method).base.rule is None:
            return None
        settings = target_settings(self._settings, method)
        if settings not in self._targets:
            self._targets[settings] = target_values(
                self._model,
                self._tokenizer,
                self._facts,
                layer=self._settings.layer,
                settings=settings,
            )
        return self._targets[settings][chosen]


def summarize_runs(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means over runs of one method and size, with intervals that keep each run together.

    Returns:
      What `mean_intervals` gives: of the measures of `Evaluation`, their score, `retention`, the
      efficacy of the earlier half of the edits, `perplexity` as a multiple of that before, and
      `fluency`.
    """
    groups, columns = [], {name: [] for name in (*MEASURES, "retention")}
    for number, result in enumerate(results):
        earlier = len(result["facts"]) // 2
        for place, record in enumerate(result["facts"]):
            groups.append(number)
            for name in MEASURES:
                value = record[name]
                columns[name].append(np.nan if value is None else value)
            columns["retention"].append(record["efficacy"] if place < earlier else np.nan)
    values = {name: np.array(column, np.float64) for name, column in columns.items()}
    found = mean_intervals(values, combined=KINDS, groups=np.array(groups))
    whole = {
        "perplexity": np.array([one["perplexity"] / one["perplexity_before"] for one in results]),
        "fluency": np.array([one["fluency"] for one in results]),
    }
    return found | mean_intervals(whole)


_COLUMNS = (*KINDS, "score", "retention", "efficacy_accuracy", "fluency", "perplexity")


def markdown_table(results: Sequence[Mapping[str, Any]]) -> str:
    """All runs as a table, a line for each method and number of edits, in the order given."""
    lines: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for result in results:
        lines.setdefault((result["method"], result["num_edits"]), []).append(result)
    heads = ["method", "edits", "runs", *(name.replace("_", " ") for name in _COLUMNS)]
    rows = [heads, ["---", *(len(heads) - 1) * ["---:"]]]
    for (method, num_edits), runs in lines.items():
        found = summarize_runs(runs)
        cells = [_cell(found[name]) for name in _COLUMNS]
        rows.append([method, str(num_edits), str(len(runs)), *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "-"
    return f"{found['mean']:.2f} ({found['low']:.2f}-{found['high']:.2f})"
