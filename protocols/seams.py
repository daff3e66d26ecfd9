"""Everything that is not deterministic, as typing.Protocols: clocks, randomness, network, disk, torch, local processes.

`node` binds the real ones, `simulations` the virtual ones, and the same contract tests run on both. Nothing else in weft
reads a clock, draws a random number, or touches a socket or file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import Struct

from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.membership import Contact
from protocols.placement import LayerRange, LayerShape
from protocols.session import Sampling
from protocols.streams import Plane, StreamKind
from protocols.tensor import Frame

# Clock and randomness ------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """`monotonic` is for durations and deadlines, `wall` for expiry dates and logs; both in seconds."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...


class Randomness(Protocol):
    """Unpredictable bytes in a real node, seeded ones in a simulated one."""

    def token_bytes(self, count: int) -> bytes: ...


# Network -------------------------------------------------------------------------------------------------------------


class Stream(Protocol):
    """Ordered bytes in both directions, with back-pressure: `send` waits while the peer's window is full.

    One task may send while another receives. After the peer closed, `receive` gives b""; after a reset or the loss of
    the connection, both raise `Disconnected`.
    """

    @property
    def peer(self) -> PeerId: ...
    async def send(self, data: bytes | bytearray | memoryview) -> None: ...
    def send_nowait(self, data: bytes | bytearray | memoryview) -> bool:
        """Take all of it without waiting, or nothing: True if it was taken and will be sent whole, as if `send` had returned.

        Not while a `send` is under way.
        """

    async def receive(self, max_bytes: int = 65_536) -> bytes: ...
    async def close(self) -> None:
        """Nothing more will be sent; what was sent arrives. Idempotent, never raises."""

    async def reset(self) -> None:
        """Give up both directions at once; the peer's next call raises `Disconnected`. Idempotent, never raises."""


StreamHandler = Callable[[Stream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class PeerUp:
    """The first connection to a member on that plane was made."""

    peer: PeerId
    plane: Plane


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The last connection on that plane has ended; its streams are reset."""

    peer: PeerId
    plane: Plane


PeerEvent = PeerUp | PeerDown


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """`security` is the protocol id that the connection negotiated; `dialled` on the side that dialled it, at `address` as
    the peer's contact names it, which is known once `connect` has returned.

    Strangers have connections and make no events.
    """

    peer: PeerId
    plane: Plane
    security: str
    dialled: bool
    is_member: bool = True
    address: str = ""


class Door(Protocol):
    """What this node shows of its membership in a handshake, and what it makes of what others show."""

    def show(self) -> bytes:
        """At most `SHOWN_BYTES_MAX`, for peers that have proved who they are; nothing if there is nothing to show."""

    def judge(self, peer: PeerId, shown: bytes) -> bool:
        """Whether `peer`, which showed that, is a member; False for a stranger that may come in and ask to become one.

        Raises `Unauthenticated` for whoever may not connect, in a sentence that the peer is told.
        """


class Network(Protocol):
    """The only way to other machines. Opening a stream to oneself reaches one's own handler."""

    @property
    def peer(self) -> PeerId: ...

    @property
    def static(self) -> bytes:
        """The X25519 public key that diallers must know; the one that it replaced is good as well."""

    @property
    def faults(self) -> Mapping[str, int]:
        """How often what peers set off has failed or was refused, by the name of the error."""

    def addresses(self, plane: Plane) -> tuple[str, ...]:
        """Where this node listens, as multiaddrs without the /p2p part."""

    def learn(self, contact: Contact) -> None:
        """Remember how to dial a peer; replaces what was known."""

    def guard(self, door: Door) -> None:
        """From now on `door` decides who may connect, about the connections that there are as well: whom it no longer lets
        in is disconnected. To be called again whenever its mind has changed. Before the first call nobody gets in."""

    def handle(self, kind: StreamKind, handler: StreamHandler) -> None:
        """Call `handler` with every inbound stream of that kind, each in its own task.

        The stream is reset when the handler raises and closed when it returns; `RemoteFault` and `Unavailable` are logged
        and counted, anything else is logged with its traceback; none of them harms the node.
        """

    async def connect(self, peer: PeerId, plane: Plane) -> None:
        """Make sure of a connection, dialling one address after another. Raises `Unavailable` or `Unauthenticated`."""

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections to a peer, such as a silent one."""

    async def open_stream(self, peer: PeerId, kind: StreamKind) -> Stream:
        """A new stream, connecting first if need be. Raises `Unavailable` or `Unauthenticated`."""

    def connections(self) -> Sequence[ConnectionInfo]: ...

    def events(self) -> AsyncIterator[PeerEvent]:
        """All changes from this call on; a reader that falls 1,024 behind is ended with `Overloaded`."""

    def run(self) -> AbstractAsyncContextManager[None]:
        """Listen and serve while the context is open; addresses are known inside it."""


# Foreign peers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ForeignPing:
    """What a foreign peer says it is, empty if it does not tell, and how long it took to answer each time."""

    peer: PeerId
    agent: str
    rtts_ms: tuple[float, ...]


class ForeignPeers(Protocol):
    """libp2p of other kinds, which is no member and speaks nothing of weft but an echo."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this node listens for them, as multiaddrs with its peer id."""

    @property
    def faults(self) -> Mapping[str, int]:
        """What they did wrong and what was refused them, by the name of the error."""

    async def ping(self, address: str, count: int) -> ForeignPing:
        """Ask the peer that the multiaddr `address` ends in. Raises `UserError` for what is no such address,
        `RemoteFault` for a peer that lies, and `Unavailable`."""


# Disk ----------------------------------------------------------------------------------------------------------------


class Disk(Protocol):
    """Files below one root, by relative path. Writes are atomic: a crash leaves the old file or the new one."""

    def read(self, path: str) -> bytes | None:
        """None if there is no such file. Raises `LocalFault`."""

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Temporary file, fsync, rename, fsync of the folder. Raises `LocalFault`."""

    def append(self, path: str, data: bytes) -> None: ...
    def delete(self, path: str) -> None: ...
    def list(self, path: str) -> Sequence[str]: ...


# The torch worker ----------------------------------------------------------------------------------------------------


class ShardId(Struct, frozen=True, array_like=True, cache_hash=True):
    """A range of a model in the worker of one node; `version` tells successive loads apart."""

    model: ModelDigest
    range: LayerRange
    version: int = 0


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A tensor called `name` in the safetensors file `path`, under the key `key` there.

    `content` names what it holds (`TensorEntry.content`), empty where nobody has hashed it.
    """

    name: str
    path: str
    key: str
    content: str = ""


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """All that is needed to load a shard: `config` is the model's config.json, `dtype` bf16, f32, int8 or int4, `numerics` fast or exact,
    `tokenizer` the path of its tokenizer.json, if it is here, which only grammars need."""

    shard: ShardId
    config: bytes
    tensors: tuple[TensorFile, ...]
    dtype: str
    numerics: str
    tokenizer: str = ""


@dataclass(frozen=True, slots=True)
class ShardLoaded:
    """`numerics_class` names the arithmetic that was found; `is_exact` whether the self-test of `exact` passed."""

    resident_bytes: int
    numerics_class: str
    is_exact: bool


NOBODY: Final = PeerId("")


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """The KV of one session at one stage: `rows_max` rows; rows from `prompt_rows` on attend row by row in `exact`.

    `peer` is the entry, whose quota it counts towards; `stages` is how many the session's rows run through in turn;
    `stop_ids` end the answer. `prefix` names the whole blocks of the prompt: rows that an earlier session of that peer left
    under such a name are taken over, and those that frames of `epoch` bring are left for later ones.
    """

    prompt_rows: int
    rows_max: int
    sampling: Sampling | None
    peer: PeerId = NOBODY
    stages: int = 1
    stop_ids: tuple[int, ...] = ()
    prefix: tuple[bytes, ...] = ()
    epoch: int = 0


CacheKey = tuple[ShardId, SessionId, int]
"""A cache in the worker: its shard, session and stage."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """`used_bytes` are those of the `reserved_bytes` that rows have been written to."""

    shard: ShardId
    session: SessionId
    stage: int
    reserved_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """`budget_bytes` is what the operator gave; `shards` are the bytes of the weights that are loaded. `prefix_bytes` are kept of
    sessions for later ones, and make way for whatever else is to be had. `device` tells whose memory it is: "cpu" the machine's."""

    budget_bytes: int
    shards: Mapping[ShardId, int]
    caches: tuple[CacheUse, ...]
    prefix_bytes: int = 0
    device: str = "cpu"

    @property
    def reserved_bytes(self) -> int:
        """Of all caches."""
        return sum(cache.reserved_bytes for cache in self.caches)

    @property
    def used_bytes(self) -> int:
        """Of all caches."""
        return sum(cache.used_bytes for cache in self.caches)


class StepResult(Struct, frozen=True):
    """`body`: output rows in the frame's dtype; `token` if the frame asked for a sample, and then `body` has its
    log-probabilities, as protocols/logprobs.py encodes them, if the session wants any."""

    body: bytes | bytearray | memoryview
    token: int | None
    step_ms: float
    step_rows: int = 1


class Stepping(Protocol):
    """A step that was asked for; whoever gives it up need not say so."""

    async def result(self) -> StepResult:
        """Once at most. Raises what `ShardWorker.step` raises."""


class ShardWorker(Protocol):
    """The torch process of this node, which holds any number of shards. Every call raises `WorkerDied` if it ends."""

    @property
    def pid(self) -> int | None:
        """None while there is no process."""

    async def measure_layer(self, shape: LayerShape) -> float:
        """One decode step of one layer of that shape, in ms."""

    def free_bytes(self) -> int:
        """Memory that may still be granted."""

    def memory(self) -> WorkerMemory:
        """What that is made of."""

    async def caches(self) -> tuple[CacheKey, ...]:
        """Those that the process really has, which may be more than anybody knows of."""

    async def limit_rows(self, rows: int | None) -> None:
        """At most that many rows in a turn from now on, or None as many as are worth it. A new process knows of no limit."""

    async def drop_prefixes(self) -> None:
        """Let go of all rows that are kept for later sessions."""

    def waiting(self) -> int:
        """Requests that wait for one before them."""

    async def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> ShardLoaded:
        """`on_progress(done_bytes, total_bytes)`. Raises `UserError` or `LocalFault` if the files are not what they should be."""

    async def unload(self, shard: ShardId) -> None: ...

    async def open_cache(self, shard: ShardId, session: SessionId, stage: int, spec: CacheSpec) -> int:
        """How many rows it has already, see `CacheSpec.prefix`. Raises `Overloaded` if the KV does not fit."""

    async def step(self, shard: ShardId, frame: Frame) -> StepResult:
        """Truncate the cache of (frame's session, frame's stage) to `truncate_to`, which must equal `position`, and
        compute the frame's rows. Raises `Malformed` if they do not follow on from the cache."""

    def start_step(self, shard: ShardId, frame: Frame, on_end: Callable[[], None] = lambda: None) -> Stepping:
        """As `step`, without waiting for the result; requests that follow come behind it. Raises `Unavailable`.

        `on_end` is called once, as soon as `result` would not wait any more, and must not wait or raise.
        """

    async def close_cache(self, shard: ShardId, session: SessionId, stage: int) -> None:
        """Idempotent."""

    def work(self, stages: Iterable[tuple[SessionId, int]]) -> int:
        """Layers computed so far for the caches of all these together; rises during a step."""

    async def wait_died(self) -> None:
        """Returns when the worker process has ended; a new one is up soon after, without shards."""


# Local processes and sockets -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seams:
    """What a daemon is given. `network` is made by the node from its configuration and identity."""

    clock: Clock
    randomness: Randomness
    network: Network
    disk: Disk
    worker: ShardWorker
