"""The head of a safetensors file: written for one tensor, and read with every lie refused. Pure.

    8 bytes   header length, little-endian        {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
    header    JSON, padded with spaces
    data      the tensors, one after the other

Common readers check less than this: they take headers of 100 MB, and names of any kind.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from protocols import limits
from protocols.errors import Malformed
from protocols.manifest import DTYPE_BYTES

ITEM_BYTES: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""The dtypes whose items are whole bytes. See safetensors, `Dtype`."""
LENGTH: Final = struct.Struct("<Q")
_NAME: Final = re.compile(r"[A-Za-z0-9_.]{1,256}")
_METADATA: Final = "__metadata__"
_DIMENSIONS_MAX: Final = 4
_EXTENT_MAX: Final = 1 << 32
_ALIGNMENT: Final = 8


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor and where it lies, counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int


def write_head(name: str, dtype: str, shape: tuple[int, ...], size_bytes: int) -> bytes:
    """What precedes the data in a file of that one tensor."""
    header = json.dumps(
        {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size_bytes]}}, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return LENGTH.pack(len(header)) + header


def header_length(first: bytes | bytearray, file_bytes: int) -> int:
    """The length in the first eight bytes; raises `Malformed` if it exceeds the limit or the file."""
    if len(first) < LENGTH.size:
        raise Malformed("it is too short for a safetensors file")
    (length,) = LENGTH.unpack_from(first)
    if length > limits.SAFETENSORS_HEADER_BYTES_MAX or LENGTH.size + length > file_bytes:
        raise Malformed(f"its header claims {length} bytes")
    return int(length)


def parse_header(
    header: bytes | bytearray, file_bytes: int, item_bytes: Mapping[str, int] = DTYPE_BYTES
) -> tuple[StoredTensor, ...]:
    """The tensors in the order of their data.

    Raises `Malformed` unless they fill the file exactly, once each, and all have a type of `item_bytes`.
    """
    tensors = _decode(header)
    tensors.pop(_METADATA, None)
    if len(tensors) > limits.TENSORS_MAX:
        raise Malformed(f"it names more than {limits.TENSORS_MAX} tensors")
    start = LENGTH.size + len(header)
    stored = sorted(
        (_stored(name, entry, start, item_bytes) for name, entry in tensors.items()),
        key=lambda each: each.start,
    )
    end = start
    for tensor in stored:
        if tensor.start != end:
            raise Malformed(f"tensor {tensor.name} overlaps another or leaves a gap")
        end += tensor.size_bytes
    if end != file_bytes:
        raise Malformed(f"it has {file_bytes} bytes where its header accounts for {end}")
    return tuple(stored)


def parse_metadata(header: bytes | bytearray) -> dict[str, str]:
    """What the header says beside its tensors, nothing if it is not text by name. Raises `Malformed`."""
    metadata = _decode(header).get(_METADATA)
    if not isinstance(metadata, dict):
        return {}
    return {name: text for name, text in metadata.items() if isinstance(text, str)}


def _decode(header: bytes | bytearray) -> dict[str, Any]:
    try:
        decoded = json.loads(header.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"its header is not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise Malformed("its header is not a JSON object")
    return decoded


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    decoded = dict(pairs)
    if len(decoded) != len(pairs):
        raise Malformed("its header names something twice")
    return decoded


def _refuse_constant(constant: str) -> NoReturn:
    raise Malformed(f"its header contains {constant}")


def _stored(name: str, entry: Any, data_start: int, item_bytes: Mapping[str, int]) -> StoredTensor:
    if not _NAME.fullmatch(name):
        raise Malformed(f"a tensor is called {name[:64]!r}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Malformed(f"tensor {name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in item_bytes:
        raise Malformed(
            f"tensor {name} has type {str(dtype)[:16]!r}, and weft reads {', '.join(DTYPE_BYTES)}"
        )
    if not _are_integers(shape, 1, _EXTENT_MAX) or len(shape) > _DIMENSIONS_MAX:
        raise Malformed(f"tensor {name} has a shape that no tensor has")
    if not _are_integers(offsets, 0, 1 << 62) or len(offsets) != 2:
        raise Malformed(f"tensor {name} has no two offsets")
    size_bytes = math.prod(shape) * item_bytes[dtype]
    if offsets[1] - offsets[0] != size_bytes or size_bytes > limits.TENSOR_BYTES_MAX:
        raise Malformed(f"tensor {name} of {size_bytes} bytes lies at {offsets[0]} to {offsets[1]}")
    return StoredTensor(name, dtype, tuple(shape), data_start + offsets[0], size_bytes)


def _are_integers(values: Any, least: int, most: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and least <= value <= most for value in values)
