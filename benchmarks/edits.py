"""Edits in closed form, against loops and d x d solves, at the shapes of three models.

    python -m benchmarks.edits

Random kernels, keys and values, and a random triangular factor of C, which is given to everybody.
The baseline of `edit_sequential` is a loop in torch as one would write it with care: all
directions by one solve beforehand, the kernel updated in place; the field's, the same with a
product by the inverse of C and a new kernel for each edit. A loop is timed over so many edits that
it runs for two seconds, as its first hundred are slow, and its solve for 1,000 directions; shorter
and longer ones are extrapolated from these, so that for a few edits they look better than they are.
The field's `edit_batch` is MEMIT's float64 solve of d equations; its baseline, the n x n identity
in torch. Needed operations are the fewest known: of the two ways to account for earlier edits,
through P or through what they have written, the cheaper one.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import optional, report, row, seconds
from kis_jax.core.editing.edits import edit_batch, edit_constrained, edit_sequential
from kis_jax.core.geometry.whitening import CholeskyWhitener

SHAPES = {"GPT-2 small": (3072, 768), "Llama 3 8B": (14336, 4096), "GPT-J 6B": (16384, 4096)}
NUMBERS = (1, 10, 100, 1000, 10_000)
LEAST = 50  # edits of a loop that are timed, at least
WARM = 2.0  # seconds
WEIGHT = 15_000.0


class Layer(NamedTuple):
    """What an edit is given."""

    kernel: Any
    keys: Any
    values: Any
    factor: Any  # upper-triangular, factor.T @ factor is C


def layer(d: int, m: int, n: int) -> Layer:
    """A random one, in NumPy."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    factor = np.triu(draw(d, d)) / np.float32(2 * np.sqrt(d))
    np.fill_diagonal(factor, 1)
    return Layer(draw(d, m), draw(n, d), draw(n, m), factor)


def sequential_flops(n: int, d: int, m: int) -> float:
    """Whitening and directions by triangular solves, residuals before any edit, and the rest."""
    return 2 * n * d**2 + 2 * n * d * m + min(n**2 * (d + m), 4 * n * d * m)


class Loops(NamedTuple):
    """Seconds for an edit of loops in torch, and for a row of their solve beforehand."""

    careful: float
    solve: float
    field: float

    def baseline(self, n: int) -> list[float]:
        """All directions by one solve, then the kernel updated in place."""
        return [n * (self.careful + self.solve)]

    def of_the_field(self, n: int) -> list[float]:
        """With the inverse of C given: for each edit a product with it, and a new kernel."""
        return [n * self.field]


def torch_loops(torch: Any, given: Layer) -> Loops:
    """Loops over a sample of edits, and a solve for all directions of some."""
    kernel, keys, values, factor = (torch.tensor(np.asarray(x)) for x in given)
    many = min(len(keys), 1000)
    solve = min(seconds(lambda: torch.cholesky_solve(keys[:many].T, factor, upper=True), repeats=1))
    # As directions of all edits a thousand will do, over and over: what they hold changes no time.
    directions = torch.cholesky_solve(keys[:many].T, factor, upper=True).T
    alongs = directions / (directions * keys[:many]).sum(1, keepdim=True)
    inverse = torch.cholesky_inverse(factor, upper=True)
    edited = kernel.clone()

    def careful(count: int) -> None:
        edits = zip(keys[:count], values, itertools.cycle(alongs), strict=False)
        for key, value, along in edits:
            edited.addr_(along, value - key @ edited)

    def field(count: int) -> None:
        new = kernel
        for key, value in zip(keys[:count], values, strict=False):
            direction = inverse @ key
            new = new + torch.outer(direction, (value - key @ new) / (key @ direction))

    return Loops(_an_edit(careful, len(keys)), solve / many, _an_edit(field, len(keys)))


def _an_edit(loop: Callable[[int], None], most: int) -> float:
    """Seconds for an edit of a loop over so many that it is warm."""
    count = min(LEAST, most)
    while True:
        start = time.perf_counter()
        loop(count)
        duration = time.perf_counter() - start
        if duration >= WARM or count == most:
            return duration / count
        count = min(2 * count, most)


def sequential_rows(name: str) -> list[dict[str, Any]]:
    """Sequential edits at one model's shape."""
    d, m = SHAPES[name]
    given = layer(d, m, max(NUMBERS))
    kernel, keys, values, factor = map(jnp.asarray, given)
    whitener = CholeskyWhitener(jnp.ones(d), factor)
    torch = optional("torch")
    loops = None if torch is None else torch_loops(torch, given)
    rows = []
    for n in NUMBERS:
        edit = jax.jit(edit_sequential)
        arguments = (kernel, keys[:n], values[:n], whitener)
        repeats = 1 if n * d > 10**8 else 5
        durations = seconds(lambda: edit(*arguments), repeats=repeats)  # noqa: B023
        rows.append(
            row(
                "edit_sequential",
                f"{name}: n={n:,}, d={d:,}, m={m:,}",
                "float32",
                durations,
                flops=sequential_flops(n, d, m),
                # A few edits read the kernel, and the factor twice, half of it each time.
                moved=4 * (d * m + d * d + 4 * n * (d + m)),
                function=edit,
                arguments=arguments,
                baseline=loops and loops.baseline(n),
                field=loops and loops.of_the_field(n),
            )
        )
    return rows


def batch_rows(name: str, n: int) -> list[dict[str, Any]]:
    """Batch and constrained edits at one model's shape."""
    d, m = SHAPES[name]
    given = layer(d, m, n)
    kernel, keys, values, factor = map(jnp.asarray, given)
    whitener = CholeskyWhitener(jnp.ones(d), factor)
    batch = jax.jit(functools.partial(edit_batch, weight=WEIGHT))
    constrained = jax.jit(edit_constrained)
    arguments = (kernel, keys, values, whitener)
    solves, theirs = None, None
    if (torch := optional("torch")) is not None:
        w, k, v, upper = (torch.tensor(np.asarray(x)) for x in given)

        def of_n_equations() -> Any:
            directions = torch.cholesky_solve(k.T, upper, upper=True).T
            gram = k @ directions.T + WEIGHT * torch.eye(n)
            return directions, torch.linalg.solve(gram, v - k @ w)

        theirs = seconds(of_n_equations, repeats=2)
        second_moment = (upper.T @ upper).double()

        def of_d_equations() -> Any:
            wide = k.double()
            system = WEIGHT * second_moment + wide.T @ wide
            return torch.linalg.solve(system, wide.T) @ (v - k @ w).double()

        solves = seconds(of_d_equations, repeats=1)
    needed = 2 * n * d**2 + 2 * n * d * m + n**2 * d + n**3 / 3
    shape = f"{name}: n={n:,}, d={d:,}, m={m:,}"
    return [
        row(
            "edit_batch",
            shape,
            "float32",
            seconds(lambda: batch(*arguments), repeats=3),
            flops=needed + 2 * n**2 * m,
            function=batch,
            arguments=arguments,
            baseline=theirs,
            field=solves,
        ),
        row(
            "edit_constrained",
            shape,
            "float32",
            seconds(lambda: constrained(*arguments), repeats=3),
            flops=needed + n**2 * (d + m),
            function=constrained,
            arguments=arguments,
            baseline=theirs,
        ),
    ]


def main() -> None:
    """Measures all shapes and prints one table."""
    rows = [line for name in SHAPES for line in sequential_rows(name)]
    rows += batch_rows("GPT-2 small", 1000)
    rows += batch_rows("Llama 3 8B", 1000)
    report("edits", "Edits in closed form", rows)


if __name__ == "__main__":
    main()
