"""Errors of P and of a 1,000-edit kernel against float64, for worse and worse second moments.

    python -m benchmarks.accuracy

The field's procedure: C inverted in float32, edits made one after another in float32. Ours: the
float32 Cholesky factor, the refined one, and Cholesky in float64. All are given the same float32
numbers, and compared with float64 computations by another algorithm (eigenvectors of C; a loop of
edits) on these. Writes the table to docs/accuracy.md as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import report
from kis_jax.core.editing.edits import edit_sequential
from kis_jax.core.geometry.superposition import superposition
from kis_jax.core.geometry.whitening import Whitener, whitener

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"


class Problem:
    """Facts at a layer whose C, of unit diagonal, has a condition number of 10^log10_condition."""

    def __init__(self, log10_condition: int, *, d: int, n: int, m: int):
        """Draws C, facts that ordinary text could hold, and a kernel; computes the truth."""
        rng = np.random.default_rng(log10_condition)
        basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
        c = (basis * np.logspace(0, -log10_condition, d)) @ basis.T
        c /= np.sqrt(np.outer(np.diag(c), np.diag(c)))
        self.c = ((c + c.T) / 2).astype(np.float32)
        values, vectors = np.linalg.eigh(self.c.astype(np.float64))
        keys = (rng.normal(size=(n, d)) * np.sqrt(np.maximum(values, 0))) @ vectors.T
        self.keys = keys.astype(np.float32)
        self.kernel = rng.normal(size=(d, m)).astype(np.float32)
        self.values = rng.normal(size=(n, m)).astype(np.float32)
        self.directions = (self.keys.astype(np.float64) @ vectors / values) @ vectors.T
        self.condition = values[-1] / values[0]
        self.p, self.edited = self._p(), self._edited(np.float64, self.directions)

    def _p(self) -> np.ndarray:
        gram = self.directions @ self.keys.T.astype(np.float64)
        return gram / np.diag(gram)[:, None]

    def _edited(self, dtype: type, directions: np.ndarray) -> np.ndarray:
        """The kernel after rank-one edits one by one, in the arithmetic of `dtype`."""
        kernel = self.kernel.astype(dtype)
        keys, values = self.keys.astype(dtype), self.values.astype(dtype)
        for key, value, direction in zip(keys, values, directions.astype(dtype), strict=True):
            kernel += np.outer(direction / (key @ direction), value - key @ kernel)
        return kernel

    def field(self) -> tuple[float, float]:
        """Errors of the float32 inverse."""
        directions = self.keys @ np.linalg.inv(self.c)
        gram = directions @ self.keys.T
        p = gram / np.diag(gram)[:, None]
        return self._errors(p, self._edited(np.float32, directions))

    def ours(self, dtype: str, method: str) -> tuple[float, float]:
        """Errors of this library; infinite where it refuses the second moment."""
        with jax.enable_x64(dtype == "float64"):
            kernel, keys, values, c = (
                jnp.asarray(x, dtype) for x in (self.kernel, self.keys, self.values, self.c)
            )
            try:
                made: Whitener = whitener(c, method=method)  # pyright: ignore[reportArgumentType]
            except ValueError:
                return np.inf, np.inf
            edited = edit_sequential(kernel, keys, values, made).apply(kernel)
            return self._errors(np.asarray(superposition(keys, made)), np.asarray(edited))

    def _errors(self, p: np.ndarray, edited: np.ndarray) -> tuple[float, float]:
        norm: Callable[[np.ndarray], float] = lambda x: float(np.linalg.norm(x))  # noqa: E731
        moved = norm(self.edited - self.kernel)
        return norm(p - self.p) / norm(self.p), norm(edited - self.edited) / moved


def measure(conditions: range, *, d: int, n: int, m: int) -> list[dict[str, float]]:
    """A row for each condition number: relative errors, in the Frobenius norm."""
    rows = []
    for log10_condition in conditions:
        problem = Problem(log10_condition, d=d, n=n, m=m)
        ways = {
            "inverse, float32": problem.field(),
            "cholesky, float32": problem.ours("float32", "cholesky"),
            "refined, float32": problem.ours("float32", "refined"),
            "cholesky, float64": problem.ours("float64", "cholesky"),
        }
        row = {"condition": problem.condition}
        for part, name in enumerate(("P", "kernel")):
            row |= {f"{name}: {way}": errors[part] for way, errors in ways.items()}
        rows.append(row)
    return rows


def document(rows: list[dict[str, float]], *, d: int, n: int, m: int) -> str:
    """The page of the documentation."""
    ways = [name.removeprefix("P: ") for name in rows[0] if name.startswith("P: ")]

    def table(part: str) -> str:
        lines = [f"| condition of C | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
        for row in rows:
            errors = [row[f"{part}: {way}"] for way in ways]
            cells = [f"{e:.1e}" if np.isfinite(e) else "refused" for e in errors]
            lines.append(f"| {row['condition']:.1e} | {' | '.join(cells)} |")
        return "\n".join(lines)

    return f"""# Accuracy

Relative errors, in the Frobenius norm, against float64 by another algorithm: of P between {n:,}
facts, and of what {n:,} sequential edits add to a kernel. Keys of width {d:,}, values of width {m};
C has unit diagonal and the condition number named. *Inverse, float32* is what the field's programs
do: invert C, and edit one fact after another, in float32. The others are `kis.whitener` with the
method and dtype named, and `kis.edit_sequential`. All start from the same float32 numbers.

Regenerate with `python -m benchmarks.accuracy`; a smaller one is part of the tests.

## P

{table("P")}

## The kernel after {n:,} edits

{table("kernel")}

*Refined* needs no float64: see `kis_jax/core/arrays/factors.py`. *Refused* is an error that says
that C is singular to the precision asked for; the float32 inverse gives a result there, which is
wrong.
"""


def main() -> None:
    """Measures at the sizes of the documentation, and writes its page."""
    sizes = dict(d=1024, n=1000, m=64)
    rows = measure(range(2, 9), **sizes)
    report("accuracy", "Relative errors against float64", rows)
    DOCUMENT.write_text(document(rows, **sizes))


if __name__ == "__main__":
    main()
