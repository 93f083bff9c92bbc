"""`kis mcqa`: models that answer multiple-choice puzzles, trained and put to the test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kis_jax.cli.writing import WritesFolder

app = typer.Typer(
    help="Train models on multiple-choice puzzles, and see how well they, or decoders, answer them."
)

_FILES = "a .npy (BRAINTEASER as published), .json or .jsonl file, or factlm-train and its like"


@app.command(cls=WritesFolder)
def train(
    model: Annotated[
        str,
        typer.Argument(
            help="An encoder: a local directory in HuggingFace layout, a hub name, or scratch, a "
            "small one that has learned nothing."
        ),
    ] = "scratch",
    stage: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            help=f"Puzzles to learn from: {_FILES}; several joined by commas. Again for each "
            "further stage. [default: factlm-train]",
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="Puzzles to stop by. [default: a tenth of the groups of the last stage, which no "
            "stage then learns from; factlm-validation beside factlm-train]"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the model and the record.")] = Path(
        "kis-mcqa"
    ),
    epochs: Annotated[
        str | None,
        typer.Option(help="At most; of each stage, joined by commas. [default: 3; scratch: 40]"),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Puzzles an update.")] = 16,
    accumulate: Annotated[
        int, typer.Option(help="Parts in which a batch is run, one after another, to save memory.")
    ] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its peak. [default: 2e-5; scratch: 1e-3]")
    ] = None,
    warmup: Annotated[
        float,
        typer.Option(help="Share of a stage in which the rate rises; then it falls."),
    ] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = 0.01,
    drop_tokens: Annotated[
        float,
        typer.Option(help="Probability with which a token is hidden in learning."),
    ] = 0.0,
    patience: Annotated[
        int,
        typer.Option(help="End a stage after so many epochs without a better one; 0: never."),
    ] = 0,
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Of the computation; parameters and sums are float32."),
    ] = "float32",
    devices: Annotated[
        int | None, typer.Option(help="That share each batch. [default: all]")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of everything drawn at random.")
    ] = 0,
    random_answers: Annotated[
        bool,
        typer.Option(
            "--random-answers",
            help="Draw the right answers at random: a check that then nothing is learned.",
        ),
    ] = False,
) -> None:
    """Fine-tunes an encoder on puzzles, one stage after another.

    Writes model/, a directory in HuggingFace layout that torch's AutoModelForMultipleChoice reads,
    and training.json into the output folder; and progress/, from which the same command goes on,
    bit for bit, if it was interrupted.
    """
    from kis_jax.mcqa import console as mcqa_console
    from kis_jax.mcqa.inputs import TrainRequest, open_training, parse_epochs
    from kis_jax.mcqa.scratch import SCRATCH
    from kis_jax.mcqa.training import check_training_directory, train_into

    stages = tuple(stage or ("factlm-train",))
    if validation is None and stages[-1] == "factlm-train":
        validation = "factlm-validation"
    check_training_directory(out, model)
    inputs = open_training(
        TrainRequest(
            model,
            stages,
            validation=validation,
            epochs=parse_epochs(epochs or ("40" if model == SCRATCH else "3")),
            batch_size=batch_size,
            accumulate=accumulate,
            learning_rate=learning_rate,
            warmup=warmup,
            weight_decay=weight_decay,
            drop_tokens=drop_tokens,
            patience=patience,
            dtype=dtype,
            devices=devices,
            seed=seed,
            random_answers=random_answers,
        ),
        out / "start",
    )
    with mcqa_console.training_progress(inputs) as on_epoch:
        record = train_into(inputs, out, on_epoch=on_epoch)
    mcqa_console.print_training(record, out)


@app.command("eval", cls=WritesFolder)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A local directory in HuggingFace layout, or a hub name: an encoder that kis mcqa "
            "train, or torch, gave a head over choices; or a decoder, which needs none."
        ),
    ],
    puzzles: Annotated[
        str, typer.Option(help=f"Puzzles: {_FILES}; several joined by commas.")
    ] = "factlm-test",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("kis-mcqa-eval"),
    answers: Annotated[
        bool,
        typer.Option(
            "--answers/--no-answers", help="Whether the file has the right answers, or keeps them."
        ),
    ] = True,
    labels: Annotated[
        str | None,
        typer.Option(
            help="The right answers where they stand in a file of their own: a .npy or JSON list "
            "of places, or of pairs of a puzzle's id and a place."
        ),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="Of a decoder: what stands before a choice, {} for the question.")
    ] = "{}",
    prior_prompt: Annotated[
        str, typer.Option(help="Of a decoder: what stands before a choice if nothing is asked.")
    ] = "Answer:",
    seed: Annotated[int, typer.Option(help="Of the order in which choices are read.")] = 0,
) -> None:
    """Answers puzzles, and counts as BRAINTEASER does: by puzzle, and by group of variants.

    A decoder is judged by the likelihood of each choice after the question, the mean over its
    tokens; and by how much the question adds to it.

    Writes mcqa.json, predictions.txt (the place of the choice taken, a line a puzzle, as in the
    task's submissions), figures/ and report.html into the output folder.
    """
    from kis_jax.cli import console
    from kis_jax.mcqa import console as mcqa_console
    from kis_jax.mcqa.evaluation import EvalRequest, evaluate_choices, open_eval
    from kis_jax.mcqa.page import write_mcqa_report
    from kis_jax.mcqa.record import check_mcqa_directory, write_mcqa

    check_mcqa_directory(out)
    request = EvalRequest(model, puzzles, answers, prompt, prior_prompt, seed, labels)
    record = evaluate_choices(open_eval(request))
    write_mcqa(out, record)
    page = write_mcqa_report(out) if answers else None
    mcqa_console.print_evaluation(record)
    if page is not None:
        console.print_done(page)
    else:
        print(f"predictions: {out / 'predictions.txt'}")
