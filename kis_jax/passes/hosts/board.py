"""Where the hosts of a run leave word for one another: the key-value store of jax's coordinator."""

from __future__ import annotations

import dataclasses
from typing import Protocol

# jax has no public name for the store that its own hosts meet by; this is the one place that knows.
from jax._src.distributed import global_state


class Board(Protocol):
    """Words under names, seen by all hosts; process 0 keeps them."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Leaves a word under a name."""
        ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """All words under names that begin so."""
        ...


@dataclasses.dataclass(frozen=True)
class Seat:
    """This process's place at the board.

    Attributes:
      board: that all hosts see.
      index: of this process.
      count: of all.
    """

    board: Board
    index: int
    count: int


def seat() -> Seat | None:
    """The place of this process among those that it has joined; None if it is alone.

    Unlike `jax.process_index`, this starts no device: hosts that differ may still part.
    """
    client, state = global_state.client, global_state
    if client is None or state.num_processes == 1:
        return None
    return Seat(client, state.process_id, state.num_processes)
