"""What a running node can be asked: the face between the daemon and the control socket, the command line and HTTP.

The rule of the file: shapes and promises only. The daemon implements `NodeApi`; every error it raises is a kind of
`WeftError`. Structs go out as JSON with these field names, so that they are an interface of users as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Literal, Protocol

import msgspec

from node.memory import TensorMemory
from node.opinions import Peer, WhyPeer
from node.request import ChatMessage as ChatMessage
from node.request import GenerateRequest as GenerateRequest
from protocols.ids import ModelDigest, NetworkId, PeerId, SessionId

# Generation ----------------------------------------------------------------------------------------------------------


class Stage(msgspec.Struct, frozen=True):
    """One stop of a route: who computes which layers, as in "4-7"."""

    range: str
    peer: PeerId
    name: str


class Started(msgspec.Struct, frozen=True, tag_field="kind", tag="started"):
    """The first event: the route is known, and its stages are being opened."""

    session: SessionId
    model: ModelDigest
    route: tuple[Stage, ...]
    prompt_tokens: int


class LikelyToken(msgspec.Struct, frozen=True):
    """`logprob` is the model's own: of its raw logits, before penalties, temperature and filters. `bytes` may be a part of a
    character, and `text` has a replacement character then."""

    token: int
    text: str
    bytes: tuple[int, ...]
    logprob: float


class TokenLogprobs(LikelyToken, frozen=True):
    """Of the token at `position` of the answer's session; `likeliest` first."""

    position: int
    likeliest: tuple[LikelyToken, ...]


class Token(msgspec.Struct, frozen=True, tag_field="kind", tag="token"):
    """`text` is what may be shown now: empty while a character is incomplete or a stop string might begin.

    `logprobs`, if they were asked for, are those of the tokens that `text` settles: each token's come exactly once, when it is
    clear that it stands in the answer.
    """

    position: int
    token: int
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


class Rerouted(msgspec.Struct, frozen=True, tag_field="kind", tag="rerouted"):
    """A range moved from `lost` to `to`; generation went on after `pause_ms`.

    `continued`: `to` computes with another arithmetic, so that what was shown stands and what follows may differ from an
    unbroken run. `reason` says what the entry had to go by.
    """

    stage: int
    range: str
    lost: PeerId
    lost_name: str
    to: PeerId
    to_name: str
    pause_ms: float
    replayed_rows: int
    epoch: int
    continued: bool = False
    reason: str = ""


class Finished(msgspec.Struct, frozen=True, tag_field="kind", tag="finished"):
    """The last event. `text` is the whole answer, equal to the tokens' texts and `tail` put together.

    `tail` was held back because it might have become a stop string; `logprobs` are those of its tokens.
    """

    reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: float
    tokens_per_s: float
    text: str
    tail: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()


GenerateEvent = Started | Token | Rerouted | Finished


# Models and placement ------------------------------------------------------------------------------------------------


StandbyKind = Literal["mapped", "hot", "cold"]
"""How a standby is held: weights on disk, packed when it has to serve; loaded; or not at all, the node merely could."""


class HeldRange(msgspec.Struct, frozen=True):
    """A claim: `peer` holds and serves these layers. `kind` of a primary is always hot."""

    range: str
    peer: PeerId
    name: str
    standby: bool
    kind: StandbyKind = "hot"


class Model(msgspec.Struct, frozen=True):
    """A model that somebody in the mesh serves or this node keeps. `context` None: not known here."""

    name: str
    digest: ModelDigest
    layers: int
    context: int | None
    local: bool
    ready: bool
    ranges: tuple[HeldRange, ...]


class Goal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan is to be good at. `replicas` of every range, the primary included.

    interactive: the least time per token of one stream; throughput: most tokens per second of many; balanced: every node
    that can takes part. `standby`: auto is mapped where disk allows, else hot in memory that nobody needs, else cold.
    """

    strategy: Literal["interactive", "throughput", "balanced"] = "balanced"
    replicas: Annotated[int, msgspec.Meta(ge=1, le=4)] = 2
    standby: Literal["auto", "hot", "mapped", "cold", "none"] = "auto"


class PlannedStandby(msgspec.Struct, frozen=True):
    """`bytes_needed` of memory while it stands by, `promoted_bytes` once it serves.

    `pause_ms` is to be expected from the loss of the holder until it serves.
    """

    peer: PeerId
    name: str
    kind: StandbyKind
    bytes_needed: int
    promoted_bytes: int
    pause_ms: float
    reason: str


class PlannedRange(msgspec.Struct, frozen=True):
    """One token takes `hop_ms` to the holder, from the range before or the entry, and `compute_ms` there.

    `standby` is the first of the `standbys`, the one that takes over.
    """

    range: str
    holder: PeerId
    holder_name: str
    standby: PeerId | None
    standby_name: str | None
    bytes_needed: int = 0
    compute_ms: float = 0.0
    hop_ms: float = 0.0
    reason: str = ""
    standbys: tuple[PlannedStandby, ...] = ()


class RefusedNode(msgspec.Struct, frozen=True):
    """Why a node is to hold no range of its own."""

    peer: PeerId
    name: str
    reason: str


class Plan(msgspec.Struct, frozen=True):
    """Who is to hold what. `token_ms` is the predicted time of one token of one stream, `return_ms` its way back included.

    `tokens_per_s` is of many streams at once. `entry_serves_if_lost`: the node that made the plan has memory for any range.
    """

    model: str
    digest: ModelDigest
    layers: int
    ranges: tuple[PlannedRange, ...]
    token_ms: float
    return_ms: float = 0.0
    tokens_per_s: float = 0.0
    notes: tuple[str, ...] = ()
    refused: tuple[RefusedNode, ...] = ()
    entry_serves_if_lost: bool = False


class OfferProgress(msgspec.Struct, frozen=True, tag_field="kind", tag="progress"):
    """How far one node is with one range. `phase`: reading, fetching, loading, claimed."""

    peer: PeerId
    name: str
    range: str
    standby: bool
    phase: str
    done_bytes: int
    total_bytes: int


class Offered(msgspec.Struct, frozen=True, tag_field="kind", tag="offered"):
    """The last event: every range is claimed."""

    plan: Plan


OfferEvent = OfferProgress | Offered


class ReleasedRange(msgspec.Struct, frozen=True):
    """A range that was withdrawn. `trouble` is empty if its memory is free again."""

    range: str
    peer: PeerId
    name: str
    standby: bool
    trouble: str = ""


class Withdrawn(msgspec.Struct, frozen=True):
    """Nobody serves the model any more; no range at all if nobody did."""

    model: str
    digest: ModelDigest
    ranges: tuple[ReleasedRange, ...]


# The node ------------------------------------------------------------------------------------------------------------


class Member(msgspec.Struct, frozen=True):
    peer: PeerId
    name: str
    up: bool


class RevokedMember(msgspec.Struct, frozen=True):
    """Who is no member any more, and with it those whom it had sponsored, as far as they are known here."""

    peer: PeerId
    name: str
    below: tuple[Member, ...] = ()


class Shard(msgspec.Struct, frozen=True):
    """A range in this node's worker, or mapped. `sessions`: how many have a stage open on it, whatever node they entered at."""

    model: str
    digest: ModelDigest
    range: str
    standby: bool
    numerics: str
    numerics_class: str
    sessions: int = 0
    kind: StandbyKind = "hot"


class Worker(msgspec.Struct, frozen=True):
    """`state`: ready, or dead until the next one is up. `shortage`: why no more sessions are opened; empty while they are."""

    state: str
    pid: int | None
    free_bytes: int
    shortage: str = ""


class Connection(msgspec.Struct, frozen=True):
    """`security` is the protocol id that was negotiated."""

    peer: PeerId
    plane: Literal["control", "data"]
    security: str
    dialled: bool


class NodeStatus(msgspec.Struct, frozen=True):
    """The node itself; `node.lifecycle.Lifecycle` adds state, version, pid, uptime and the HTTP address."""

    peer: PeerId
    name: str
    network: NetworkId
    addresses: dict[str, tuple[str, ...]]  # by plane, "foreign", and "bootstrap" for others' mesh.bootstrap
    members: tuple[Member, ...]
    shards: tuple[Shard, ...]
    worker: Worker
    connections: tuple[Connection, ...]
    faults: dict[str, int] = {}  # how often what was refused or failed since the start: node/faults.py


class Session(msgspec.Struct, frozen=True):
    """A generation that entered at this node and is under way."""

    session: SessionId
    model: str
    route: tuple[Stage, ...]
    epoch: int
    prompt_tokens: int
    completion_tokens: int
    tokens_per_s: float
    age_s: float


class Pinged(msgspec.Struct, frozen=True):
    """A libp2p peer that is no member. `agent` is what it says it is, empty if it does not tell."""

    peer: PeerId
    agent: str
    rtts_ms: tuple[float, ...]


class NodeApi(Protocol):
    """A node that is up. Calls may run side by side; cancelling one leaves the others alone."""

    def status(self) -> NodeStatus: ...

    async def invite(self, uses: int, ttl_s: float) -> str:
        """One string that `uses` nodes can join with until `ttl_s` from now."""

    async def revoke(self, peer: str) -> RevokedMember:
        """End a membership, by name or id. Raises `NotFound`, and `Refused` if this node has no right to."""

    def models(self) -> tuple[Model, ...]: ...

    def offer(
        self,
        path_or_name: str,
        name: str | None = None,
        on: tuple[str, ...] = (),
        goal: Goal = Goal(),  # noqa: B008  (frozen)
    ) -> AbstractAsyncContextManager[AsyncIterator[OfferEvent]]:
        """Place a model on the mesh: progress, then `Offered`. `on`: only these members, by name or id; empty: all.

        `path_or_name` is an absolute path of a model folder or the name of the embedded model. Leaving the context early
        withdraws the offer and frees what was granted. Raises `UserError` for a bad folder, `Unavailable` if it fits nowhere.
        """

    async def plan(
        self,
        model: str,
        on: tuple[str, ...] = (),
        goal: Goal = Goal(),  # noqa: B008  (frozen)
    ) -> Plan:
        """Who would hold what if `model` were offered now; nothing is changed. Raises `NotFound`."""

    async def withdraw(self, model: str) -> Withdrawn:
        """Nobody takes new sessions on the model; its memory is free once those under way have ended, which is waited for
        a while. Idempotent. Raises `NotFound`."""

    def generate(self, request: GenerateRequest) -> AbstractAsyncContextManager[AsyncIterator[GenerateEvent]]:
        """`Started`, then `Token` and `Rerouted`, then `Finished`. Leaving the context early cancels on every hop.

        Raises `NotFound` for an unknown model, `UserError` for a prompt that does not fit, `Unavailable` when no route or
        standby is left; on entering or while iterating, and plainly, never in a group.
        """

    def sessions(self) -> tuple[Session, ...]: ...

    def memory(self) -> TensorMemory:
        """Of this node: what weights and sessions take of what there is."""

    def peers(self) -> tuple[Peer, ...]:
        """All members, this node first."""

    def why_peer(self, peer: str) -> WhyPeer:
        """By name or id. Raises `NotFound`, or `UserError` if it fits several."""

    async def ping(self, address: str, count: int) -> Pinged:
        """A foreign peer at a multiaddr that ends in its id. Raises `Refused` where foreign peers are not allowed,
        `UserError` for what is no such address, `RemoteFault` and `Unavailable`."""

    async def drain(self) -> None:
        """Take no more sessions, tell the peers, and return when those under way have ended. The caller sets the deadline."""
