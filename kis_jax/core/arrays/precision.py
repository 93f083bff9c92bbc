"""Where closed forms are computed, and with how many digits: a policy, said once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from kis_jax.core.editing.editor import Editor
from kis_jax.core.geometry.second_moment import SecondMoment, as_matrix
from kis_jax.core.geometry.spaces import Space
from kis_jax.core.geometry.whitening import Method, Whitener, live_whitener, whitener

Inverse = Literal["auto", "cholesky", "pseudo"]
"""How a C is inverted: for "auto" see `Precision.whitener`."""

# Rounding of float32 products leaves eigenvalues of some 1e-7 of the largest where C has none.
_PRODUCTS = 1e-6


@dataclasses.dataclass(frozen=True)
class Precision:
    """A policy: device, dtype, and the way in which second moments are factored.

    Attributes:
      dtype: of all floating-point arguments.
      on_host: whether the CPU computes, whatever accelerator there is.
      method: of `whitener`.

    Examples:
      >>> import numpy as np
      >>> HOST.run(lambda x: 1 / x, np.array([3.0])).dtype
      dtype('float64')
    """

    dtype: str
    on_host: bool
    method: Method

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within it, jax computes so."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.enable_x64(self.dtype == "float64"))
            if self.on_host:
                cpu = jax.local_devices(backend="cpu")[0]
                stack.enter_context(jax.default_device(cpu))
            yield

    def run(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Calls a function of arrays, NumPy's or jax's, so.

        Args:
          function: of the core.
          *arguments: pytrees, whose floating-point arrays come in the dtype of the policy.
          **named: likewise.

        Returns:
          What the function gives: a `Space` or an `Editor` as it is, for later calls; all other
          arrays as NumPy has them.
        """
        with self.active():
            given, options = jax.tree.map(self._given, (arguments, named), is_leaf=_is_state)
            found = function(*given, **options)
            return jax.tree.map(
                lambda leaf: leaf if _is_state(leaf) else jax.device_get(leaf),
                found,
                is_leaf=_is_state,
            )

    def whitener(
        self,
        second_moment: Float[ArrayLike, "d d"] | SecondMoment,
        *,
        ridge: float = 0.0,
        inverse: Inverse = "auto",
    ) -> Whitener:
        """Factors a second moment so; see `kis_jax.core.geometry.whitening.whitener`.

        Args:
          second_moment: C.
          ridge: added to its diagonal.
          inverse: "auto", neurons that never fired are dropped where there is no ridge, as
            `live_whitener` does, unless the method is "refined", and all else must be definite;
            "cholesky", all must be; "pseudo", the pseudo-inverse by eigenvalues, for any C: those
            up to a millionth of the largest are dropped, as C is summed up from float32 products.

        Raises:
          ValueError: as `kis_jax.core.geometry.whitening.whitener`, or if `inverse` is unknown.
        """
        if inverse not in get_args(Inverse):
            raise ValueError(f"inverse: expected one of {get_args(Inverse)}, found {inverse!r}")
        with self.active():
            if inverse == "pseudo":
                c = jax.tree.map(self._given, second_moment)
                return whitener(c, ridge=ridge, method="eigh", rcond=_PRODUCTS)
            refined = self.method == "refined"  # which reads all digits of what is given
            c = second_moment if refined else jax.tree.map(self._given, second_moment)
            if inverse == "auto" and ridge == 0 and not refined:
                return live_whitener(as_matrix(c))
            return whitener(c, ridge=ridge, method=self.method)

    def _given(self, leaf: Any) -> Any:
        if _is_state(leaf) or not hasattr(leaf, "dtype"):
            return leaf
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, self.dtype if real else None)


HOST = Precision("float64", on_host=True, method="cholesky")
"""float64 on the CPU: what the commands compute with."""

DEVICE = Precision("float32", on_host=False, method="cholesky")
"""float32 where the arrays are."""

REFINED = Precision("float32", on_host=False, method="refined")
"""float32 where the arrays are, products in twice its digits: for devices without float64."""


def _is_state(leaf: Any) -> bool:
    return isinstance(leaf, (Space, Editor))
