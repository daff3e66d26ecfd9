"""The tensors of one safetensors file, read into memory that the caller has.

The file is read and never mapped: mapped pages count as this process's memory beside what they were copied to, and they
vanish, with the process, if the file is cut short.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from mesh.state.files import OpenFile
from mesh.state.tensor_file import (
    ITEM_BYTES,
    LENGTH,
    StoredTensor,
    header_length,
    parse_header,
    parse_metadata,
)
from protocols.errors import Malformed, WeftError
from protocols.manifest import DTYPE_BYTES


class StoredTensors:
    """Stays open, and the same file, until it is closed. `tensors` in the order of their data."""

    def __init__(self, path: str, item_bytes: Mapping[str, int] = ITEM_BYTES) -> None:
        """Raises `LocalFault` if the file can't be read, `Malformed` if its head lies or has a type not in `item_bytes`."""
        self._file: Final = OpenFile(path)
        try:
            first = self._read(0, min(LENGTH.size, self._file.size_bytes))
            header = self._read(LENGTH.size, header_length(first, self._file.size_bytes))
            self.tensors: Final = parse_header(header, self._file.size_bytes, item_bytes)
            self.metadata: Final = parse_metadata(header)
        except WeftError:
            self._file.close()
            raise
        self._by_name = {tensor.name: tensor for tensor in self.tensors}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> StoredTensor:
        """Raises `Malformed` if there is none of that name."""
        try:
            return self._by_name[name]
        except KeyError as error:
            raise Malformed(f"it has no tensor {name}") from error

    def read_into(self, tensor: StoredTensor, offset: int, buffer: memoryview) -> None:
        """Fills the buffer, of bytes, from byte `offset` of the tensor on. Raises `LocalFault` if the file has become shorter."""
        assert offset + len(buffer) <= tensor.size_bytes
        self._file.read_into(tensor.start + offset, buffer)

    def close(self) -> None:
        """Idempotent."""
        self._file.close()

    def _read(self, offset: int, count: int) -> bytearray:
        buffer = bytearray(count)
        self._file.read_into(offset, memoryview(buffer))
        return buffer


def read_tensors(path: str) -> tuple[StoredTensor, ...]:
    """What the file has, all of it in types that weft reads. Raises as `StoredTensors`."""
    with StoredTensors(path, DTYPE_BYTES) as file:
        return file.tensors
