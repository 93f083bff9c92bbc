"""The page of a comparison: figures on disk and one self-contained HTML file."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

from kis_jax.compare import curves
from kis_jax.compare.figures import SIZES, figures
from kis_jax.compare.files import Comparison, Law, read_comparison
from kis_jax.report import document
from kis_jax.report.curves import SCRIPTS

MEASURES = {
    "kurtosis": "Kurtosis, facts",
    "kurtosis_distinct_subjects": "Kurtosis, each subject once",
    "kurtosis_other_tokens": "Kurtosis, other tokens",
    "kurtosis_random_directions": "Kurtosis, random directions",
    "kurtosis_width_alone": "Kurtosis, width alone",
    "bulk_std_times_sqrt_rank": "Bulk × √r, facts",
    "bulk_other_tokens": "Bulk × √r, other tokens",
    "tail_fraction": "Tail",
}


def write_compare_report(directory: Path) -> Path:
    """Draws a comparison, from `compare.json` alone.

    Everything is read and drawn before the first file is written, and each file appears under
    its name only when it is whole. The same record gives the same bytes.

    Args:
      directory: where `kis compare` wrote `compare.json`.

    Returns:
      The path of `compare.html`, beside `figures/*.png` and `figures/*.svg`.

    Raises:
      ValueError: when `compare.json` is missing or damaged.
    """
    directory = Path(directory)
    comparison = read_comparison(directory)
    pictures: dict[str, bytes] = {}
    for name, figure in figures(comparison).items():
        pictures |= document.encoded(name, figure)
    page = render(comparison, pictures)
    return document.write_document(directory, page, pictures, "compare.html")


def render(comparison: Comparison, pictures: dict[str, bytes]) -> str:
    """The page's HTML, one document that loads nothing."""
    runs = shlex.join(model.run for model in comparison.models)
    content = {
        "comparison": comparison,
        "measures": MEASURES,
        "sizes": SIZES,
        "verdicts": verdicts(comparison),
        "command": f"kis compare {runs} --depth {comparison.depth:g}",
    }
    data = curves.content(comparison)
    return document.render(
        "compare.html", pictures, {**content, "curves": data}, scripts=SCRIPTS, data=data
    )


def verdicts(comparison: Comparison) -> list[str]:
    """What the laws say, a sentence each: for the page, and for the terminal."""
    law = comparison.law("kurtosis", "key_dimension")
    if not math.isfinite(law.exponent):
        return ["No law: it needs two models of different key dimensions with positive kurtosis."]
    alone = comparison.law("kurtosis_width_alone", "key_dimension")
    others = comparison.law("kurtosis_other_tokens", "key_dimension")
    bulk = comparison.law("bulk_std_times_sqrt_rank", "key_dimension")
    said = [f"Kurtosis goes as the key dimension to the power {_power(law)}."]
    if not law.low > 0 and not law.high < 0:
        said.append("That shows no trend, so that nothing is said of what explains it.")
    elif math.isfinite(alone.exponent):
        said.append(
            "With the related pairs left as they are and the bulk narrowed as one over the root of "
            f"the dimension, the power would be {alone.exponent:.2f}: {_share(law, alone)}"
        )
    if math.isfinite(others.exponent):
        said.append(
            f"At other tokens of the same texts the power is {_power(others)}; as far as this is "
            "that of facts, the law is not one of knowledge."
        )
    if math.isfinite(bulk.exponent):
        said.append(
            "The bulk times the root of the rank, which can be compared across widths, goes with "
            f"the power {_power(bulk)}; 0 says that superposition in the bulk does not change."
        )
    if law.left_out:
        names = ", ".join(comparison.models[place].label for place in law.left_out)
        said.append(f"Left out, as their kurtosis is not positive: {names}.")
    return said


def _power(law: Law) -> str:
    if math.isfinite(law.low):
        return f"{law.exponent:.2f} (95 % interval {law.low:.2f} to {law.high:.2f})"
    return f"{law.exponent:.2f} (of {len(law.models)} models: no interval, which needs three)"


def _share(law: Law, alone: Law) -> str:
    """How much of a law the width explains."""
    if law.exponent <= 0:
        return "yet kurtosis does not grow, so that the width explains nothing of it."
    share = alone.exponent / law.exponent
    if share >= 1:
        return "more than the law itself, so that the width alone explains all of it."
    return f"{100 * max(share, 0):.0f} % of the exponent."
