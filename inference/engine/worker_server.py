"""The request loop of the torch process: one request, one answer, nothing at the same time.

What a request breaks by being wrong is answered as `Failed` and harms nothing. What breaks by our own fault ends the
process with its traceback: the daemon sees the socket close, and starts another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol, assert_never

from inference.engine.worker_wire import (
    PREFIX,
    REQUESTS,
    Advanced,
    Answer,
    CacheOpened,
    CloseCache,
    Done,
    Failed,
    Loaded,
    LoadShard,
    Measured,
    MeasureLayer,
    OpenCache,
    Ready,
    Reply,
    Request,
    Step,
    Stepped,
    UnloadShard,
    encode,
    parse_prefix,
)
from protocols import limits
from protocols.errors import Unavailable, WeftError
from protocols.ids import SessionId
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardId, ShardLoaded, ShardSpec
from protocols.tensor import Frame

CacheKey = tuple[SessionId, int]
Body = bytes | bytearray | memoryview
JOINED_BYTES_MAX: Final = 64 * limits.KIB  # below this, one copy is cheaper than a second system call


class Engine(Protocol):
    """One loaded shard. Errors are those of `protocols.seams.ShardWorker`."""

    @property
    def loaded(self) -> ShardLoaded: ...
    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        """The bytes that are now reserved for it."""

    def close_cache(self, key: CacheKey) -> None: ...
    def close(self) -> None:
        """Give back the memory of the shard and its caches."""

    def step(self, key: CacheKey, frame: Frame, on_layer: Callable[[], None]) -> tuple[Body, int | None]:
        """`on_layer` after every layer of the shard."""


class Engines(Protocol):
    """Makes engines; the torch side of the process, or a fake."""

    def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> Engine: ...
    def measure_layer(self, shape: LayerShape) -> float: ...


class Connection:
    """Whole messages over a blocking socket."""

    def __init__(self, reader: BinaryIO, send_all: Callable[[Body], None]) -> None:
        self._reader = reader
        self._send_all = send_all

    def receive(self) -> tuple[Request, bytearray] | None:
        """None when the daemon has closed its end or is gone."""
        prefix = self._reader.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            return None
        header_bytes, body_bytes = parse_prefix(prefix)
        header, body = self._reader.read(header_bytes), bytearray(body_bytes)
        if len(header) < header_bytes or _fill(self._reader, body) < body_bytes:
            return None
        return REQUESTS.decode(header), body

    def send(self, reply: Reply, body: Body = b"") -> None:
        head = encode(reply, len(body))
        if len(body) <= JOINED_BYTES_MAX:
            self._send_all(head + bytes(body))
        else:
            self._send_all(head)
            self._send_all(body)


def _fill(reader: BinaryIO, body: bytearray) -> int:
    return reader.readinto(body) if body else 0  # type: ignore[attr-defined]


@dataclass(slots=True)
class _Held:
    engine: Engine
    caches: set[CacheKey] = field(default_factory=set)


class Server:
    """Shards and their caches, served until the connection ends."""

    def __init__(self, connection: Connection, engines: Engines, now: Callable[[], float]) -> None:
        self._connection = connection
        self._engines = engines
        self._now = now
        self._shards: dict[ShardId, _Held] = {}
        self._told_at = 0.0

    def run(self) -> None:
        self._connection.send(Ready())
        while (received := self._connection.receive()) is not None:
            request, body = received
            self._told_at = self._now()
            try:
                answer, out = self._answer(request, body)
            except WeftError as error:
                answer, out = Failed(type(error).__name__, str(error)), b""
            except MemoryError:
                answer, out = Failed("Overloaded", "the machine has no memory left for it"), b""
            self._connection.send(answer, out)

    def _answer(self, request: Request, body: bytearray) -> tuple[Answer, Body]:
        match request:
            case Step():
                return self._step(request, body)
            case LoadShard(spec):
                return self._load(spec), b""
            case UnloadShard(shard):
                self._unload(shard)
            case OpenCache(shard, session, stage, spec):
                return CacheOpened(self._open_cache(shard, (session, stage), spec)), b""
            case CloseCache(shard, session, stage):
                self._close_cache(shard, (session, stage))
            case MeasureLayer(shape):
                return Measured(self._engines.measure_layer(shape)), b""
            case _:
                assert_never(request)
        return Done(), b""

    def _load(self, spec: ShardSpec) -> Loaded:
        # The old one goes first, so that a second load of the same shard does not need twice the memory.
        self._unload(spec.shard)
        last_total = 0

        def tell(done: int, total: int) -> None:
            nonlocal last_total
            last_total = total
            self._tell(done, total)

        engine = self._engines.load(spec, tell)
        self._shards[spec.shard] = _Held(engine)
        self._connection.send(Advanced(last_total, last_total))
        return Loaded(engine.loaded)

    def _unload(self, shard: ShardId) -> None:
        held = self._shards.pop(shard, None)
        if held is not None:
            held.engine.close()

    def _step(self, request: Step, body: bytearray) -> tuple[Stepped, Body]:
        header = request.header
        held, key = self._held(request.shard), (header.session, header.stage)
        if key not in held.caches:
            raise Unavailable("the worker has no cache for that session and stage")
        layers, began = request.shard.range.layers, self._now()
        done = 0

        def on_layer() -> None:
            nonlocal done
            done += 1
            self._tell(done, layers)

        out, token = held.engine.step(key, Frame(header, request.tokens, body), on_layer)
        return Stepped(token, (self._now() - began) * 1000), out

    def _open_cache(self, shard: ShardId, key: CacheKey, spec: CacheSpec) -> int:
        held = self._held(shard)
        self._close_cache(shard, key)
        kv_bytes = held.engine.open_cache(key, spec)
        held.caches.add(key)
        return kv_bytes

    def _close_cache(self, shard: ShardId, key: CacheKey) -> None:
        held = self._shards.get(shard)
        if held is not None and key in held.caches:
            held.caches.remove(key)
            held.engine.close_cache(key)

    def _held(self, shard: ShardId) -> _Held:
        if shard not in self._shards:
            raise Unavailable(f"the worker does not hold layers {shard.range} of that model")
        return self._shards[shard]

    def _tell(self, done: int, total: int) -> None:
        now = self._now()
        if now - self._told_at >= limits.WORKER_PROGRESS_S:
            self._told_at = now
            self._connection.send(Advanced(done, total))
