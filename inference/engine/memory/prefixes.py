"""Blocks of prompts that outlive their sessions, for later ones of the same peer whose prompts begin with the same tokens.

The rule of the file: a block is found by the shard, the peer that the session entered at, and the name that this peer gave the
block. The name stands for the tokens of the block and all before it, and for who computed what came in
(inference/sessions/prefix.py). Nobody finds a block by another's name, so that no answer's delay tells what others asked.

Of the peer that has the most, what is longest unused goes first, of a chain its end: blocks without those before them are of no
use. So a peer that fills the store with prompts pushes out its own, and nobody's who has less.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from protocols import limits
from protocols.ids import PeerId
from protocols.seams import CacheSpec
from protocols.tensor import Header, Kind

ContentT = TypeVar("ContentT")
Name = bytes
BlockKey = tuple[Hashable, PeerId, Name]


@dataclass(frozen=True, slots=True)
class Block(Generic[ContentT]):
    """The rows of one block in every layer of a shard, with their tokens."""

    rows: ContentT
    tokens: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Chain:
    """The names of a prompt's whole blocks, at one shard, by one peer."""

    shard: Hashable
    peer: PeerId
    names: tuple[Name, ...]

    def keys(self, count: int) -> list[BlockKey]:
        return [(self.shard, self.peer, name) for name in self.names[:count]]


def taken_blocks_max(spec: CacheSpec) -> int:
    """How many blocks a session may take over: its last row is its own, since a token is drawn from it."""
    return min(len(spec.prefix), (spec.prompt_rows - 1) // limits.PREFILL_CHUNK_ROWS)


def left_blocks(spec: CacheSpec, header: Header) -> range:
    """The blocks of the prompt that a frame brings whole and that may be left for later sessions.

    After a failure the rows may come of others than those that the blocks are named after, and a replay's do.
    """
    if header.kind is not Kind.PREFILL or header.epoch != spec.epoch:
        return range(0)
    chunk = limits.PREFILL_CHUNK_ROWS
    whole = min(header.position + header.rows, spec.prompt_rows) // chunk
    return range(-(-header.position // chunk), min(whole, len(spec.prefix)))


class Prefixes(Generic[ContentT]):
    """The blocks of all shards of a worker."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[BlockKey, Block[ContentT]] = OrderedDict()  # the longest unused first
        self._bytes: Counter[PeerId] = Counter()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def peers(self) -> set[PeerId]:
        """Whose blocks there are."""
        return {peer for _, peer, _ in self._blocks}

    def find(self, chain: Chain, blocks_max: int) -> Sequence[Block[ContentT]]:
        """The first blocks of the chain, as many as are here without a gap."""
        found = []
        for key in chain.keys(blocks_max):
            if key not in self._blocks:
                break
            found.append(self._blocks[key])
        self._touch(chain.keys(len(found)))
        return found

    def makes_room(self, chain: Chain, index: int, size_bytes: int, bytes_max: int) -> bool:
        """Whether block `index` of the chain is worth making: it is not here, those before it are, and it has its place within
        `bytes_max`, for which others go, but none of its own chain and of no peer that has less than this one then has."""
        before = chain.keys(index)
        if chain.keys(index + 1)[-1] in self._blocks or any(key not in self._blocks for key in before):
            return False
        self._touch(before)
        if size_bytes + sum(self._blocks[key].size_bytes for key in before) > bytes_max:
            return False
        coming, spared = Counter({chain.peer: size_bytes}), frozenset(before)
        while self.size_bytes + size_bytes > bytes_max:
            leaving = self._to_leave(self._bytes + coming, spared)
            if leaving is None:
                return False
            self._drop(leaving)
        return True

    def keep(self, chain: Chain, index: int, block: Block[ContentT]) -> None:
        """Keep a block that `makes_room` has made room for."""
        key = chain.keys(index + 1)[-1]
        assert key not in self._blocks
        self._blocks[key] = block
        self._bytes[chain.peer] += block.size_bytes
        self.size_bytes += block.size_bytes
        self._touch(chain.keys(index + 1))

    def shrink(self, bytes_max: int) -> None:
        """Let go of blocks until the rest takes at most that much."""
        while self.size_bytes > bytes_max and (leaving := self._to_leave(self._bytes)) is not None:
            self._drop(leaving)

    def forget(self, shard: Hashable) -> None:
        """All blocks of a shard that is unloaded."""
        for key in [key for key in self._blocks if key[0] == shard]:
            self._drop(key)

    def clear(self) -> None:
        self._blocks.clear()
        self._bytes.clear()
        self.size_bytes = 0

    def _to_leave(
        self, bytes_of: Counter[PeerId], spared: frozenset[BlockKey] = frozenset()
    ) -> BlockKey | None:
        """The longest unused block of whoever has the most; None if all of that are spared."""
        most = max(bytes_of.values(), default=0)
        return next((key for key in self._blocks if bytes_of[key[1]] == most and key not in spared), None)

    def _drop(self, key: BlockKey) -> None:
        size_bytes = self._blocks.pop(key).size_bytes
        self.size_bytes -= size_bytes
        self._bytes -= Counter({key[1]: size_bytes})  # which forgets those that have none left

    def _touch(self, keys: Sequence[BlockKey]) -> None:
        # The first of a chain comes to be the newest, so that the last one goes first.
        for key in reversed(keys):
            self._blocks.move_to_end(key)
