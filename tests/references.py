"""Slow float64 NumPy by another algorithm: loops, explicit inverses, definitions."""

import numpy as np

# Relative tolerances, one for each dtype.
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}


def second_moment(keys):
    """Mean outer product, key by key."""
    total = np.zeros((keys.shape[-1], keys.shape[-1]))
    flat = keys.reshape(-1, keys.shape[-1]).astype(np.float64)
    for key in flat:
        total += np.outer(key, key)
    return total / len(flat)


def superposition(keys, c, others=None, ridge=0.0):
    """P entry by entry, through the inverse of C."""
    others = keys if others is None else others
    inverse = np.linalg.inv(np.asarray(c, np.float64) + ridge * np.eye(len(c)))
    p = np.zeros((len(keys), len(others)))
    for i, edit in enumerate(keys.astype(np.float64)):
        for j, touched in enumerate(others.astype(np.float64)):
            p[i, j] = edit @ inverse @ touched / (edit @ inverse @ edit)
    return p


def cosine(keys, c=None):
    """Cosines pair by pair; with C in whitening space, through its symmetric inverse root."""
    keys = keys.astype(np.float64)
    if c is not None:
        eigenvalues, vectors = np.linalg.eigh(np.asarray(c, np.float64))
        keys = keys @ (vectors / np.sqrt(eigenvalues)) @ vectors.T
    n = len(keys)
    return np.array(
        [
            [
                keys[i] @ keys[j] / np.sqrt((keys[i] @ keys[i]) * (keys[j] @ keys[j]))
                for j in range(n)
            ]
            for i in range(n)
        ]
    )


def off_diagonal(matrix):
    """The entries off the diagonal, in a row."""
    return np.array(
        [matrix[i, j] for i in range(len(matrix)) for j in range(len(matrix)) if i != j]
    )


def spd(rng, d, log10_condition=3.0):
    """A random symmetric positive definite matrix with the given condition number."""
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (basis * np.logspace(0, -log10_condition, d)) @ basis.T


def sequential_edits(kernel, keys, values, c):
    """The paper's lifelong edit as a loop: the kernel after 0, 1, ... n rank-one edits."""
    inverse = np.linalg.inv(np.asarray(c, np.float64))
    kernels = [np.array(kernel, np.float64)]
    for key, value in zip(keys.astype(np.float64), values.astype(np.float64), strict=True):
        direction = inverse @ key
        residual = value - key @ kernels[-1]
        kernels.append(kernels[-1] + np.outer(direction, residual) / (key @ direction))
    return kernels


def batch_edit(kernel, keys, values, penalty, previous=None):
    """Least squares |K W - V|^2 + tr (W - W0)' A (W - W0), by a d x d solve; earlier keys stay."""
    matrix = penalty + keys.T @ keys
    if previous is not None:
        matrix = matrix + previous.T @ previous
    return kernel + np.linalg.solve(matrix, keys.T @ (values - keys @ kernel))


def constrained_edit(kernel, keys, values, c):
    """Least tr (W - W0)' C (W - W0) with K W = V, by the system of Lagrange's multipliers."""
    d, n = len(c), len(keys)
    system = np.block([[c, keys.T], [keys, np.zeros((n, n))]])
    right = np.concatenate([np.zeros((d, kernel.shape[1])), values - keys @ kernel])
    return kernel + np.linalg.solve(system, right)[:d]
