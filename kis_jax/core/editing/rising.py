"""LyapLock: the weight of ordinary text rises while its damage is over a budget."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kis_jax.core.arrays.products import inner
from kis_jax.core.arrays.pytrees import pytree
from kis_jax.core.editing.editor import Added, Editor
from kis_jax.core.editing.rules import Ridge, positive


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Rising:
    r"""LyapLock's virtual queue, from which the weight of ordinary text follows.

    $w_t = \lambda a Z_t$; after each block $Z \leftarrow \max(Z + a (L - \alpha L_0), Z_0)$ with
    $a = 1 / \sqrt{\alpha L_0}$, $Z_0 = \sqrt{\alpha L_0}$, L the damage to text that all edits do
    together and $L_0$ that after the first block. So $w = \lambda z$, $z = Z / Z_0$, at first 1.

    Attributes:
      weight: $\lambda$, `()`, the weight of the first block.
      budget: $\alpha$, `()`: how often the first block's damage may be done.
      first: $L_0$, `()`; 0 before the first block.
      queue: z, `()`.
    """

    weight: Array
    budget: Array
    first: Array
    queue: Array

    @classmethod
    def init(
        cls, weight: float | Float[Array, ""], budget: float | Float[Array, ""] = 60.0
    ) -> Rising:
        """Before the first block.

        Raises:
          ValueError: if weight or budget is not one positive number.
        """
        weight, budget = positive("weight", weight, None), positive("budget", budget, None)
        one = jnp.ones_like(weight * budget)
        return cls(weight * one, budget * one, 0 * one, one)

    @property
    def rule(self) -> Ridge:
        """Of the next block, and of all blocks before it once more."""
        return Ridge(self.weight * self.queue)

    def after(self, damage: Float[Array, ""]) -> Rising:
        """The queue after a block, when all edits together do so much damage to ordinary text."""
        first = jnp.where(self.first > 0, self.first, damage)
        allowed = self.budget * first
        over = (damage - allowed) / jnp.where(allowed > 0, allowed, 1)
        return dataclasses.replace(self, first=first, queue=jnp.maximum(self.queue + over, 1))


def rising_add(
    editor: Editor, rising: Rising, keys: Float[Array, "b d"], values: Float[Array, "b m"]
) -> tuple[Editor, Rising, Added]:
    r"""LyapLock: adds a block of edits, with a weight that rises while damage is over its budget.

    $D = S_t^{-1} [K^\top R + w_t C (W_0 - W) + K_p^\top (V_p - K_p W)]$ with
    $S_t = K^\top K + K_p^\top K_p + w_t C$: whatever the weights before were, the kernel after it
    is the ridge regression with $w_t$ over all facts so far. So the editor's earlier edits are
    solved for again, at the cost of one block of its capacity.

    Args:
      editor: with the rule that `rising` gave last, in the space of C.
      rising: after the block before.
      keys: `(b, d)`.
      values: asked for, `(b, m)`.

    Returns:
      Both after the block, `rising.rule` of the argument being the rule of the editor; and what
      became of each edit.

    Examples:
      >>> from kis_jax.core.geometry.whitening import whitener
      >>> rising = Rising.init(1.0)
      >>> editor = Editor.init(jnp.zeros((2, 1)), whitener(jnp.eye(2)), 8, rising.rule)
      >>> editor, rising, _ = rising_add(editor, rising, jnp.eye(2)[:1], jnp.ones((1, 1)))
      >>> editor.edit.delta[0].round(3), float(rising.queue)
      (Array([0.5], dtype=float32), 1.0)

    Reference: LyapLock, its released code; Neely 2010 on virtual queues.
    """
    rule = Ridge(rising.rule.weight.astype(editor.along.dtype))
    editor = dataclasses.replace(editor, rule=rule).drop(jnp.zeros(0, jnp.int32))  # all anew
    editor, added = editor.add(keys, values)
    return editor, rising.after(damage_of(editor).astype(rising.queue.dtype)), added


def damage_of(editor: Editor) -> Float[Array, ""]:
    r"""$\mathrm{tr}(\Delta^\top C \Delta)$ of all edits so far, in the space of C."""
    along, residuals = editor.along, editor.residuals
    return jnp.sum(inner(along, along) * inner(residuals, residuals))
