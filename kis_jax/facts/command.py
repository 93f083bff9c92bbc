"""`kis facts`: what a file of facts is understood to say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kis_jax.cli import options


def facts(
    file: Annotated[
        str,
        typer.Argument(help="A file of facts in any layout (docs/facts.md), or a known name."),
    ],
    model: Annotated[
        str | None,
        typer.Argument(
            help="Show tokens as this model's tokenizer makes them: a local directory in "
            "HuggingFace layout, or a hub name."
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(help="Write the facts into this file, a JSON list in CounterFact's layout."),
    ] = None,
    show: Annotated[int, typer.Option(help="Show so many of the first facts.")] = 3,
    position: Annotated[
        Literal["subject_last", "last"] | None,
        typer.Option(
            help="With a model: the token whose key stands for a fact. [default: that of the "
            "settings for its family]"
        ),
    ] = None,
    recall: Annotated[
        bool,
        typer.Option(
            "--recall",
            help="Ask the model for what is true, and count the facts that it knows, by relation.",
        ),
    ] = False,
    strict: options.Strict = False,
) -> None:
    """Shows what a file of facts is understood to say, before anything is done with it.

    Tells the layout, counts what the facts have, and lists the records that cannot be read and
    why; facts that are told twice or contradict each other; and the first facts as a model is
    asked for them and as they are written into it.
    """
    from kis_jax.data.facts import facts_path, iter_facts
    from kis_jax.data.facts_writing import writing_facts
    from kis_jax.facts import console as facts_console
    from kis_jax.facts.overview import FactsOverview, as_written

    path = facts_path(file)
    if write is not None and path is not None and write.resolve() == path.resolve():
        raise ValueError(f"--write: expected another file than the one read, found {write}")
    if recall and model is None:
        raise ValueError("--recall: expected a model to ask, found none; name it after the facts")
    asked = None if model is None else facts_console.tokenizer_of(model)
    overview = FactsOverview()
    with facts_console.reading(path) as on_bytes, writing_facts(write) as keep:
        for entry in iter_facts(file, on_bytes=on_bytes):
            overview.add(entry)
            for fact in entry.facts:
                keep(fact)
        overview.check(file, strict=strict)
    facts_console.print_overview(file, overview)
    shown = overview.facts[: max(0, show)]
    if asked is None:
        facts_console.print_facts(shown)
    else:
        tokenizer, context_length, usual = asked
        written = as_written(
            [fact for fact in overview.facts if fact.target_new],
            tokenizer,
            context_length=context_length,
            position=position or usual,
        )
        facts_console.print_written(shown, list(written))
    if recall and model is not None:
        facts_console.print_recall(model, overview.facts)
    if write is not None:
        print(f"facts: {write}")
