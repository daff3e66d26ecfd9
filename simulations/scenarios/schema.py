"""What a scenario file may hold. The structs are the format: a key that is not here is refused, by its name."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from simulations.scenarios.draws import Draw, NodeNames, Range, Whole, WholePair
from simulations.scenarios.faults import Fault, NodeName, Positive, Seconds
from simulations.scenarios.script import Expectations, LinkSpec, Request

FORMAT: Final = 1
"""Of scenario files; raised whenever an old one would no longer mean the same."""

Portion = Annotated[float, Meta(ge=0, le=1)]
ZoneName = Annotated[str, Meta(pattern="^[a-z0-9-]{1,32}$")]


class Machine(Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of machine; a pair is a range that each node of the kind draws from. Units as in `NodeSpec`."""

    layer_ms: Range = 4.0
    row_ms: Range = 0.02
    memory_mb: Whole = 1024
    skew_s: Range = 0.0
    load_s: Range = 0.1


class Nodes(Struct, frozen=True, forbid_unknown_fields=True):
    """n0, n1 and so on. `zones` and `machines` are dealt out in turn."""

    count: Annotated[int, Meta(ge=2, le=1024)]
    zones: tuple[ZoneName, ...] = ()
    machines: Annotated[tuple[Machine, ...], Meta(min_length=1)] = (Machine(),)


class Workload(Struct, frozen=True, forbid_unknown_fields=True):
    """Clients that ask one thing after the other: `sessions` of them at a time, each with a pause of `pause_s` in between.

    A `repeated_share` of what a client asks is a chat that goes on: it begins with the prompt of the request before, and mostly
    enters where that did.

    They do not wait for a slow mesh: the next request comes when the one before would have ended on an idle one, so a
    mesh that can't keep up has ever more sessions. From `rest_s` before the end on nobody asks any more.
    """

    sessions: Annotated[int, Meta(ge=0, le=512)] = 2
    tokens: Whole = (30, 120)
    prompt_chars: Whole = (8, 120)
    pause_s: Range = (0.5, 2.0)
    sampled_share: Portion = 0.5
    cancelled_share: Portion = 0.1
    entries: NodeNames = ()
    rest_s: Seconds = 20.0
    repeated_share: Portion = 0.0


class Swarm(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything is drawn, within these bounds: see `simulations.scenarios.swarm`."""

    nodes: WholePair = (3, 9)
    kinds: WholePair = (1, 5)


class Scenario(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`settled_at_s`: from then on nothing new befalls the mesh, and the `core` (all nodes if it is empty) is healed."""

    format: int
    name: str = ""  # of the file
    summary: Annotated[str, Meta(min_length=1, max_length=200)]
    level: Literal["cluster", "world"] = "cluster"
    duration_s: Positive
    nodes: Nodes
    layers: Annotated[int, Meta(ge=1, le=256)] = 12
    engine: Literal["arithmetic", "torch"] = "arithmetic"
    links: tuple[LinkSpec, ...] = ()
    workload: Workload = Workload()
    requests: tuple[Request, ...] = ()
    faults: tuple[Fault, ...] = ()
    draws: tuple[Draw, ...] = ()
    swarm: Swarm | None = None
    settled_at_s: Seconds | None = None
    core: tuple[NodeName, ...] = ()
    expect: Expectations = Expectations()
