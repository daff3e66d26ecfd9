"""A shard worker without torch: deterministic arithmetic, modelled time, and faults on demand.

A row is eight whole numbers below 256, which f32 and bf16 both carry exactly. Layer l turns row p into

    chain[l][p] = blake2b(l, chain[l][p-1], row p),    row p of the next layer = the first eight bytes of chain[l][p]

so every row depends on all rows before it, as with causal attention, and a lost, doubled or reordered row changes every
token after it. How rows are cut into frames changes nothing. A greedy token is a function of the last row; a sampled one of
the last row, the seed and the position.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from protocols.errors import Malformed, Overloaded, Unavailable, UserError, WorkerDied
from protocols.ids import SessionId
from protocols.placement import LayerRange, LayerShape
from protocols.seams import CacheSpec, ShardId, ShardLoaded, ShardSpec, StepResult
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Kind

WIDTH: Final = 8
VOCABULARY: Final = 4096
LAYER_BYTES: Final = 1 << 20
KV_ROW_BYTES: Final = 64  # per layer
_FLOATS: Final = struct.Struct(f"<{WIDTH}f")
_GREEDY: Final = Sampling()

Row = bytes  # WIDTH numbers below 256


@dataclass(slots=True)
class _Cache:
    """`chains[layer]` holds one digest per row."""

    spec: CacheSpec
    chains: list[list[bytes]]
    work: int = 0

    @property
    def kv_bytes(self) -> int:
        return self.spec.rows_max * len(self.chains) * KV_ROW_BYTES


@dataclass(slots=True)
class _Shard:
    range: LayerRange
    is_last: bool
    caches: dict[tuple[SessionId, int], _Cache] = field(default_factory=dict)

    @property
    def bytes_held(self) -> int:
        kv_bytes = sum(cache.kv_bytes for cache in self.caches.values())
        return self.range.layers * LAYER_BYTES + kv_bytes


@dataclass(frozen=True, slots=True)
class _Stepping:
    """Computes when it is asked for its result, which whoever starts a step does without delay."""

    worker: VirtualWorker
    shard: ShardId
    frame: Frame

    async def result(self) -> StepResult:
        return await self.worker.step(self.shard, self.frame)


class VirtualWorker:
    """A `ShardWorker` for simulations. Computes one request at a time, in the order they came.

    A step takes `layer_ms` per layer plus `row_ms` per layer and row; a load `load_s`; a restart after `crash` takes
    `restart_s`, during which every call raises `WorkerDied`.
    """

    def __init__(
        self,
        *,
        layer_ms: float = 1.0,
        row_ms: float = 0.01,
        load_s: float = 0.1,
        restart_s: float = 0.5,
        memory_bytes: int = 1 << 30,
        numerics_class: str = "virtual",
    ) -> None:
        self._layer_ms, self._row_ms, self._load_s, self._restart_s = layer_ms, row_ms, load_s, restart_s
        self._memory_bytes = memory_bytes
        self._numerics_class = numerics_class
        self._computing = trio.Lock()  # fair: first come, first served
        self._up_at = 0.0
        self._hangs = False
        self._resumed = trio.Event()
        self._lose_everything()

    # Faults ----------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """End the process: pending calls raise `WorkerDied`, shards and caches are gone."""
        self._up_at = trio.current_time() + self._restart_s
        died, pending = self._died, self._pending
        self._lose_everything()
        self.resume()
        for scope in pending:
            scope.cancel()
        died.set()

    def hang(self) -> None:
        """Compute nothing from now on, without failing, until `resume` or `crash`."""
        self._hangs, self._resumed = True, trio.Event()

    def resume(self) -> None:
        self._hangs = False
        self._resumed.set()

    # ShardWorker -----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return None if trio.current_time() < self._up_at else 1

    async def measure_layer(self, shape: LayerShape) -> float:
        await self._compute(self._layer_ms / 1000)
        return self._layer_ms + self._row_ms

    def free_bytes(self) -> int:
        return self._memory_bytes - sum(shard.bytes_held for shard in self._shards.values())

    def waiting(self) -> int:
        return self._computing.statistics().tasks_waiting

    async def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> ShardLoaded:
        total_bytes = spec.shard.range.layers * LAYER_BYTES
        for done in range(spec.shard.range.layers):
            on_progress(done * LAYER_BYTES, total_bytes)
            await self._compute(self._load_s / spec.shard.range.layers)
        on_progress(total_bytes, total_bytes)
        self._shards[spec.shard] = _Shard(spec.shard.range, spec.shard.range.end == _layers_of(spec.config))
        return ShardLoaded(total_bytes, self._numerics_class, is_exact=True)

    async def unload(self, shard: ShardId) -> None:
        await self._compute(0)
        self._shards.pop(shard, None)

    async def open_cache(self, shard: ShardId, session: SessionId, stage: int, spec: CacheSpec) -> None:
        await self._compute(0)
        held = self._shard(shard)
        held.caches.pop((session, stage), None)
        cache = _Cache(spec, [[] for _ in range(held.range.layers)])
        if cache.kv_bytes > self.free_bytes():
            raise Overloaded(f"{cache.kv_bytes} bytes of KV do not fit into {self.free_bytes()}")
        held.caches[session, stage] = cache

    async def step(self, shard: ShardId, frame: Frame) -> StepResult:
        header = frame.header
        async with self._turn():
            began = trio.current_time()
            held = self._shard(shard)
            cache = self._cache(held, header.session, header.stage)
            rows = self._accept(held, cache, frame)
            for _ in cache.chains:
                await self._advance((self._layer_ms + self._row_ms * header.rows) / 1000)
                cache.work += 1
            # All at once at the end, so that a cancelled step leaves the cache as it was.
            for layer, chain in enumerate(cache.chains, held.range.start):
                del chain[header.position :]
                rows = _layer(layer, chain, rows)
            step_ms = (trio.current_time() - began) * 1000
        token = None
        if held.is_last and header.sample:
            token = draw(rows[-1], cache.spec.sampling or _GREEDY, header.position + header.rows)
        body = b"" if held.is_last else b"".join(_pack(row, header.dtype) for row in rows)
        return StepResult(body, token, step_ms)

    def start_step(self, shard: ShardId, frame: Frame) -> _Stepping:
        self._check_up()
        return _Stepping(self, shard, frame)

    async def close_cache(self, shard: ShardId, session: SessionId, stage: int) -> None:
        await self._compute(0)
        if shard in self._shards:
            self._shards[shard].caches.pop((session, stage), None)

    def work(self, session: SessionId, stage: int) -> int:
        for shard in self._shards.values():
            if (session, stage) in shard.caches:
                return shard.caches[session, stage].work
        return 0

    async def wait_died(self) -> None:
        await self._died.wait()

    # Inside ----------------------------------------------------------------------------------------------------------

    def _lose_everything(self) -> None:
        self._shards: dict[ShardId, _Shard] = {}
        self._pending: set[trio.CancelScope] = set()
        self._died = trio.Event()

    def _shard(self, shard: ShardId) -> _Shard:
        self._check_up()
        if shard not in self._shards:
            raise Unavailable(f"the worker does not hold layers {shard.range} of that model")
        return self._shards[shard]

    def _cache(self, held: _Shard, session: SessionId, stage: int) -> _Cache:
        if (session, stage) not in held.caches:
            raise Unavailable("the worker has no cache for that session and stage")
        return held.caches[session, stage]

    def _accept(self, held: _Shard, cache: _Cache, frame: Frame) -> list[Row]:
        """The rows of a frame that follows on from the cache; raises `Malformed` for any other."""
        header = frame.header
        if header.truncate_to != header.position or header.position > len(cache.chains[0]):
            raise Malformed(f"rows from {header.position} do not follow on from {len(cache.chains[0])}")
        if header.position + header.rows > cache.spec.rows_max:
            raise Malformed(f"rows past the {cache.spec.rows_max} reserved")
        if header.kind is Kind.VERIFY:
            raise Malformed("verification is not served yet")
        if held.range.start == 0:
            return [struct.pack("<II", token, 0) for token in frame.tokens]
        if header.width != WIDTH:
            raise Malformed(f"rows of width {header.width}, not {WIDTH}")
        return _unpack(frame.body, header.dtype)

    def _check_up(self) -> None:
        if trio.current_time() < self._up_at:
            raise WorkerDied("the worker has ended and is not up again yet")

    async def _compute(self, seconds: float) -> None:
        async with self._turn():
            await self._advance(seconds)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until the worker is free; a crash before or inside raises `WorkerDied`."""
        self._check_up()
        pending = self._pending
        with trio.CancelScope() as crashed:
            pending.add(crashed)
            try:
                async with self._computing:
                    yield
            finally:
                pending.discard(crashed)
        if crashed.cancel_called:
            raise WorkerDied("the worker ended")

    async def _advance(self, seconds: float) -> None:
        await trio.sleep(seconds)
        while self._hangs:
            await self._resumed.wait()


def virtual_config(layers: int) -> bytes:
    """A config.json with what this worker reads of it."""
    return json.dumps({"num_hidden_layers": layers, "hidden_size": WIDTH, "vocab_size": VOCABULARY}).encode()


def _layers_of(config: bytes) -> int:
    try:
        return int(json.loads(config)["num_hidden_layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"a config.json without a number of layers: {error}; check it") from error


def draw(row: Row, sampling: Sampling, position: int) -> int:
    """The token for `position`; with a temperature it depends on seed and position besides the row."""
    key = b"" if sampling.temperature == 0 else struct.pack("<QQ", sampling.seed, position)
    return int.from_bytes(hashlib.blake2b(row + key, digest_size=8).digest(), "little") % VOCABULARY


def reference_tokens(prompt: tuple[int, ...], layers: int, sampling: Sampling, count: int) -> list[int]:
    """What one faultless worker that holds all layers answers."""
    chains: list[list[bytes]] = [[] for _ in range(layers)]
    tokens: list[int] = []
    fresh = prompt
    while len(tokens) < count:
        rows = [struct.pack("<II", token, 0) for token in fresh]
        for layer, chain in enumerate(chains):
            rows = _layer(layer, chain, rows)
        tokens.append(draw(rows[-1], sampling, len(chains[0])))
        fresh = (tokens[-1],)
    return tokens


def _layer(layer: int, chain: list[bytes], rows: list[Row]) -> list[Row]:
    """Appends to the chain of this layer; gives the rows for the next."""
    out = []
    for row in rows:
        before = chain[-1] if chain else b""
        chain.append(hashlib.blake2b(struct.pack("<I", layer) + before + row, digest_size=16).digest())
        out.append(chain[-1][:WIDTH])
    return out


def _pack(row: Row, dtype: DType) -> bytes:
    floats = _FLOATS.pack(*row)
    if dtype is DType.F32:
        return floats
    # bf16 is the upper half of f32, and eight bits fit its significand.
    return b"".join(floats[start + 2 : start + 4] for start in range(0, len(floats), 4))


def _unpack(body: bytes | bytearray | memoryview, dtype: DType) -> list[Row]:
    data = bytes(body)
    if dtype is DType.BF16:
        data = b"".join(b"\0\0" + data[start : start + 2] for start in range(0, len(data), 2))
    try:
        return [bytes(map(int, numbers)) for numbers in _FLOATS.iter_unpack(data)]
    except (ValueError, OverflowError, struct.error) as error:
        raise Malformed(f"not rows of this arithmetic: {error}") from error
