"""Who has the bytes of a model: the face of stores and model folders towards whoever serves or reads them."""

from __future__ import annotations

from typing import Protocol

from protocols.ids import ModelDigest, TensorDigest


class Blob(Protocol):
    """Bytes that can be read in any part. `read` blocks, and raises `LocalFault`."""

    @property
    def size_bytes(self) -> int: ...
    def read(self, offset: int, count: int) -> bytes: ...


class BlobSource(Protocol):
    """Answers None for what it does not have."""

    def manifest(self, model: ModelDigest) -> Blob | None: ...
    def blob(self, model: ModelDigest, sha256: TensorDigest) -> Blob | None:
        """A small file or a tensor of that model, by the sha256 of its raw bytes."""


class Bytes:
    """A `Blob` in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    def read(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]
