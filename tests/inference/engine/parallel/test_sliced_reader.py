"""A rank reads its slices and nothing else, in whatever type they are stored, and keeps them apart from others'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.engine.kernels.linear import Kernel, as_wanted
from inference.engine.kernels.quantised import Int4Weight, Int8Weight
from inference.engine.kernels.quantised_folder import QuantisedFolder
from inference.engine.parallel.slices import Slice
from inference.engine.shard_reader import ShardReader
from inference.model.stored_tensors import StoredTensors
from mesh.state.tensor_file import StoredTensor
from tests.inference.engine.checkpoints import Checkpoint, save_checkpoint

ATTENTION = "model.layers.1.self_attn."
FFN = "model.layers.1.mlp."


def reader(
    checkpoint: Checkpoint, rank: int, dtype: str, kept: QuantisedFolder | None = None, of: int = 2
) -> ShardReader:
    return ShardReader(
        checkpoint.config, checkpoint.config.whole, checkpoint.tensors, dtype, lambda *_: None, kept,
        own=Slice(rank, of),
    )  # fmt: skip


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_slices_of_all_ranks_are_the_tensor_and_each_reads_its_own_bytes_alone(
    tmp_path: Path, stored: torch.dtype, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_checkpoint(tmp_path, "phi3")
    file = checkpoint.folder / "model.safetensors"
    saved = {name: weight.to(stored) for name, weight in load_file(file).items()}
    save_file(saved, file)
    read: list[int] = []
    read_into = StoredTensors.read_into

    def counted(file: StoredTensors, place: StoredTensor, offset: int, buffer: memoryview) -> None:
        read.append(len(buffer))
        read_into(file, place, offset, buffer)

    monkeypatch.setattr(StoredTensors, "read_into", counted)
    target = torch.float32 if dtype == "f32" else torch.bfloat16
    names = [
        f"{ATTENTION}qkv_proj.weight", f"{ATTENTION}o_proj.weight", f"{FFN}gate_up_proj.weight",
        f"{FFN}down_proj.weight", "model.layers.1.input_layernorm.weight",
    ]  # fmt: skip
    parts = []
    for rank in range(2):
        with reader(checkpoint, rank, dtype) as each:
            parts.append([each.read(name) for name in names])
    qkv, output, gate_up, down, norm = (saved[name].to(target) for name in names)
    for rank, (own_qkv, own_output, own_gate_up, own_down, own_norm) in enumerate(parts):
        query, key, value = (each.chunk(2)[rank] for each in qkv.split([64, 32, 32]))
        assert torch.equal(own_qkv, torch.cat([query, key, value]))
        assert torch.equal(own_output, output.chunk(2, 1)[rank])
        assert torch.equal(own_gate_up, torch.cat([each.chunk(2)[rank] for each in gate_up.chunk(2)]))
        assert torch.equal(own_down, down.chunk(2, 1)[rank])
        assert torch.equal(own_norm, norm)
    sliced = sum(saved[name].nbytes for name in names[:4])
    assert sum(read) == sliced + 2 * saved[names[4]].nbytes


@pytest.mark.parametrize(("dtype", "kernel"), [("int8", Kernel.INT8_WIDENED), ("int4", Kernel.INT4_WIDENED)])
def test_slices_are_quantised_by_themselves_and_kept_under_names_of_their_own(
    tmp_path: Path, dtype: str, kernel: Kernel
) -> None:
    # Wider than a group of 4-bit weights in each slice.
    plain = save_checkpoint(tmp_path / "model", intermediate_size=320)
    hashed = tuple(replace(tensor, content=f"{number:064x}") for number, tensor in enumerate(plain.tensors))
    checkpoint = replace(plain, tensors=hashed)
    saved = load_file(checkpoint.folder / "model.safetensors")
    kept = QuantisedFolder(tmp_path / "quantised")
    gate, up, down = (f"{FFN}{part}_proj.weight" for part in ("gate", "up", "down"))
    for rank in (0, 1, 0, 1):  # the second time from what was kept
        with reader(checkpoint, rank, dtype, kept) as each:
            found = [each.read_product(kernel, gate, up), each.read_product(kernel, down)]
        wide = [
            torch.cat([saved[name].chunk(2)[rank] for name in (gate, up)]),
            saved[down].chunk(2, 1)[rank],
        ]
        for own, expected in zip(found, wide, strict=True):
            quantised = as_wanted(expected.to(torch.bfloat16), kernel)
            assert isinstance(own, Int8Weight | Int4Weight)
            assert isinstance(quantised, Int8Weight | Int4Weight)
            assert torch.equal(own.widened(torch.float32), quantised.widened(torch.float32))
            assert torch.equal(own.scales, quantised.scales)
    assert len(list((tmp_path / "quantised").iterdir())) == 6
    with reader(checkpoint, 0, dtype, kept, of=1) as each:
        assert each.content(down) == hashed[[tensor.name for tensor in hashed].index(down)].content
