"""The public functions of the core, and arguments for each, to be walked over by tests."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np

import kis_jax.core as kc

SHAPED = re.compile(r"\w+\[(?:Array|ArrayLike), '([^']*)'\]")  # as annotations are kept


def public():
    """The functions and methods behind all public names."""
    found = {}
    for name in kc.__all__:
        thing = getattr(kc, name)
        if inspect.isclass(thing):
            for part, method in vars(thing).items():
                method = getattr(method, "__func__", getattr(method, "fget", method))
                ours = getattr(method, "__module__", "").startswith("kis_jax.core")
                if inspect.isfunction(method) and ours and not part.startswith("_"):
                    found[f"{name}.{part}"] = method
        elif callable(thing):
            found[name] = inspect.unwrap(thing)
    return found


def is_called(name, function):
    """Whether it has arrays to be checked; those of `blocked` lie on a mesh, see test_sharded."""
    abstract = getattr(function, "__isabstractmethod__", False)
    shapes = any(SHAPED.search(text) for text in function.__annotations__.values())
    return shapes and not abstract and not name.lower().startswith("blocked")


PUBLIC = public()

# No two sizes alike: facts, others, width of keys and of values.
N, Q, D, M = 3, 2, 8, 5
DRAWN = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
KEYS, OTHERS, KEY = (jnp.asarray(rows) for rows in (DRAWN, DRAWN[:Q], DRAWN[0]))
VALUES, VALUE = jnp.ones((N, M)), jnp.ones(M)
KERNEL, C, P = jnp.zeros((D, M)), jnp.eye(D), jnp.asarray(DRAWN @ DRAWN.T)
PART, FLAGS, ONE, RNG = jnp.arange(Q), jnp.ones(N, bool), jnp.ones(()), jax.random.key(0)
FREE = kc.NullSpace(C)
SPACE = kc.CholeskyWhitener(KEY**2, jnp.triu(jnp.asarray(DRAWN[1:2].T * DRAWN[:1]) / 8) + C)
CHOLESKY, ASKED = SPACE, kc.Asked(KEYS, KEYS, VALUES)
EARLIER, BLOCK = kc.Earlier(jnp.eye(Q, D), jnp.ones(Q)), (KEYS, KEYS)
EDIT, SAMPLE = kc.Edit(KEYS, VALUES, VALUES), kc.Moments(*[jnp.abs(KEY) + 1] * 5)
EDITOR = kc.Editor(
    KERNEL,
    SPACE,
    kc.Sequential(),
    KEYS,
    KEYS[:, 0],
    KEYS,
    KEYS[:, 0],
    VALUES,
    VALUES,
    jnp.asarray(Q),
)
SUMMARY = kc.Summary(kc.Moments(*[ONE] * 5), PART, KEY, PART[0], PART[None], KEY)
MOMENT = kc.SecondMoment(C, jnp.asarray(9))
SPACES = {
    "Identity": kc.Identity(D),
    "NullSpace": FREE,
    "Restricted": kc.Restricted(SPACE, FREE),
    "CholeskyWhitener": CHOLESKY,
    "RefinedWhitener": kc.RefinedWhitener(KEY**2, C, C),
    "PseudoInverse": kc.PseudoInverse(C),
}
RULES = {"Sequential": kc.Sequential(), "Constrained": kc.Constrained(ONE), "Ridge": kc.Ridge(ONE)}

# Arguments of each, in the order of the signature.
LIVE = kc.LiveWhitener(CHOLESKY.scale, CHOLESKY.factor)
CASES = {
    "gram": (KEYS, SPACE),
    "superposition": (KEYS, SPACE, OTHERS),
    "cosine_similarity": (KEYS, None),
    "angles": (KEYS, None),
    "off_diagonal_moments": (P,),
    "summarize": (KEYS, SPACE, 2, jnp.sort(KEY), 1, jnp.arange(N), FLAGS),
    "Summary.tail_index": (SUMMARY,),
    "Summary.effective_pairs": (SUMMARY,),
    "edit_rank_one": (KERNEL, KEY, VALUE, SPACE),
    "edit_sequential": (KERNEL, KEYS, VALUES, SPACE),
    "edit_constrained": (KERNEL, KEYS, VALUES, SPACE, 1e-5),
    "edit_batch": (KERNEL, KEYS, VALUES, SPACE, ONE, OTHERS),
    "edit_null_space": (KERNEL, KEYS, VALUES, C, 1.0, OTHERS),
    "Editor.init": (kc.Editor, KERNEL, SPACE, N),
    "Editor.add": (EDITOR, KEY, VALUE),
    "Editor.undo": (EDITOR, PART[0]),
    "Editor.take": (EDITOR, PART),
    "Editor.drop": (EDITOR, FLAGS),
    "Editor.requested": (EDITOR,),
    "Rule.gain": (kc.Sequential(), KEY),
    "Ridge.before": (RULES["Ridge"], *BLOCK, EARLIER),
    "Ridge.gain": (RULES["Ridge"], KEY),
    "ridge": (0.0, ONE),
    "Asked.take": (ASKED, PART),
    "Asked.superposition": (ASKED,),
    "Asked.requested": (ASKED,),
    "replay": (ASKED, "batch", ONE),
    "foresee": (P, VALUES[:Q], "batch", 1.0),
    "independent": (ASKED, 0.1),
    "interference": (EDIT, OTHERS),
    "interference_on_edited": (EDIT, KEYS),
    "forecast": (P, VALUES, KEYS),
    "Edit.delta": (EDIT,),
    "Edit.requested": (EDIT,),
    "Edit.apply": (EDIT, KERNEL),
    "reorder": (EDIT, KEYS, PART),
    "whitener": (C, ONE),
    "Whitener.condition": (CHOLESKY,),
    "Whitener.rank": (CHOLESKY,),
    "Space.whiten": (SPACE, KEYS),
    "Space.solve": (SPACE, KEYS),
    "PseudoInverse.condition": (SPACES["PseudoInverse"],),
    "null_space": (C * jnp.linspace(1e-3, 3, D),),
    "SecondMoment.update": (MOMENT, KEYS, FLAGS),
    "SecondMoment.mean": (MOMENT,),
    "moments": (KEYS, 0, FLAGS[:, None]),
    "Moments.variance": (SAMPLE,),
    "Moments.skewness": (SAMPLE,),
    "Moments.kurtosis": (SAMPLE,),
    "Moments.moved": (SAMPLE, KEY),
    "kurtosis_interval": (RNG, P, 4),
    "kurtosis_convergence": (RNG, P, (N,), 4),
    "bulk": (P, D, P > 0),
    "kurtosis_at_rank": (P, D, VALUE),
    "isotropic_superposition": (RNG, KEY, D),
    "tail_index": (KEYS, 2),
    "gaussian_density": (KEYS, VALUE, FLAGS[:, None]),
    "effective_rank": (C,),
    "inverse_residual": (C, SPACE),
    "shrink": (MOMENT, 9),
    "fit_power_law": (KEY**2, KEY[::-1] ** 2),
    "solve_iteratively": (lambda rows: rows, KEYS, KEY**2),
    "Precision.whitener": (kc.DEVICE, C),
    "live_whitener": (C,),
    "LiveWhitener.second_moment": (LIVE, KEY),
    "LiveWhitener.rank": (LIVE,),
}
for of, rule in RULES.items():
    CASES[f"{of}.left"] = (rule, *BLOCK, EARLIER)
for of, space in SPACES.items():
    CASES |= {f"{of}.coordinates": (space, KEYS), f"{of}.directions": (space, KEYS)}
    if f"{of}.second_moment" in PUBLIC:
        CASES[f"{of}.second_moment"] = (space, KEY)
    if f"{of}.rank" in PUBLIC:
        CASES[f"{of}.rank"] = (space,)
