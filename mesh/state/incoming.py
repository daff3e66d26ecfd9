"""A blob on its way in: written piece by piece, and kept under its name only if its hash is the one it was asked for by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Self

from mesh.state.files import PartialFile
from protocols.errors import Dishonest, LocalFault
from protocols.ids import TensorDigest


class Incoming:
    """Use it as a context; what came before it is left stays for the next attempt, if the partial file is resumable.

    `head` precedes the blob in the file; `on_left` is called once, at the end. Everything blocks for as long as the disk
    takes, and raises `LocalFault`.
    """

    def __init__(
        self,
        partial: PartialFile,
        sha256: TensorDigest,
        size_bytes: int,
        head: bytes = b"",
        on_left: Callable[[], None] = lambda: None,
    ) -> None:
        self._partial = partial
        self._expected = sha256
        self._head = head
        self._size_bytes = size_bytes
        self._hash = hashlib.sha256()
        self.have_bytes = 0
        self._on_left = on_left
        self._is_spoilt = False
        try:
            if not self._resume():
                self._begin()
        except LocalFault:
            self._leave()
            raise

    def _resume(self) -> bool:
        """Whether what an earlier attempt left is a beginning of this blob, as far as can be seen."""
        head_left = self._head
        for data in self._partial.written():
            if not data.startswith(head_left[: len(data)]):
                return False
            rest = data[len(head_left) :]
            head_left = head_left[len(data) :]
            self._hash.update(rest)
            self.have_bytes += len(rest)
        return not head_left and 0 < self.have_bytes <= self._size_bytes

    def _begin(self) -> None:
        self._hash = hashlib.sha256()
        self.have_bytes = 0
        self._partial.restart()
        self._partial.write(self._head)

    def write(self, data: bytes | bytearray) -> None:
        """Raises `Dishonest` for more bytes than were announced."""
        if self.have_bytes + len(data) > self._size_bytes:
            self._is_spoilt = True
            raise Dishonest("more bytes came than the blob has")
        self._hash.update(data)
        self._partial.write(data)
        self.have_bytes += len(data)

    def finish(self) -> None:
        """Raises `Dishonest` unless these are the bytes that the digest names; then nothing of them stays."""
        if self.have_bytes != self._size_bytes or self._hash.hexdigest() != self._expected:
            self._is_spoilt = True
            raise Dishonest(
                f"what came does not have the sha256 {self._expected[:8]} that it was asked for by"
            )
        self._partial.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._on_left()
        if self._is_spoilt:
            self._partial.discard()
        else:
            self._partial.leave()
