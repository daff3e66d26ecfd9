"""A GGUF file that lies about itself is refused in one line, whatever it claims."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.model.gguf.file import open_gguf
from protocols.errors import UserError
from tests.inference.model.gguf.gguf_files import add_byte_tokenizer, random_model, write_gguf

UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9
HUGE = (1 << 63) - 1


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(key: str, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def tensor(name: str = "t", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)


def head(*parts: bytes, magic: bytes = b"GGUF", version: int = 3, tensors: int = 0, values: int = 0) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, values) + b"".join(parts)


def complaint(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(UserError) as refused, open_gguf(path):
        pass
    said = str(refused.value)
    assert said.startswith(f"{path} is not a sound GGUF file (")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "in the middle of its head"),
        (b"GGU", "in the middle of its head"),
        (head(magic=b"PK\3\4"), "does not begin with GGUF"),
        (head(version=1), "its version is 1"),
        (head(version=3 << 24), "its version is 50331648, and weft reads 2 and 3, little-endian"),
        (head(tensors=HUGE), f"claims {HUGE} tensors"),
        (head(values=HUGE), f"tensors and {HUGE} values"),
        (head(values=1), "in the middle of its head"),
        (head(struct.pack("<Q", HUGE), values=1), "in the middle of its head"),
        (head(value("k", 99, b""), values=1), "unknown type 99"),
        (head(value("k", STRING, struct.pack("<Q", HUGE)), values=1), "in the middle of its head"),
        (head(value("k", STRING, struct.pack("<Q", 1) + b"\xff"), values=1), "not UTF-8"),
        (head(value("k", ARRAY, struct.pack("<IQ", 0, HUGE)), values=1), f"claims {HUGE} items"),
        (head(value("k", ARRAY, struct.pack("<IQ", STRING, 1 << 20)), values=1), "in the middle of"),
        (head(value("k", ARRAY, struct.pack("<IQ", ARRAY, 1)), values=1), "a list of lists"),
        (head(*[value("k", UINT32, b"\1\0\0\0")] * 2, values=2), "'k' twice"),
        (
            head(value("general.alignment", UINT32, struct.pack("<I", 3)), values=1),
            "its alignment is 3",
        ),
        (
            head(value("general.alignment", FLOAT32, struct.pack("<f", 32)), values=1),
            "general.alignment is no int",
        ),
        (head(tensor(shape=()), tensors=1), "has 0 dimensions"),
        (head(tensor(shape=(1,) * 5), tensors=1), "has 5 dimensions"),
        (head(tensor(shape=(8, 0)), tensors=1), "a shape that no tensor has"),
        (head(tensor(shape=(1 << 62, 4)), tensors=1), "a shape that no tensor has"),
        (head(tensor(kind=77), tensors=1), "unknown type 77"),
        (head(tensor(kind=8, shape=(33,)), tensors=1), "rows of 33, which are no blocks of 32"),
        (head(tensor("n" * 300), tensors=1), "an endless name"),
        (head(tensor(), tensors=1), "within its tensor 't'"),
        (head(tensor(offset=3), tensors=1, values=0), "between two places"),
        (head(tensor(), tensor(offset=64), tensors=2) + b"\0" * 512, "tensor 't' twice"),
        (head(tensor("a"), tensor("b"), tensors=2) + b"\0" * 512, "lies within another"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    assert said in complaint(tmp_path / "m.gguf", data)


def test_claims_of_any_size_take_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    for kind in range(14):
        complaint(
            tmp_path / "m.gguf", head(value("k", ARRAY, struct.pack("<IQ", kind, (1 << 22) - 1)), values=1)
        )
        complaint(tmp_path / "m.gguf", head(value("k", ARRAY, struct.pack("<IQ", kind, HUGE)), values=1))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.999])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, share: float) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), describe=add_byte_tokenizer)
    data = path.read_bytes()
    complaint(path, data[: int(len(data) * share)])


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.gguf", "there is no file"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=said), open_gguf(path):
            pass


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_head_with_any_bytes_altered_opens_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = head(
        value("general.alignment", UINT32, struct.pack("<I", 32)),
        value("l", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("b")),
        tensor("a"),
        tensor("b", (32, 2), 8, 32),
        tensors=2,
        values=2,
    )
    altered = bytearray(whole + b"\0" * 160)
    for _ in range(data.draw(st.integers(1, 4))):
        altered[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.gguf"
    path.write_bytes(altered)
    said = ""
    try:
        with open_gguf(path) as file:
            for each in file.tensors.values():
                file.read(each, 0, 1)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
