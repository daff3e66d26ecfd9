"""A script: everything that a run does, spelled out, so that it can be run again, shrunk and kept.

A scenario and a seed give a script (`simulations.scenarios.drawing`); a script and its seed give the same run every time.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from simulations.scenarios.faults import Fault, NodeName, Positive, Seconds, Share

FORMAT: Final = 1
"""Of the files in which scripts are kept; raised whenever an old one would no longer mean the same."""

NodePattern = Annotated[str, Meta(pattern="^([a-z0-9-]{1,32}|zone:[a-z0-9-]{1,32}|\\*)$")]


class NodeSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One machine. A step takes `layer_ms` per layer and `row_ms` per layer and row, and `load_s` to load a range."""

    name: NodeName
    zone: str = ""
    layer_ms: Positive = 4.0
    row_ms: Positive = 0.02
    memory_mb: Annotated[int, Meta(ge=8, le=1 << 20)] = 1024
    skew_s: float = 0.0
    load_s: Positive = 0.1


class LinkSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Both directions between what two patterns name: a node, `zone:NAME`, or `*`. The last that fits a pair counts."""

    one: NodePattern = "*"
    two: NodePattern = "*"
    latency_ms: Seconds = 1.0
    jitter_ms: Seconds = 0.0
    bandwidth_mbit: Positive | None = None
    loss: Share = 0.0


class Request(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A generation that a client asks of a node; `cancel_after` tokens the client leaves."""

    at_s: Seconds
    entry: NodeName
    prompt: Annotated[str, Meta(min_length=1, max_length=4096)]
    tokens: Annotated[int, Meta(ge=1, le=4096)]
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    seed: Annotated[int, Meta(ge=0)] = 0
    cancel_after: Annotated[int, Meta(ge=1)] | None = None


class Expectations(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a scenario promises beyond the invariants; None promises nothing. Shares are of the requests of clients whose
    entry node was up all the while. A request that fails does so within `failed_max_s` of its last token, or of being asked.
    """

    finished_share: Annotated[float, Meta(ge=0, le=1)] | None = None
    failover_max_s: Positive | None = None
    detection_max_s: Positive | None = None
    false_deaths: Annotated[int, Meta(ge=0)] | None = None
    exact_text: bool = True
    failed_max_s: Positive | None = None


class Script(Struct, frozen=True, forbid_unknown_fields=True):
    """`settled_at_s`: from then on no new fault comes, the `core` is healed, and the bounds of liveness count.

    The model is offered to the nodes of `offer_on`; to all, if that names nobody.
    """

    scenario: str
    seed: Annotated[int, Meta(ge=0)]
    duration_s: Positive
    nodes: Annotated[tuple[NodeSpec, ...], Meta(min_length=1)]
    format: Literal[1] = FORMAT
    layers: Annotated[int, Meta(ge=1, le=256)] = 12
    links: tuple[LinkSpec, ...] = ()
    requests: tuple[Request, ...] = ()
    faults: tuple[Fault, ...] = ()
    settled_at_s: Seconds | None = None
    core: tuple[NodeName, ...] = ()
    expect: Expectations = Expectations()
    engine: Literal["arithmetic", "torch"] = "arithmetic"
    offer_on: tuple[NodeName, ...] = ()
    level: Literal["cluster", "world"] = "cluster"
