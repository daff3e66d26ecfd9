"""A model without torch: arithmetic whose tokens betray every mistake with rows.

A row is a number of 64 bits. On the wire it is its eight bytes, as whole numbers below 256, which f32 and bf16 both carry
exactly. Layer l turns row p into

    chain[l][p] = mixed(l, chain[l][p-1], row p),    row p of the next layer = chain[l][p]

where `mixed` loses nothing of any of the three, so every row depends on all rows before it, as with causal attention, and a lost, doubled or reordered row changes every
token after it. How rows are cut into frames changes nothing. A greedy token is a function of the last row; a sampled one of
the last row, the seed and the position.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from inference.engine.batching.cost_curve import BatchRows
from inference.engine.memory.prefixes import Block, Chain, Prefixes, left_blocks, taken_blocks_max
from inference.engine.worker.server import CacheKey, StepOutput
from protocols import limits
from protocols.errors import Malformed, Overloaded, UserError, WeftError
from protocols.ids import PeerId
from protocols.logprobs import Logprobs, encode_logprobs
from protocols.placement import LayerRange, LayerShape
from protocols.seams import CacheSpec, ShardLoaded, ShardSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind

WIDTH: Final = 8
VOCABULARY: Final = 4096
LAYER_BYTES: Final = 1 << 20
KV_ROW_BYTES: Final = 64  # per layer
PREFIX_BYTES_MAX: Final = 60 * limits.PREFILL_CHUNK_ROWS * KV_ROW_BYTES
"""Kept of prompts: 60 blocks of one layer, so few that they are let go of as well."""
_GREEDY: Final = Sampling()
_BITS: Final = (1 << 64) - 1
_FACTORS: Final = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)  # odd, of no pattern
# bf16 is the upper half of f32, and eight bits fit its significand.
_TO_BF16: Final = tuple(struct.pack("<f", number)[2:] for number in range(256))
_OF_BF16: Final = {(code,): number for number, code in enumerate(_TO_BF16)}  # by what `iter_unpack` gives

Row = int  # of 64 bits
Chains = list[list[Row]]


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows of one block in every layer, and which peer's session computed them."""

    maker: PeerId
    chains: Chains


@dataclass(slots=True)
class _Cache:
    """`chains[layer]` holds one number per row. `makers` are the peers whose sessions computed what it took over."""

    spec: CacheSpec
    chains: Chains
    prefix: Chain
    makers: frozenset[PeerId]


class ArithmeticEngine:
    """Implements `inference.engine.worker_server.Engine`: one range of layers with its caches."""

    batch_rows = BatchRows(1, 1)  # the worker models a step for each frame

    def __init__(
        self,
        layers: LayerRange,
        *,
        is_last: bool,
        loaded: ShardLoaded,
        room: Callable[[], int],
        prefixes: Prefixes[KeptRows],
    ) -> None:
        self._range = layers
        self._prefixes = prefixes
        self._is_last = is_last
        self._loaded = loaded
        self._room = room
        self._caches: dict[CacheKey, _Cache] = {}

    @property
    def loaded(self) -> ShardLoaded:
        return self._loaded

    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        kv_bytes = spec.rows_max * self._range.layers * KV_ROW_BYTES
        if kv_bytes > self._room():
            raise Overloaded(f"{kv_bytes} bytes of KV do not fit into {self._room()}")
        prefix = Chain(self, spec.peer, spec.prefix)
        taken = [block.rows for block in self._prefixes.find(prefix, taken_blocks_max(spec))]
        chains = [[row for kept in taken for row in kept.chains[at]] for at in range(self._range.layers)]
        cache = _Cache(spec, chains, prefix, frozenset(kept.maker for kept in taken))
        self._prefixes.shrink(self._room() - kv_bytes)
        self._caches[key] = cache
        return kv_bytes

    def rows(self, key: CacheKey) -> int:
        return len(self._caches[key].chains[0])

    def close_cache(self, key: CacheKey) -> None:
        self._caches.pop(key, None)

    def close(self) -> None:
        self._caches.clear()
        self._prefixes.forget(self)

    def step_together(
        self, work: Sequence[tuple[CacheKey, Frame]], on_layer: Callable[[], None]
    ) -> list[StepOutput | WeftError]:
        outcomes: list[StepOutput | WeftError] = []
        for key, frame in work:
            try:
                outcomes.append(self._step(self._caches[key], frame, on_layer))
            except Malformed as error:
                outcomes.append(error)
        return outcomes

    def _step(self, cache: _Cache, frame: Frame, on_layer: Callable[[], None]) -> tuple[bytes, int | None]:
        header = frame.header
        rows = self._accept(cache, frame)
        for layer, chain in enumerate(cache.chains, self._range.start):
            del chain[header.position :]
            rows = _layer(layer, chain, rows)
            on_layer()
        self._keep_prefix(cache, header)
        if not self._is_last:
            return _pack(rows, header.dtype), None
        if not header.sample:
            return b"", None
        sampling = cache.spec.sampling or _GREEDY
        return logprobs(rows[-1], sampling), draw(rows[-1], sampling, header.position + header.rows)

    def _keep_prefix(self, cache: _Cache, header: Header) -> None:
        chunk = limits.PREFILL_CHUNK_ROWS
        size_bytes = self._range.layers * chunk * KV_ROW_BYTES
        for index in left_blocks(cache.spec, header):
            bytes_max = min(PREFIX_BYTES_MAX, self._room())
            if self._prefixes.makes_room(cache.prefix, index, size_bytes, bytes_max):
                rows = [chain[index * chunk : (index + 1) * chunk] for chain in cache.chains]
                block = Block(KeptRows(cache.spec.peer, rows), (), size_bytes)
                self._prefixes.keep(cache.prefix, index, block)

    def _accept(self, cache: _Cache, frame: Frame) -> list[Row]:
        """The rows of a frame that follows on from the cache; raises `Malformed` for any other."""
        header = frame.header
        if header.truncate_to != header.position or header.position > len(cache.chains[0]):
            raise Malformed(f"rows from {header.position} do not follow on from {len(cache.chains[0])}")
        if header.position + header.rows > cache.spec.rows_max:
            raise Malformed(f"rows past the {cache.spec.rows_max} reserved")
        if header.kind is Kind.VERIFY:
            raise Malformed("verification is not served yet")
        if self._range.start == 0:
            return list(frame.tokens)
        if header.width != WIDTH:
            raise Malformed(f"rows of width {header.width}, not {WIDTH}")
        return _unpack(frame.body, header.dtype)


class ArithmeticEngines:
    """Implements `inference.engine.worker_server.Engines`; `room` tells the bytes that are free."""

    def __init__(self, room: Callable[[], int], numerics_class: str = "virtual") -> None:
        self._room = room
        self._numerics_class = numerics_class
        self.prefixes: Prefixes[KeptRows] = Prefixes()

    @property
    def prefix_bytes(self) -> int:
        return self.prefixes.size_bytes

    def drop_prefixes(self) -> None:
        self.prefixes.clear()

    def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> ArithmeticEngine:
        layers = spec.shard.range
        model_layers = _layers_of(spec.config)
        total_bytes = layers.layers * LAYER_BYTES
        on_progress(total_bytes, total_bytes)
        loaded = ShardLoaded(total_bytes, self._numerics_class, is_exact=True)
        return ArithmeticEngine(
            layers,
            is_last=layers.end == model_layers,
            loaded=loaded,
            room=self._room,
            prefixes=self.prefixes,
        )

    def measure_layer(self, shape: LayerShape) -> float:
        """Nothing: arithmetic takes no time but what the worker models."""
        del shape
        return 0.0


def virtual_config(layers: int) -> bytes:
    """A config.json with what this arithmetic reads of it."""
    return json.dumps({"num_hidden_layers": layers, "hidden_size": WIDTH, "vocab_size": VOCABULARY}).encode()


def _layers_of(config: bytes) -> int:
    try:
        return int(json.loads(config)["num_hidden_layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"a config.json without a number of layers: {error}; check it") from error


def draw(row: Row, sampling: Sampling, position: int) -> int:
    """The token for `position`; with a temperature it depends on seed and position besides the row."""
    key = b"" if sampling.temperature == 0 else struct.pack("<QQ", sampling.seed, position)
    data = row.to_bytes(WIDTH, "little") + key
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") % VOCABULARY


def logprobs(row: Row, sampling: Sampling) -> bytes:
    """Numbers of the row, so that those of another position are told apart."""
    if sampling.logprobs is None:
        return b""
    chosen = -(row & 0xFFFF) / 256
    likeliest = tuple((token, -token / 64) for token in range(sampling.logprobs))
    return encode_logprobs(Logprobs(chosen, likeliest))


def answering(prompt: tuple[int, ...], layers: int, sampling: Sampling) -> Iterator[int]:
    """What one faultless worker that holds all layers answers, without an end."""
    chains: list[list[Row]] = [[] for _ in range(layers)]
    fresh, position = prompt, 0
    while True:
        rows = list(fresh)
        position += len(rows)
        for layer, chain in enumerate(chains):
            rows = _layer(layer, chain, rows)
            del chain[:-1]  # nothing is ever taken back here, so an answer of any length stays as small
        fresh = (draw(rows[-1], sampling, position),)
        yield fresh[0]


def reference_tokens(prompt: tuple[int, ...], layers: int, sampling: Sampling, count: int) -> list[int]:
    """The first `count` tokens of a faultless answer."""
    return list(islice(answering(prompt, layers, sampling), count))


def _layer(layer: int, chain: list[Row], rows: list[Row]) -> list[Row]:
    """Appends to the chain of this layer; gives the rows for the next."""
    before, out = chain[-1] if chain else 0, []
    for row in rows:
        mixed = ((before * _FACTORS[0] + layer) ^ row) * _FACTORS[1] & _BITS
        before = mixed ^ mixed >> 32
        out.append(before)
    chain += out
    return out


def _pack(rows: list[Row], dtype: DType) -> bytes:
    numbers = struct.pack(f"<{len(rows)}Q", *rows)
    if dtype is DType.F32:
        return struct.pack(f"<{len(numbers)}f", *numbers)
    return b"".join(map(_TO_BF16.__getitem__, numbers))


def _unpack(body: bytes | bytearray | memoryview, dtype: DType) -> list[Row]:
    try:
        if dtype is DType.F32:
            numbers = bytes(map(int, struct.unpack(f"<{len(body) // 4}f", body)))
        else:
            numbers = bytes(map(_OF_BF16.__getitem__, struct.iter_unpack("<2s", body)))
        return list(struct.unpack(f"<{len(numbers) // WIDTH}Q", numbers))
    except (KeyError, ValueError, OverflowError, struct.error) as error:
        raise Malformed(f"not rows of this arithmetic: {error}") from error
