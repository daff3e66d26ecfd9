"""Reading a range: only its tensors, each checked, and a sentence for every way a file can be wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.model import weights
from inference.model.config import NORM
from inference.model.stored_tensors import StoredTensors
from inference.model.weights import RangeReader
from mesh.state.tensor_file import LENGTH, StoredTensor
from protocols import limits
from protocols.errors import UserError
from protocols.placement import LayerRange
from tests.inference.engine.checkpoints import Checkpoint, save_checkpoint

GATE = "model.layers.1.mlp.gate_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"
MIDDLE = LayerRange(1, 2)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return save_checkpoint(tmp_path)


def reader(
    checkpoint: Checkpoint, dtype: str = "f32", told: list[tuple[int, int]] | None = None
) -> RangeReader:
    heard = [] if told is None else told
    return RangeReader(
        checkpoint.config, MIDDLE, checkpoint.tensors, dtype, lambda done, total: heard.append((done, total))
    )


def rewrite(checkpoint: Checkpoint, name: str, tensor: torch.Tensor) -> None:
    path = checkpoint.folder / "model.safetensors"
    save_file({**load_file(path), name: tensor}, path)


def test_tensors_come_as_they_were_saved_and_survive_their_file(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / "model.safetensors"
    saved = {name: tensor.clone() for name, tensor in load_file(path).items()}
    with reader(checkpoint) as opened:
        gate = opened.read(GATE)
        both = opened.read_joined(GATE, UP)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(gate, saved[GATE])
    assert torch.equal(both, torch.cat([saved[GATE], saved[UP]]))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_tensors_are_converted_to_the_type_of_the_shard(
    checkpoint: Checkpoint, stored: torch.dtype, dtype: str
) -> None:
    tensor = torch.randn(112, 48).to(stored)
    rewrite(checkpoint, GATE, tensor)
    wanted = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    with reader(checkpoint, dtype) as opened:
        assert torch.equal(opened.read(GATE), tensor.to(wanted))


def test_progress_rises_to_the_bytes_of_the_range(checkpoint: Checkpoint) -> None:
    told: list[tuple[int, int]] = []
    with reader(checkpoint, "bf16", told) as opened:
        for name in checkpoint.config.tensor_names(MIDDLE):
            opened.read(name)
    total = checkpoint.config.range_bytes(MIDDLE, "bf16")
    assert told == sorted(told)
    assert told[-1] == (total, total)


def test_tensors_of_other_ranges_need_not_be_there(checkpoint: Checkpoint) -> None:
    wanted = checkpoint.config.tensor_names(MIDDLE)
    few = tuple(tensor for tensor in checkpoint.tensors if tensor.name in wanted)
    with reader(replace(checkpoint, tensors=few)) as opened:
        assert opened.read(GATE).shape == (112, 48)


def test_a_missing_tensor_is_named_before_anything_is_read(checkpoint: Checkpoint) -> None:
    few = tuple(tensor for tensor in checkpoint.tensors if tensor.name != GATE)
    with pytest.raises(UserError, match=GATE):
        reader(replace(checkpoint, tensors=few))


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (torch.zeros(48, 112), r"shape \(48, 112\), and config.json says \(112, 48\)"),
        (torch.zeros(112, 48, dtype=torch.int8), "type I8"),
        (torch.zeros(112, 48, dtype=torch.float64), "type F64"),
    ],
)
def test_a_tensor_that_is_not_what_the_configuration_says_is_refused(
    checkpoint: Checkpoint, tensor: torch.Tensor, complaint: str
) -> None:
    rewrite(checkpoint, GATE, tensor)
    with reader(checkpoint) as opened, pytest.raises(UserError, match=complaint):
        opened.read(GATE)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 2700, -1])
def test_a_tensor_with_a_value_that_is_not_finite_is_refused_by_name(
    checkpoint: Checkpoint, stored: torch.dtype, value: float, at: int
) -> None:
    tensor = torch.randn(112, 48).to(stored)
    tensor.view(-1)[at] = value
    rewrite(checkpoint, GATE, tensor)
    with (
        reader(checkpoint, "bf16") as opened,
        pytest.raises(UserError, match=f"{GATE} has values.* not finite"),
    ):
        opened.read(GATE)


def test_a_value_too_large_for_the_type_of_the_shard_is_refused(checkpoint: Checkpoint) -> None:
    rewrite(checkpoint, GATE, torch.full((112, 48), 3.4e38))
    with reader(checkpoint, "f32") as opened:
        assert opened.read(GATE).shape == (112, 48)
    with reader(checkpoint, "bf16") as opened, pytest.raises(UserError, match="not finite in this type"):
        opened.read(GATE)


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("qwen2", "self_attn.k_proj.bias"),
        ("gemma2", "post_feedforward_layernorm.weight"),
        ("phi3", "mlp.gate_up_proj.weight"),
        ("qwen3_moe", "mlp.experts.3.down_proj.weight"),
        ("qwen3_moe", "mlp.gate.weight"),
    ],
)
def test_a_shard_refuses_a_tensor_of_another_shape_by_name(tmp_path: Path, family: str, part: str) -> None:
    checkpoint = save_checkpoint(tmp_path, family)
    name = f"model.layers.1.{part}"
    shape = checkpoint.config.expected_shape(name)
    rewrite(checkpoint, name, torch.zeros(*shape[:-1], shape[-1] + 1))
    with pytest.raises(UserError, match=rf"tensor {name} has shape .*, and config.json says"):
        checkpoint.engine(MIDDLE, "f32")


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 64, b"\x80\x02}q\x00." * 9])
def test_a_corrupt_file_is_refused(checkpoint: Checkpoint, content: bytes) -> None:
    (checkpoint.folder / "model.safetensors").write_bytes(content)
    with reader(checkpoint) as opened, pytest.raises(UserError, match="cannot be read"):
        opened.read(GATE)


def lie(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the header of a file, its data left as it is."""
    data = path.read_bytes()
    (length,) = LENGTH.unpack_from(data)
    header = json.loads(data[LENGTH.size : LENGTH.size + length])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(LENGTH.pack(len(encoded)) + encoded + data[LENGTH.size + length :])


def moved(by: int) -> Callable[[dict[str, Any]], object]:
    def change(header: dict[str, Any]) -> None:
        start, end = header[GATE]["data_offsets"]
        header[GATE]["data_offsets"] = [start + by, end + by]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (moved(1 << 40), "leaves a gap"),  # beyond the end
        (moved(-4), "overlaps"),
        (moved(4), "overlaps"),
        (moved(-(1 << 40)), "no two offsets"),
        (lambda header: header[GATE]["data_offsets"].reverse(), "lies at"),
        (lambda header: header[GATE].update(shape=[112, 1 << 31]), "lies at"),
        (lambda header: header[GATE].update(dtype="F64"), "lies at"),
        (lambda header: header[GATE].update(data_offsets=header[UP]["data_offsets"]), "overlaps"),
        (lambda header: header.pop(UP), "leaves a gap"),
    ],
)
def test_a_header_that_lies_about_a_place_is_refused_in_one_line(
    checkpoint: Checkpoint, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    lie(checkpoint.folder / "model.safetensors", change)
    with reader(checkpoint) as opened, pytest.raises(UserError, match="cannot be read") as caught:
        opened.read(GATE)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_longer_than_the_bound_is_refused_unread(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / "model.safetensors"
    with path.open("r+b") as file:
        file.write(LENGTH.pack(limits.SAFETENSORS_HEADER_BYTES_MAX + 1))
        file.truncate(2 * limits.SAFETENSORS_HEADER_BYTES_MAX)
    with reader(checkpoint) as opened, pytest.raises(UserError, match=r"cannot be read \(its header claims"):
        opened.read(GATE)


def test_a_file_cut_short_while_it_is_read_is_refused(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / "model.safetensors"
    names = checkpoint.config.tensor_names(MIDDLE)
    with reader(checkpoint) as opened:
        opened.read(GATE)
        os.truncate(path, 1000)
        with pytest.raises(UserError, match=r"cannot be read: it has become shorter than it was: download"):
            for name in names:
                opened.read(name)


def test_a_file_that_is_replaced_while_it_is_read_stays_the_one_it_was(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / "model.safetensors"
    saved = load_file(path)[UP].clone()
    with reader(checkpoint) as opened:
        opened.read(GATE)
        path.unlink()
        path.write_bytes(b"another")
        assert torch.equal(opened.read(UP), saved)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("at_once", [1, 5, 111, 112, 500])
def test_rows_read_a_few_at_a_time_are_those_of_the_whole(
    checkpoint: Checkpoint, stored: torch.dtype, at_once: int
) -> None:
    rewrite(checkpoint, GATE, torch.randn(112, 48).to(stored))
    told: list[tuple[int, int]] = []
    with reader(checkpoint, "bf16", told) as opened:
        whole = opened.read(GATE)
        parts = [(rows, part.clone()) for rows, part in opened.read_rows(GATE, at_once)]
    assert torch.equal(torch.cat([part for _, part in parts]), whole)
    assert all(torch.equal(whole[rows], part) for rows, part in parts)
    assert max(len(part) for _, part in parts) == min(at_once, 112)
    assert told[1][0] == 2 * told[0][0]


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_of_a_tensor_in_another_type_no_more_than_a_piece_is_held(
    checkpoint: Checkpoint, stored: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.randn(112, 48).to(stored)
    rewrite(checkpoint, GATE, tensor)
    held: list[int] = []
    read_into = StoredTensors.read_into

    def counted(file: StoredTensors, place: StoredTensor, offset: int, buffer: memoryview) -> None:
        held.append(len(buffer))
        read_into(file, place, offset, buffer)

    monkeypatch.setattr(StoredTensors, "read_into", counted)
    monkeypatch.setattr(weights, "_PIECE_ITEMS", 500)
    with reader(checkpoint, "bf16") as opened:
        assert torch.equal(opened.read(GATE), tensor.to(torch.bfloat16))
    assert max(held) == 500 * stored.itemsize
    assert sum(held) == tensor.nbytes


def test_a_truncated_or_vanished_file_is_refused(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with reader(checkpoint) as opened, pytest.raises(UserError, match="cannot be read"):
        opened.read(GATE)
    path.unlink()
    with reader(checkpoint) as opened, pytest.raises(UserError, match="cannot be read"):
        opened.read(GATE)


def test_a_key_that_is_not_in_its_file_is_refused(checkpoint: Checkpoint) -> None:
    wrong = tuple(replace(tensor, key="elsewhere") for tensor in checkpoint.tensors)
    with (
        reader(replace(checkpoint, tensors=wrong)) as opened,
        pytest.raises(UserError, match="cannot be read"),
    ):
        opened.read(GATE)


def test_tensors_may_lie_in_a_file_each(checkpoint: Checkpoint, tmp_path: Path) -> None:
    saved = load_file(checkpoint.folder / "model.safetensors")
    files = []
    for index, tensor in enumerate(checkpoint.tensors):
        path = tmp_path / f"{index}.safetensors"
        save_file({"tensor": saved[tensor.name]}, path)
        files.append(replace(tensor, path=str(path), key="tensor"))
    with RangeReader(checkpoint.config, checkpoint.config.whole, files, "f32", lambda *_: None) as opened:
        assert all(torch.equal(opened.read(name), saved[name]) for name in (NORM, GATE, UP, NORM))
