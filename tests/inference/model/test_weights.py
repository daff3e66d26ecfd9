"""Reading a range: only its tensors, each checked, and a sentence for every way a file can be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.model.config import NORM
from inference.model.weights import RangeReader
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
