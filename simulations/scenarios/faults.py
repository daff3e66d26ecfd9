"""What can befall the nodes and links of a simulated mesh. Times are virtual seconds after the mesh is up; nodes are named."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, le=0.9)]
NodeName = Annotated[str, Meta(pattern="^[a-z0-9-]{1,32}$")]


class _Fault(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind"):
    at_s: Seconds


class Crash(_Fault, frozen=True, tag="crash"):
    """The process ends at once. `silent`: no connection is reset, as when the power fails. Restarts after `restart_s`, if ever.

    `disk`, after the restart: kept; lost; torn (the last append is cut short); rolled back to what it was `ROLLBACK_S` before.
    """

    node: NodeName
    restart_s: Positive | None = None
    silent: bool = False
    disk: Literal["kept", "lost", "torn", "rolled_back"] = "kept"


class Leave(_Fault, frozen=True, tag="leave"):
    """An orderly stop: sessions drain, the others are told. Restarts after `restart_s`, if ever."""

    node: NodeName
    restart_s: Positive | None = None


class Pause(_Fault, frozen=True, tag="pause"):
    """SIGSTOP for `for_s`: nothing of the process runs, its sockets stay open, and then everything is due at once."""

    node: NodeName
    for_s: Positive


class Stall(_Fault, frozen=True, tag="stall"):
    """The processor is elsewhere: a pause of `stall_s` every `every_s`, for `for_s`."""

    node: NodeName
    for_s: Positive
    stall_s: Positive
    every_s: Positive


class WorkerCrash(_Fault, frozen=True, tag="worker_crash"):
    node: NodeName


class WorkerHang(_Fault, frozen=True, tag="worker_hang"):
    node: NodeName
    for_s: Positive


class WorkerSlow(_Fault, frozen=True, tag="worker_slow"):
    """Every computation takes `factor` times as long."""

    node: NodeName
    for_s: Positive
    factor: Positive


class Partition(_Fault, frozen=True, tag="partition"):
    """Nothing gets from one group to another; who is in no group reaches everybody. `one_way`: only from the first group to
    the others nothing gets through."""

    groups: Annotated[tuple[tuple[NodeName, ...], ...], Meta(min_length=2)]
    for_s: Positive
    one_way: bool = False


class SlowLink(_Fault, frozen=True, tag="slow_link"):
    """Both directions between two nodes; `other` left out: between `node` and everybody."""

    node: NodeName
    for_s: Positive
    other: NodeName | None = None
    latency_ms: Seconds = 0.0
    jitter_ms: Seconds = 0.0
    bandwidth_mbit: Positive | None = None
    loss: Share = 0.0


class Reset(_Fault, frozen=True, tag="reset"):
    """Every connection between two nodes is reset; they may connect again at once."""

    node: NodeName
    other: NodeName


class ClockJump(_Fault, frozen=True, tag="clock_jump"):
    """The wall clock of a node jumps by `by_s` and drifts by `drift_ppm` from then on."""

    node: NodeName
    by_s: float = 0.0
    drift_ppm: Annotated[float, Meta(ge=-500, le=500)] = 0.0


class DiskFull(_Fault, frozen=True, tag="disk_full"):
    node: NodeName
    for_s: Positive


class DiskSlow(_Fault, frozen=True, tag="disk_slow"):
    """Every write blocks the node for `write_s`."""

    node: NodeName
    for_s: Positive
    write_s: Positive


class Lie(_Fault, frozen=True, tag="lie"):
    """A member that breaks the rules: wrong activations, frames of an older epoch sent again, a health digest that praises
    itself, or sent frames and answers that it withholds."""

    node: NodeName
    for_s: Positive
    about: Literal["activations", "epoch", "health", "withhold"]


class Upgrade(_Fault, frozen=True, tag="upgrade"):
    """The node drains, stops, and comes back `restart_s` later speaking minor version `minor`."""

    node: NodeName
    minor: Annotated[int, Meta(ge=0, le=99)]
    restart_s: Positive = 1.0


class Offer(_Fault, frozen=True, tag="offer"):
    """The operator of a node offers the model once more: to the nodes of `on`, or to all that are members. It waits for
    `patience_s`; what has not come about by then is withdrawn."""

    node: NodeName
    on: tuple[NodeName, ...] = ()
    patience_s: Positive = 60.0


Fault = (
    Crash
    | Leave
    | Pause
    | Stall
    | WorkerCrash
    | WorkerHang
    | WorkerSlow
    | Partition
    | SlowLink
    | Reset
    | ClockJump
    | DiskFull
    | DiskSlow
    | Lie
    | Upgrade
    | Offer
)
