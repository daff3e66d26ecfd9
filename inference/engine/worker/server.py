"""What the torch process does with requests: steps wait for their turns, all else is done at once.

    receive --> take: a step joins the queue; anything else is answered, and what it closes drops the steps that wait there
       ^          |  nothing more has arrived
       '------ compute: one turn of the queue (inference/engine/batching/batch.py)

What a request breaks by being wrong is answered as `Failed` and harms nothing. What breaks by our own fault ends the
process with its traceback: the daemon sees the socket close, and starts another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol, assert_never

from inference.engine.batching.batch import StepQueue
from inference.engine.batching.cost_curve import BatchRows
from inference.engine.batching.gaps import Gaps
from inference.engine.batching.waiting import Body as Body
from inference.engine.batching.waiting import StepKey, WaitingStep
from inference.engine.worker.socket import Connection
from inference.engine.worker.wire import (
    READY_ON_HOST,
    Advanced,
    Answer,
    CacheOpened,
    CachesListed,
    CloseCache,
    Done,
    DropPrefixes,
    Failed,
    Kept,
    LimitRows,
    ListCaches,
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
    Worked,
)
from protocols import limits
from protocols.errors import Unavailable, WeftError
from protocols.ids import SessionId
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardId, ShardLoaded, ShardSpec
from protocols.tensor import Frame

CacheKey = tuple[SessionId, int]
StepOutput = tuple[Body, int | None]
"""Output rows, and the token that was asked for."""

COMPANY_SHARE: Final = 0.1
"""Of a turn: that much longer it may take until it begins, where waiting may save a turn."""


class Engine(Protocol):
    """One loaded shard. Errors are those of `protocols.seams.ShardWorker`."""

    @property
    def loaded(self) -> ShardLoaded: ...

    @property
    def batch_rows(self) -> BatchRows:
        """How many rows are worth computing together."""

    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        """The bytes that are now reserved for it."""

    def rows(self, key: CacheKey) -> int:
        """How many rows it holds."""

    def close_cache(self, key: CacheKey) -> None: ...
    def close(self) -> None:
        """Give back the memory of the shard and its caches."""

    def step_together(
        self, work: Sequence[tuple[CacheKey, Frame]], on_layer: Callable[[], None]
    ) -> Sequence[StepOutput | WeftError]:
        """What each frame comes to, or what is wrong with it; `on_layer` after every layer of the shard."""


class Engines(Protocol):
    """Makes engines; the torch side of the process, or a fake."""

    @property
    def prefix_bytes(self) -> int:
        """What all of them keep of sessions for later ones."""

    def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> Engine: ...
    def measure_layer(self, shape: LayerShape) -> float: ...
    def drop_prefixes(self) -> None: ...


class Daemon(Protocol):
    """Whom replies go to."""

    def send(self, replies: Sequence[tuple[int, Reply, Body]]) -> None:
        """Each with its call."""

    def pull(self) -> None:
        """Called now and then during a turn."""


def run(
    connection: Connection,
    engines: Engines,
    now: Callable[[], float],
    ready: Ready = READY_ON_HOST,
) -> None:
    """Serve until the daemon is gone, which raises `EOFError` or what the socket raises."""
    server = Server(connection, engines, now)
    connection.send([(0, ready, b"")])
    while True:
        while (arrived := connection.receive(wait_s=server.wait_s())) is not None:
            server.take(*arrived)
        server.compute()


class Server:
    """Shards, their caches, and the steps that wait."""

    def __init__(self, daemon: Daemon, engines: Engines, now: Callable[[], float]) -> None:
        self._daemon = daemon
        self._engines = engines
        self._now = now
        self._shards: dict[ShardId, Engine] = {}
        self._queue = StepQueue()
        self._gaps = Gaps()
        self._told_at = 0.0
        self._told_prefix_bytes = 0
        self._free_since = 0.0  # or the first step has come since
        self._turn_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no step waits."""
        return self._queue.is_idle

    def wait_s(self) -> float:
        """How long to wait for another request before the next turn: without end if no step waits, and a little if the one
        that waits usually comes with others."""
        if self.is_idle:
            return math.inf
        if not self._queue.lacks_company:
            return 0.0
        return max(0.0, self._free_since + COMPANY_SHARE * self._turn_s - self._now())

    def take(self, call: int, request: Request, body: bytearray) -> None:
        """Answer a request, or have a step wait for its turn."""
        try:
            if isinstance(request, Step):
                header = request.header
                key = (request.shard, header.session, header.stage)
                if self._queue.is_idle:
                    self._free_since = self._now()
                self._queue.add(WaitingStep(key, call, Frame(header, request.tokens, body)))
                return
            self._told_at = self._now()
            answer = self._answer(call, request)
        except WeftError as error:
            answer = _failed(error)
        except MemoryError:
            answer = _OUT_OF_MEMORY
        self._daemon.send([*self._kept(), (call, answer, b"")])

    def compute(self) -> None:
        """A turn of what waits."""
        steps = self._queue.next()
        if not steps:
            return
        step_rows = sum([step.rows for step in steps])
        began = self._told_at = self._now()
        self._gaps.begin((steps[0].key[0], not steps[0].is_short), began)
        outcomes = self._step_together(steps)
        self._free_since = ended = self._now()
        self._turn_s = ended - began
        self._gaps.advance(ended)
        step_ms = 1000 * max(ended - began, self._gaps.longest_s)
        replies = self._kept()
        for step, outcome in zip(steps, outcomes, strict=True):
            if isinstance(outcome, Failed):
                step.is_over = True
                replies.append((step.call, outcome, b""))
                continue
            out, token = outcome
            step.add(out)
            if step.is_over:
                replies.append((step.call, Stepped(token, step_ms, step_rows), step.out))
        self._queue.done(steps)
        self._daemon.send(replies)

    def _step_together(self, steps: Sequence[WaitingStep]) -> Sequence[StepOutput | Failed]:
        calls, untold = tuple(step.call for step in steps), 0

        def on_layer() -> None:
            nonlocal untold
            untold += 1
            now = self._now()
            self._gaps.advance(now)
            if self._is_time_to_tell(now):
                self._daemon.send([(0, Worked(calls, untold), b"")])
                untold = 0
            self._daemon.pull()

        engine = self._shards[steps[0].key[0]]
        try:
            outcomes = engine.step_together([(step.key[1:], step.piece()) for step in steps], on_layer)
        except MemoryError:
            return [_OUT_OF_MEMORY] * len(steps)
        return [_failed(outcome) if isinstance(outcome, WeftError) else outcome for outcome in outcomes]

    # All else --------------------------------------------------------------------------------------------------------

    def _answer(
        self,
        call: int,
        request: LoadShard
        | UnloadShard
        | OpenCache
        | CloseCache
        | ListCaches
        | MeasureLayer
        | LimitRows
        | DropPrefixes,
    ) -> Answer:
        match request:
            case LoadShard(spec):
                return self._load(call, spec)
            case UnloadShard(shard):
                self._unload(shard)
            case OpenCache(shard, session, stage, spec):
                return self._open_cache((shard, session, stage), spec)
            case CloseCache(shard, session, stage):
                self._close_cache((shard, session, stage))
            case ListCaches():
                return CachesListed(self._queue.caches)
            case MeasureLayer(shape):
                return Measured(self._engines.measure_layer(shape))
            case LimitRows(rows):
                self._queue.limit(rows)
            case DropPrefixes():
                self._engines.drop_prefixes()
            case _:
                assert_never(request)
        return Done()

    def _load(self, call: int, spec: ShardSpec) -> Loaded:
        # The old one goes first, so that a second load of the same shard does not need twice the memory.
        self._unload(spec.shard)
        last_total = 0

        def tell(done: int, total: int) -> None:
            nonlocal last_total
            last_total = total
            if self._is_time_to_tell(self._now()):
                self._daemon.send([(call, Advanced(done, total), b"")])

        engine = self._engines.load(spec, tell)
        self._shards[spec.shard] = engine
        self._queue.hold(spec.shard, engine.batch_rows)
        self._daemon.send([(call, Advanced(last_total, last_total), b"")])
        return Loaded(engine.loaded)

    def _unload(self, shard: ShardId) -> None:
        engine = self._shards.pop(shard, None)
        if engine is not None:
            self._drop(self._queue.release(shard), "the layers were unloaded before the step had its turn")
            self._gaps.forget(shard)
            engine.close()

    def _open_cache(self, key: StepKey, spec: CacheSpec) -> CacheOpened:
        shard, session, stage = key
        if shard not in self._shards:
            raise Unavailable(f"the worker does not hold layers {shard.range} of that model")
        self._close_cache(key)
        engine = self._shards[shard]
        kv_bytes = engine.open_cache((session, stage), spec)
        self._queue.open(key, spec)
        return CacheOpened(kv_bytes, engine.rows((session, stage)))

    def _close_cache(self, key: StepKey) -> None:
        shard, session, stage = key
        if self._queue.is_open(key):
            self._drop(self._queue.close(key), "the session was closed before the step had its turn")
            self._shards[shard].close_cache((session, stage))

    def _drop(self, steps: Sequence[WaitingStep], reason: str) -> None:
        if steps:
            self._daemon.send([(step.call, Failed("Unavailable", reason), b"") for step in steps])

    def _kept(self) -> list[tuple[int, Reply, Body]]:
        """What to tell of the rows that are kept for later sessions."""
        prefix_bytes = self._engines.prefix_bytes
        if prefix_bytes == self._told_prefix_bytes:
            return []
        self._told_prefix_bytes = prefix_bytes
        return [(0, Kept(prefix_bytes), b"")]

    def _is_time_to_tell(self, now: float) -> bool:
        if now - self._told_at < limits.WORKER_PROGRESS_S:
            return False
        self._told_at = now
        return True


def _failed(error: WeftError) -> Failed:
    return Failed(type(error).__name__, str(error))


_OUT_OF_MEMORY = Failed("Overloaded", "the machine has no memory left for it")
