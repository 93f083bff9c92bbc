"""Numbers, sentences and the command line as the page shows them."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from kis_jax.report.scan_files import Fact, Layer, Scan

# The settings that `kis scan` takes; others follow from them.
_OPTIONS = (
    "facts",
    "corpus",
    "num_facts",
    "num_documents",
    "layers",
    "position",
    "ridge",
    "inverse",
    "shrinkage",
    "dtype",
)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 2) -> str:
    """A number to read: grouped, with a real minus sign, a power of ten where it is large.

    Args:
      value: the number; None or not finite gives a dash.
      digits: decimals.

    Returns:
      The text.
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = power(value) if abs(value) >= 1e5 else f"{value:,.{digits}f}"
    # -0.00 is no number that anybody wants to read.
    return text.lstrip("-") if not text.strip("-0.,") else text.replace("-", "−")


def power(value: float) -> str:
    """A finite number as a power of ten: "2.7 × 10⁶"."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", "−")


def count(value: float | None) -> str:
    """A whole number with its thousands grouped; None gives a dash."""
    return "–" if value is None else f"{value:,}"


def between(values: Iterable[float], digits: int = 1) -> str:
    """The range of the finite values: "1.0", "1.0 to 2.0" or a dash."""
    finite = [value for value in values if math.isfinite(value)]
    ends = [number(end(finite), digits) for end in (min, max)] if finite else ["–"]
    return " to ".join(dict.fromkeys(ends))


def duplicates(facts: Sequence[Fact]) -> str:
    """How many facts repeat a subject."""
    repeated = [fact for fact in facts if fact.duplicate_of is not None]
    if not repeated:
        return f"All {len(facts)} subjects are distinct."
    verb = "repeats" if len(repeated) == 1 else "repeat"
    subjects = len({fact.subject for fact in repeated})
    spread = f" ({subjects} subjects in all)" if 1 < subjects < len(repeated) else ""
    counted = f"{len(repeated)} of the {len(facts)} facts {verb}"
    return f"{counted} the subject of an earlier fact{spread}."


def strongest(layers: Sequence[Layer], *, distinct: bool) -> tuple[Layer, int] | None:
    """Where the strongest pair is: its layer and its place in that layer's list.

    Args:
      layers: the layers of a scan.
      distinct: pass over pairs of one subject.

    Returns:
      The layer and the place, or None where no pair is left.
    """
    places = [
        (pair.superposition, layer, place)
        for layer in layers
        for place, pair in enumerate(layer.pairs)
        if math.isfinite(pair.superposition) and not (distinct and pair.same_subject)
    ]
    return max(places, key=lambda entry: entry[0])[1:] if places else None


def title(model: str) -> str:
    """A model's name for a heading: of an absolute path the last part alone."""
    path = PurePath(model)
    return path.name if path.is_absolute() and path.name else model


def setting(value: Any, comma: str = ", ") -> str:
    """A setting as text; a list is joined, None gives a dash."""
    if isinstance(value, list):
        return comma.join(str(part) for part in value)
    return "–" if value is None else str(value)


def command(scan: Scan) -> str:
    """The command that makes this scan again, built from its settings."""
    return command_line("scan", scan.model, scan.settings, _OPTIONS)


def command_line(name: str, model: str, settings: Mapping[str, Any], options: Sequence[str]) -> str:
    """A command of `kis` with those of its options that have a value in the settings.

    What was left to the command, "auto", has none.
    """
    words = ["kis", *name.split(), model]
    for option in options:
        value = settings.get(option)
        if value is True:
            words.append("--" + option.replace("_", "-"))
        elif value is not None and value is not False and value != "auto":
            words += ["--" + option.replace("_", "-"), setting(value, ",")]
    return shlex.join(words)
