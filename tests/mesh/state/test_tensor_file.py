"""Heads of safetensors files: ours are those of the library, and every lie is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from mesh.state.tensor_file import (
    ITEM_BYTES,
    LENGTH,
    StoredTensor,
    header_length,
    parse_header,
    parse_metadata,
    write_head,
)
from protocols import limits
from protocols.errors import Malformed

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def parsed(file: bytes) -> tuple[StoredTensor, ...]:
    length = header_length(file[:8], len(file))
    return parse_header(file[8 : 8 + length], len(file))


def lying(header: object, data_bytes: int = 24) -> bytes:
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return LENGTH.pack(len(body)) + body + bytes(data_bytes)


def test_what_the_library_writes_is_read() -> None:
    one, two = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((4,), np.float16)
    file = save({"b.one": one, "a.two": two}, metadata={"format": "pt"})
    stored = {tensor.name: tensor for tensor in parsed(file)}
    assert stored["b.one"].shape == (2, 3)
    assert stored["a.two"].dtype == "F16"
    for name, array in (("b.one", one), ("a.two", two)):
        start = stored[name].start
        assert file[start : start + stored[name].size_bytes] == array.tobytes()


@pytest.mark.parametrize(
    "array", [np.arange(6).astype(dtype) for dtype in ("?", "u1", "i2", "u4", "f8", "i8")]
)
def test_other_types_are_read_where_they_are_wanted(array: np.typing.NDArray[Any]) -> None:
    file = save({"a": array}, metadata={"format": "pt", "b": "2"})
    header = file[8 : 8 + header_length(file[:8], len(file))]
    (tensor,) = parse_header(header, len(file), ITEM_BYTES)
    assert file[tensor.start :] == array.tobytes()
    assert parse_metadata(header) == {"format": "pt", "b": "2"}
    with pytest.raises(Malformed, match="type"):
        parse_header(header, len(file))


def test_a_header_without_metadata_says_nothing_more() -> None:
    assert parse_metadata(b"{}") == parse_metadata(b'{"__metadata__": [1]}') == {}
    assert parse_metadata(b'{"__metadata__": {"a": "b", "c": 1}}') == {"a": "b"}


def test_what_is_written_the_library_reads(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "one.safetensors"
    path.write_bytes(write_head("ab" * 32, "F32", (3, 4), 48) + array.tobytes())
    assert (load_file(path)["ab" * 32] == array).all()


@pytest.mark.parametrize(
    ("header", "data_bytes", "complaint"),
    [
        (b"not json", 0, "not JSON"),
        (b"[]", 0, "not a JSON object"),
        (b"\xff\xfe", 0, "not JSON"),
        (b"[" * 100_000, 0, "not JSON"),
        (b'{"a": NaN}', 0, "NaN"),
        (b'{"a": {}, "a": {}}', 0, "twice"),
        ({"../a": ENTRY}, 24, "is called"),
        ({"": ENTRY}, 24, "is called"),
        ({"a": [1]}, 24, "not described"),
        ({"a": ENTRY | {"more": 1}}, 24, "not described"),
        ({"a": ENTRY | {"dtype": "I64"}}, 24, "type"),
        ({"a": ENTRY | {"dtype": ["F32"]}}, 24, "type"),
        ({"a": ENTRY | {"shape": [2, -3]}}, 24, "shape"),
        ({"a": ENTRY | {"shape": [2, True]}}, 24, "shape"),
        ({"a": ENTRY | {"shape": [0, 3]}}, 24, "shape"),
        ({"a": ENTRY | {"shape": [1, 1, 1, 2, 3]}}, 24, "shape"),
        ({"a": ENTRY | {"shape": [1 << 32, 1 << 32]}}, 24, "lies at"),
        ({"a": ENTRY | {"data_offsets": [0, 20]}}, 24, "lies at"),
        ({"a": ENTRY | {"data_offsets": [24, 0]}}, 24, "lies at"),
        ({"a": ENTRY | {"data_offsets": [0]}}, 24, "offsets"),
        ({"a": ENTRY | {"data_offsets": [4, 28]}}, 28, "gap"),
        ({"a": ENTRY, "b": ENTRY}, 24, "overlaps"),
        ({"a": ENTRY}, 25, "accounts for"),
        ({"a": ENTRY}, 23, "accounts for"),
    ],
)
def test_lies_in_a_header_are_refused(header: object, data_bytes: int, complaint: str) -> None:
    with pytest.raises(Malformed, match=complaint):
        parsed(lying(header, data_bytes))


@pytest.mark.parametrize(
    "first", [b"", b"\0\0", LENGTH.pack(1 << 63), LENGTH.pack(limits.SAFETENSORS_HEADER_BYTES_MAX + 1)]
)
def test_a_header_longer_than_the_limit_or_the_file_is_refused(first: bytes) -> None:
    with pytest.raises(Malformed):
        header_length(first, 1 << 40)
    with pytest.raises(Malformed):
        header_length(LENGTH.pack(100), 107)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values | st.fixed_dictionaries({"a": json_values}))
def test_any_header_is_read_or_refused(header: Any) -> None:
    try:
        tensors = parsed(lying(header))
    except Malformed:
        return
    assert sum(tensor.size_bytes for tensor in tensors) == 24
