"""What the commands say of the hosts that run them together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from kis_jax.passes.hosts.distributed import Place

# Compared by contents, once they are opened: a file may lie at another place on each host.
_BY_CONTENTS = {"model", "facts", "corpus"}
# Each host's own. Who met under two names of one coordinator has met.
_OWN = {"host", "coordinator", "distributed"}


def asked(context: typer.Context) -> dict[str, Any]:
    """What a command was asked, by its options as they are typed: the same on every host of a run.

    Left out are inputs, which `kis_jax.passes.inputs.ScanInputs.contents` compares, and what a host
    says of itself.
    """
    found: dict[str, Any] = {"command": context.command_path}
    for parameter in context.command.params:
        name = parameter.name
        if name in context.params and name not in _BY_CONTENTS | _OWN:
            option = max(parameter.opts, key=len) if parameter.opts else name
            value = context.params[name]
            found[option] = value if isinstance(value, bool | int | type(None)) else str(value)
    return found


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """A run on many devices.

    Attributes:
      place: among the hosts; None to use the devices of this machine alone.
      model_axis: devices that share one copy of the model; None for one.
      asked: the options of the command, which all hosts were given alike.
      seconds: that hosts wait for one another.
    """

    place: Place | None
    model_axis: int | None
    asked: Mapping[str, Any]
    seconds: float

    @contextlib.contextmanager
    def joined(self) -> Iterator[Mesh]:
        """Within it, this process is one of those that were all asked the same; gives the mesh.

        Raises:
          ValueError: on every host, if hosts differ, naming option, host and both values; or if
            they were also asked for what one device alone does.
        """
        from kis_jax.passes.hosts.agreement import agree, versions
        from kis_jax.passes.hosts.distributed import each, ends_with_the_others, join
        from kis_jax.passes.hosts.heartbeat import heard_by_the_others
        from kis_jax.passes.hosts.opening import mesh_of_all

        if self.place is not None:
            join(self.place, seconds=self.seconds)
        with ends_with_the_others(), heard_by_the_others():
            agree("request", lambda: {**self.asked, **versions()}, seconds=self.seconds)
            if self.asked.get("--stream"):
                raise ValueError(
                    "stream: is for one device; leave it out, or --model-axis and --distributed"
                )
            with contextlib.ExitStack() as stack:
                if self.place is not None:
                    folder = Path(self.asked["--out"])
                    each(lambda: _first_alone(stack, folder))
                yield mesh_of_all(1 if self.model_axis is None else self.model_axis)


def on_mesh(context: typer.Context) -> OnMesh | None:
    """How a command runs on many devices, if it was asked to or a launcher started it so.

    Raises:
      ValueError: if the hosts are numbered wrongly, or the launcher tells too little to join them.
    """
    from kis_jax.passes.hosts.distributed import Hosts, place_of

    given, seconds = context.params, context.params["wait_for_hosts"]
    if not 0 < seconds < math.inf:
        raise ValueError(f"--wait-for-hosts: expected seconds, more than 0, found {seconds}")
    if not 0 <= given["save_every"] < math.inf:
        raise ValueError(f"--save-every: expected seconds, 0 or more, found {given['save_every']}")
    hosts = Hosts(given["coordinator"], given["num_hosts"], given["host"])
    place = place_of(hosts, distributed=given["distributed"])
    if place is None and given["model_axis"] is None:
        return None
    return OnMesh(place, given["model_axis"], asked(context), seconds)


def _first_alone(stack: contextlib.ExitStack, folder: Path) -> None:
    """Process 0 takes the folder, for all hosts, as long as the stack lasts."""
    import jax

    from kis_jax.checkpoints.files import writing_alone

    if jax.process_index() == 0:
        stack.enter_context(writing_alone(folder))
