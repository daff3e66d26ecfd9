"""The head of a GGUF file, read with every count and length held against the size of the file.

    magic "GGUF", version 2 or 3, count of tensors, count of values      little-endian, counts of 64 bits
    values    key, type, value; strings and lists are preceded by their length
    tensors   name, dimensions (the innermost first), type, offset
    data      at the next multiple of `general.alignment`; offsets count from there

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the `gguf` package believes what a file says: a list that
claims 2^60 items takes all memory there. From that package come the types, the sizes of their blocks, and `dequantize`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from inference.model.gguf.metadata import Metadata, Scalar, Value
from protocols import limits
from protocols.errors import Malformed, UserError

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_HEAD_BYTES_MAX: Final = 256 << 20  # vocabularies of 262,144 tokens take some 15 MB
_ITEMS_MAX: Final = 1 << 22  # of all lists: three of a vocabulary, and its merges
_VALUES_MAX: Final = 4096
_NAME_BYTES_MAX: Final = 256
_DIMENSIONS_MAX: Final = 4
_EXTENT_MAX: Final = 1 << 32
_ALIGNMENT: Final = 32
_ALIGNMENT_MAX: Final = 1 << 20
_PACKED: Final = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` has the outermost dimension first; its data lies at `start`, from the beginning of the file."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    size_bytes: int

    @property
    def row_bytes(self) -> int:
        """Of the innermost dimension: blocks never go past its end."""
        return self.size_bytes // math.prod(self.shape[:-1])


class GgufFile:
    """An open file: `metadata`, `tensors` by name, and their bytes."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Raises `Malformed`."""
        self.path = path
        self._file = file
        self.size_bytes = path.stat().st_size
        head = _HeadReader(file, min(self.size_bytes, _HEAD_BYTES_MAX))
        tensors, values = head.counts()
        self.metadata = Metadata(head.values(values))
        claims = head.claims(tensors)
        alignment = self.metadata.find("general.alignment", int) or _ALIGNMENT
        if not 1 <= alignment <= _ALIGNMENT_MAX or alignment & (alignment - 1):
            raise Malformed(f"its alignment is {alignment}")
        start = -(-head.at // alignment) * alignment
        self.tensors = _placed(claims, start, alignment, self.size_bytes)

    def read(self, tensor: GgufTensor, first_row: int, rows: int) -> NDArray[np.uint8]:
        """Rows of a tensor, counted over all its outer dimensions, as bytes [rows, row_bytes]. Raises `Malformed`."""
        self._file.seek(tensor.start + first_row * tensor.row_bytes)
        data = self._file.read(rows * tensor.row_bytes)
        if len(data) < rows * tensor.row_bytes:
            raise Malformed("it has become shorter while it was read")
        return np.frombuffer(data, np.uint8).reshape(rows, tensor.row_bytes)


@contextmanager
def open_gguf(path: Path) -> Iterator[GgufFile]:
    """Raises `UserError` for what is no sound GGUF file, also where that comes out while it is in use."""
    try:
        with path.open("rb") as file:
            yield GgufFile(path, file)
    except Malformed as error:
        raise UserError(f"{path} is not a sound GGUF file ({error}): download it again") from error
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name a GGUF file") from None
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: name a GGUF file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name another file") from error


@dataclass(frozen=True, slots=True)
class _Claim:
    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


class _HeadReader:
    """Reads on from the start of a file, up to `bytes_max`."""

    def __init__(self, file: BinaryIO, bytes_max: int) -> None:
        self._file = file
        self._bytes_max = bytes_max
        self._items_left = _ITEMS_MAX
        self.at = 0

    def counts(self) -> tuple[int, int]:
        """Of tensors and of values."""
        if self._take(len(_MAGIC)) != _MAGIC:
            raise Malformed("it does not begin with GGUF")
        version = self._number("<I")
        if version not in _VERSIONS:
            raise Malformed(f"its version is {version}, and weft reads 2 and 3, little-endian")
        tensors, values = self._number("<Q"), self._number("<Q")
        if tensors > limits.TENSORS_MAX or values > _VALUES_MAX:
            raise Malformed(f"it claims {tensors} tensors and {values} values")
        return tensors, values

    def values(self, count: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(count):
            key = self._string()
            if key in found:
                raise Malformed(f"it has {key[:64]!r} twice")
            found[key] = self._value(key)
        return found

    def claims(self, count: int) -> list[_Claim]:
        return [self._claim() for _ in range(count)]

    def _value(self, key: str) -> Value:
        kind = self._kind()
        if kind is not GGUFValueType.ARRAY:
            return self._scalars(kind, 1, key)[0]
        kind, count = self._kind(), self._number("<Q")
        if kind is GGUFValueType.ARRAY:
            raise Malformed(f"its {key[:64]!r} is a list of lists")
        if count > self._items_left:
            raise Malformed(f"its {key[:64]!r} claims {count} items")
        self._items_left -= count
        return self._scalars(kind, count, key)

    def _scalars(self, kind: GGUFValueType, count: int, key: str) -> list[Scalar]:
        if kind is GGUFValueType.STRING:
            return [self._string() for _ in range(count)]
        packed = np.dtype(_PACKED[kind])
        if kind is GGUFValueType.BOOL and count == 1:
            return [self._take(1) != b"\0"]
        found = np.frombuffer(self._take(count * packed.itemsize), packed)
        if kind is GGUFValueType.FLOAT32 and count == 1:
            return [float(str(found[0]))]  # 1e-05, as it was before it was stored in 32 bits
        scalars: list[Scalar] = found.tolist()
        return scalars

    def _claim(self) -> _Claim:
        name = self._string()
        if len(name) > _NAME_BYTES_MAX:
            raise Malformed("it has a tensor with an endless name")
        dimensions = self._number("<I")
        if not 1 <= dimensions <= _DIMENSIONS_MAX:
            raise Malformed(f"its tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed([self._number("<Q") for _ in range(dimensions)]))
        number, offset = self._number("<I"), self._number("<Q")
        if not all(1 <= extent <= _EXTENT_MAX for extent in shape):
            raise Malformed(f"its tensor {name!r} has a shape that no tensor has")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise Malformed(f"its tensor {name!r} has the unknown type {number}") from None
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise Malformed(f"its tensor {name!r} has rows of {shape[-1]}, which are no blocks of {block}")
        return _Claim(name, kind, shape, offset, math.prod(shape) // block * block_bytes)

    def _kind(self) -> GGUFValueType:
        number = self._number("<I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise Malformed(f"it has a value of the unknown type {number}") from None

    def _string(self) -> str:
        try:
            return self._take(self._number("<Q")).decode()
        except UnicodeDecodeError:
            raise Malformed("it has a text that is not UTF-8") from None

    def _number(self, layout: str) -> int:
        (number,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        return int(number)

    def _take(self, count: int) -> bytes:
        if count > self._bytes_max - self.at:
            raise Malformed("it ends in the middle of its head")
        self.at += count
        data = self._file.read(count)
        if len(data) < count:
            raise Malformed("it has become shorter while it was read")
        return data


def _placed(claims: list[_Claim], start: int, alignment: int, file_bytes: int) -> dict[str, GgufTensor]:
    """Every tensor lies within the file, and none in another: what comes out of a file is then bounded by its size."""
    placed: dict[str, GgufTensor] = {}
    end = 0
    for claim in sorted(claims, key=lambda each: each.offset):
        if claim.name in placed:
            raise Malformed(f"it has tensor {claim.name!r} twice")
        if claim.offset % alignment or claim.offset < end:
            raise Malformed(f"its tensor {claim.name!r} lies within another, or between two places")
        end = claim.offset + claim.size_bytes
        if start + end > file_bytes:
            raise Malformed(f"it ends at {file_bytes} bytes, within its tensor {claim.name!r}")
        placed[claim.name] = GgufTensor(
            claim.name, claim.type, claim.shape, start + claim.offset, claim.size_bytes
        )
    return placed
