"""Second moments, their factors, whitening and P, against torch, NumPy and SciPy.

    python -m benchmarks.whitening

At the shape of GPT-2 small, d = 3,072. Of symmetric products only one triangle counts as needed.
The field inverts C in float32, which is what its ratios compare with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import optional, report, row, seconds
from kis_jax.core.geometry.second_moment import SecondMoment
from kis_jax.core.geometry.superposition import superposition
from kis_jax.core.geometry.whitening import Method, whitener

D, TOKENS, FACTS = 3072, 8192, 1000


def second_moment_rows(keys: np.ndarray) -> list[dict[str, Any]]:
    """An update, as it is, and by the whole product rather than one triangle of blocks."""
    moment, ours = SecondMoment.zeros(D), jnp.asarray(keys)
    update = jax.jit(SecondMoment.update)
    whole = jax.jit(lambda total, keys: total + jnp.matmul(keys.T, keys, precision="highest"))
    total = np.zeros((D, D), np.float32)

    def in_numpy() -> None:
        np.add(total, keys.T @ keys, out=total)

    baseline = seconds(in_numpy, repeats=3)
    field = None
    if (torch := optional("torch")) is not None:
        theirs, sums = torch.tensor(keys), torch.zeros(D, D)
        field = seconds(lambda: sums.addmm_(theirs.T, theirs), repeats=3)
    shape, flops = f"{TOKENS:,} tokens x {D:,}", TOKENS * D * (D + 1)
    timed: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
        ("SecondMoment.update", update, (moment, ours)),
        ("the same, whole product", whole, (moment.total, ours)),
    ]
    return [
        row(
            name,
            shape,
            "float32",
            seconds(lambda: function(*arguments)),  # noqa: B023
            flops=flops,
            function=function,
            arguments=arguments,
            baseline=baseline,
            field=field,
        )
        for name, function, arguments in timed
    ]


def factor_rows(second_moment: np.ndarray) -> list[dict[str, Any]]:
    """The methods of `whitener`, with their checks."""
    linalg, torch = optional("scipy.linalg"), optional("torch")
    field = None
    if torch is not None:
        theirs = torch.tensor(second_moment.astype(np.float32))
        field = seconds(lambda: torch.linalg.inv(theirs), repeats=2)
    methods: list[tuple[Method, str, int]] = [
        ("cholesky", "float32", D),
        ("cholesky", "float64", D),
        ("refined", "float32", D),
        ("eigh", "float32", D // 3),
    ]
    rows = []
    for method, dtype, size in methods:
        with jax.enable_x64(dtype == "float64"):
            c = jnp.asarray(second_moment[:size, :size], dtype)
            baseline = None
            if linalg is not None:
                wide = second_moment[:size, :size].astype(
                    "float64" if method == "refined" else dtype
                )
                solver = linalg.eigh if method == "eigh" else linalg.cholesky
                baseline = seconds(lambda: solver(wide), repeats=2)  # noqa: B023
            rows.append(
                row(
                    f'whitener, "{method}"',
                    f"{size:,} x {size:,}",
                    dtype,
                    seconds(functools.partial(whitener, c, method=method), repeats=1),
                    flops=(9 if method == "eigh" else 1 / 3) * size**3,
                    baseline=baseline,
                    field=field if size == D else None,
                )
            )
    return rows


def superposition_rows(second_moment: np.ndarray, keys: np.ndarray) -> list[dict[str, Any]]:
    """P of some facts, C factored; the field's, by the inverse, two of its products a pair."""
    linalg: Any = optional("scipy.linalg")
    rows = []
    methods: list[Method] = ["cholesky", "refined"]
    for method in methods:
        whitening = whitener(jnp.asarray(second_moment, jnp.float32), method=method)
        for n in (128, FACTS):
            few, ours = keys[:n], jnp.asarray(keys[:n])
            factor = np.linalg.cholesky(second_moment).astype(np.float32)
            inverse = np.linalg.inv(second_moment.astype(np.float32))

            def in_scipy() -> np.ndarray:
                white = linalg.solve_triangular(factor, few.T, lower=True, check_finite=False)  # noqa: B023
                gram = white.T @ white
                return gram / np.diag(gram)[:, None]

            def pair_by_pair() -> float:
                direction = inverse @ few[0]  # noqa: B023
                return (direction @ few[1]) / (direction @ few[0])  # noqa: B023

            function = jax.jit(superposition)
            rows.append(
                row(
                    f'superposition, "{method}"',
                    f"{n:,} facts x {D:,}",
                    "float32",
                    seconds(lambda: function(ours, whitening), repeats=3),  # noqa: B023
                    flops=n * D**2 + n**2 * D,
                    function=function,
                    arguments=(ours, whitening),
                    baseline=seconds(in_scipy) if linalg else None,
                    field=[t * n**2 for t in seconds(pair_by_pair)],
                )
            )
    return rows


def main() -> None:
    """Measures all three and prints one table."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((TOKENS, D), np.float32)
    mixed = rng.standard_normal((D, D))
    second_moment = mixed @ mixed.T / D + 0.01 * np.eye(D)
    rows = [
        *second_moment_rows(keys),
        *factor_rows(second_moment),
        *superposition_rows(second_moment, keys),
    ]
    report("whitening", "Second moments, factors, whitening and P", rows)


if __name__ == "__main__":
    main()
