"""One step of fine-tuning on puzzles: gradients over parts of a batch, devices and precisions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from kis_jax.checkpoints.opening import path_name
from kis_jax.checkpoints.saving import parameters_of
from kis_jax.data.choices import ChoiceBatch
from kis_jax.models import Encoder, MultipleChoice

Parameters = dict[str, Array]
_MOST_NORM = 1.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How fast is learned, from the first step to the last.

    Attributes:
      learning_rate: after warm-up; from there it falls to 0 in a straight line.
      warmup: share of the steps in which it rises in one.
      weight_decay: of matrices, for each step, times the learning rate.
    """

    learning_rate: float
    warmup: float
    weight_decay: float

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """AdamW over so many steps, gradients cut at norm 1; for so many always the same object."""
        return _optimizer(self, steps)


@functools.cache  # so that what is compiled for it serves again
def _optimizer(schedule: Schedule, steps: int) -> optax.GradientTransformation:
    rising = round(schedule.warmup * steps)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, schedule.learning_rate, max(1, rising)),
            optax.linear_schedule(schedule.learning_rate, 0.0, max(1, steps - rising)),
        ],
        [rising],
    )
    adam = optax.adamw(rate, weight_decay=schedule.weight_decay, mask=_matrices)
    return optax.chain(optax.clip_by_global_norm(_MOST_NORM), adam)


class Learned(NamedTuple):
    """What a step turns into the next.

    Attributes:
      parameters: of the model, float32, by their paths.
      optimizer: its state.
    """

    parameters: Parameters
    optimizer: Any


class Trainee:
    """A model whose parameters are held apart from it, in float32, to be updated.

    With `dtype` bfloat16 the model is run in that, on copies of the parameters. Batches are spread
    over devices, each of which holds all parameters.

    Attributes:
      start: the parameters of the model that was given.
    """

    def __init__(
        self, model: MultipleChoice, *, dtype: DTypeLike, devices: Sequence[Any], parts: int
    ) -> None:
        """Takes a model apart.

        Args:
          model: in float32.
          dtype: of the computation, float32 or bfloat16.
          devices: of jax, that share each batch.
          parts: in which a batch is run, one after another, their gradients added up.
        """
        self._dtype, self._parts = jnp.dtype(dtype), parts
        self._graph, state = nnx.split(model)
        self._leaves = dict(nnx.to_flat_state(state))
        self._low = nnx.split(nnx.eval_shape(lambda: _of_dtype(model, self._dtype)))[0]
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._spread = NamedSharding(mesh, PartitionSpec(None, "data"))
        self._compiled: dict[optax.GradientTransformation, Any] = {}
        self.start: Parameters = parameters_of(model)

    def again(self, parameters: Parameters, optimizer: optax.GradientTransformation) -> Learned:
        """Copies of some parameters, with a fresh optimizer."""
        copies = {name: jnp.array(array) for name, array in parameters.items()}
        return jax.device_put(Learned(copies, optimizer.init(copies)), self._everywhere)

    def model(self, parameters: Mapping[str, Array]) -> MultipleChoice:
        """The model with these parameters, in float32."""
        return self._made(self._graph, parameters, jnp.float32)

    def running(self, parameters: Mapping[str, Array]) -> MultipleChoice:
        """The model with these parameters, in the dtype of the computation."""
        return self._made(self._low, parameters, self._dtype)

    def updating(
        self, optimizer: optax.GradientTransformation
    ) -> Callable[[Learned, ChoiceBatch], tuple[Learned, Array]]:
        """What makes of the learned and a batch the newly learned, and the mean loss before it.

        The former is used up. Rows of the batch are a multiple of the parts and the devices.
        """
        if optimizer not in self._compiled:
            self._compiled[optimizer] = self._compile(optimizer)
        compiled = self._compiled[optimizer]

        def update(learned: Learned, batch: ChoiceBatch) -> tuple[Learned, Array]:
            # Adam, and attention's gradient in bfloat16, mix dtypes by themselves, which a user may
            # have forbidden.
            with jax.numpy_dtype_promotion("standard"):
                return compiled(learned, self._parted(batch))

        return update

    def _compile(self, optimizer: optax.GradientTransformation) -> Any:
        def update(learned: Learned, arrays: dict[str, Array]) -> tuple[Learned, Array]:
            def add(sums: Any, part: dict[str, Array]) -> tuple[Any, None]:
                found = jax.value_and_grad(self._loss)(learned.parameters, part)
                return jax.tree.map(jnp.add, sums, found), None

            zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, learned.parameters)
            (loss, gradient), _ = jax.lax.scan(add, zero, arrays)
            count = jnp.sum(arrays["weights"])
            gradient = jax.tree.map(lambda sums: sums / count, gradient)
            changes, state = optimizer.update(gradient, learned.optimizer, learned.parameters)
            parameters: Any = optax.apply_updates(learned.parameters, changes)
            return Learned(parameters, state), loss / count

        return jax.jit(update, donate_argnums=0)

    def _parted(self, batch: ChoiceBatch) -> dict[str, Array]:
        """A batch with its parts along an axis in front, each spread over the devices."""
        arrays = dataclasses.asdict(batch)
        parted = {name: x.reshape(self._parts, -1, *x.shape[1:]) for name, x in arrays.items()}
        return jax.device_put(parted, self._spread)

    def _loss(self, parameters: Parameters, batch: dict[str, Array]) -> Array:
        """Cross-entropy of the right choices, summed over puzzles."""
        logits = self.running(parameters)(batch["tokens"], batch["mask"], batch["types"])
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["answers"])
        return jnp.sum(losses * batch["weights"])

    def _made(self, graph: Any, parameters: Mapping[str, Array], dtype: DTypeLike) -> Any:
        state = [
            (path, leaf.replace(parameters[path_name(path)].astype(dtype)))
            for path, leaf in self._leaves.items()
        ]
        return nnx.merge(graph, nnx.from_flat_state(state))


def _of_dtype(model: MultipleChoice, dtype: jnp.dtype) -> MultipleChoice:
    """A model of the same shape in another dtype."""
    rngs = nnx.Rngs(0)
    return MultipleChoice(Encoder(model.config, dtype=dtype, rngs=rngs), rngs=rngs)


def _matrices(parameters: Parameters) -> dict[str, bool]:
    """Which parameters decay: matrices and embeddings, not biases and norms."""
    return {name: name.rpartition(".")[2] in ("kernel", "embedding") for name in parameters}
