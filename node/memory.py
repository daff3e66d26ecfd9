"""What a running node can be asked about its memory: the shapes behind `weft memory`, part of `node.api`.

Structs go out as JSON with these field names, so that they are an interface of users as well.
"""

from __future__ import annotations

import msgspec

from protocols.ids import ModelDigest, PeerId, SessionId


class MachineMemory(msgspec.Struct, frozen=True):
    """`limited_by`: the machine, or the control group that this node runs in."""

    available_bytes: int
    total_bytes: int
    limited_by: str


class ProcessMemory(msgspec.Struct, frozen=True):
    """`budget_bytes`, which the operator gave, = weights + what sessions have reserved + the rest; of that rest `free_bytes` are there,
    `prefix_bytes` included, which are kept of prompts until somebody wants them.

    `used_bytes` of the reserved ones are written. `resident_bytes` is the whole process with its children, `private_bytes` without what
    it shares with files, and `limit_bytes` what that may come to. The budget is of the memory of `device`: "cpu" is the machine's.
    """

    pid: int | None
    budget_bytes: int
    weights_bytes: int
    reserved_bytes: int
    used_bytes: int
    free_bytes: int
    resident_bytes: int
    private_bytes: int
    limit_bytes: int
    prefix_bytes: int = 0
    device: str = "cpu"


class ShardMemory(msgspec.Struct, frozen=True):
    """`reserved_bytes` and `used_bytes` are those of its `caches`."""

    model: str
    digest: ModelDigest
    range: str
    weights_bytes: int
    caches: int
    reserved_bytes: int
    used_bytes: int


class CacheMemory(msgspec.Struct, frozen=True):
    """Of one session at one range. `known` False: no session of this node has it; if that stays so, it is closed."""

    session: SessionId
    stage: int
    model: str
    range: str
    known: bool
    reserved_bytes: int
    used_bytes: int


class TensorMemory(msgspec.Struct, frozen=True):
    """`level` is normal, high or critical; `reason` and what the node `does` about it, in words, are empty while it is normal."""

    peer: PeerId
    name: str
    level: str
    reason: str
    does: tuple[str, ...]
    machine: MachineMemory
    worker: ProcessMemory
    shards: tuple[ShardMemory, ...]
    caches: tuple[CacheMemory, ...]
    orphans_closed: int
