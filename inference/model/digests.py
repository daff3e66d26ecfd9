"""The sha256 of every tensor of a safetensors file, remembered by path, size and time of change.

Hashing reads every byte of a model, so that a second offer of the same folder should not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from mesh.state.files import FileRange, FileState, Offload
from mesh.state.tensor_file import StoredTensor
from protocols import limits
from protocols.ids import TensorDigest
from protocols.manifest import Digest
from protocols.seams import Disk

_PIECES_PER_TURN: Final = 16  # read and hashed beside the event loop before progress is told


class _Remembered(msgspec.Struct, frozen=True):
    path: str
    size_bytes: int
    mtime_ns: int
    digests: dict[str, Digest]


_decoder = msgspec.json.Decoder(_Remembered)


class DigestCache:
    """Entries lie in the folder `digests` of the disk, one per file."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def recall(self, path: str, state: FileState) -> dict[str, TensorDigest] | None:
        """What was remembered of a file in that state."""
        data = self._disk.read(_entry_path(path))
        try:
            entry = _decoder.decode(data or b"")
        except msgspec.DecodeError:
            return None
        known = (entry.path, entry.size_bytes, entry.mtime_ns)
        return dict(entry.digests) if known == (path, state.size_bytes, state.mtime_ns) else None

    def remember(self, path: str, state: FileState, digests: dict[str, TensorDigest]) -> None:
        entry = _Remembered(path, state.size_bytes, state.mtime_ns, dict(digests))
        self._disk.write(_entry_path(path), msgspec.json.encode(entry))


async def hash_tensors(
    path: str, tensors: Sequence[StoredTensor], offload: Offload, on_bytes: Callable[[int], None]
) -> dict[str, TensorDigest]:
    """Reads all of them; `on_bytes(count)` as it goes. Raises `LocalFault`."""
    digests = {}
    for tensor in tensors:
        data, sha256 = FileRange(path, tensor.start, tensor.size_bytes), hashlib.sha256()
        for start in range(0, tensor.size_bytes, _PIECES_PER_TURN * limits.WEIGHT_CHUNK_BYTES):
            end = min(start + _PIECES_PER_TURN * limits.WEIGHT_CHUNK_BYTES, tensor.size_bytes)
            await offload(partial(_hash, data, sha256, start, end))
            on_bytes(end - start)
        digests[tensor.name] = TensorDigest(sha256.hexdigest())
    return digests


def _hash(data: FileRange, sha256: hashlib._Hash, start: int, end: int) -> None:
    for offset in range(start, end, limits.WEIGHT_CHUNK_BYTES):
        sha256.update(data.read(offset, min(limits.WEIGHT_CHUNK_BYTES, end - offset)))


def _entry_path(path: str) -> str:
    return f"digests/{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"
