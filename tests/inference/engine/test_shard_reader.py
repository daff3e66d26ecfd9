"""Products as their kernels take them: of what is quantised, no more than some rows lie in memory as they were stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inference.engine.kernels import quantised
from inference.engine.kernels.linear import Kernel, as_wanted
from inference.engine.shard_reader import ShardReader
from inference.model.stored_tensors import StoredTensors
from mesh.state.tensor_file import StoredTensor
from tests.inference.engine.checkpoints import save_checkpoint

NAMES = ("model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight")
ROWS_AT_ONCE = 5
ROW_BYTES = 48 * 4


@pytest.mark.parametrize(
    ("dtype", "kernel"), [("int8", Kernel.INT8_ONEDNN), ("int4", Kernel.INT4_GROUPED), ("bf16", Kernel.PLAIN)]
)
def test_a_product_is_that_of_its_tensors_together_and_quantised_some_rows_at_a_time(
    tmp_path: Path, dtype: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_checkpoint(tmp_path)
    saved = load_file(checkpoint.folder / "model.safetensors")
    whole = torch.cat([saved[name] for name in NAMES]).to(torch.bfloat16)
    expected = as_wanted(whole, kernel)
    held: list[int] = []
    read_into = StoredTensors.read_into

    def counted(file: StoredTensors, place: StoredTensor, offset: int, buffer: memoryview) -> None:
        held.append(len(buffer))
        read_into(file, place, offset, buffer)

    monkeypatch.setattr(StoredTensors, "read_into", counted)
    monkeypatch.setattr(quantised, "_PIECE_ITEMS", ROWS_AT_ONCE * 48)
    with ShardReader(
        checkpoint.config, checkpoint.config.whole, checkpoint.tensors, dtype, lambda *_: None
    ) as reader:
        found = reader.read_product(kernel, *NAMES)
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, expected)
        return
    assert not isinstance(found, torch.Tensor)
    assert found.shape == expected.shape
    assert torch.equal(found.widened(torch.float32), expected.widened(torch.float32))
    assert max(held) == ROWS_AT_ONCE * ROW_BYTES
    assert sum(held) == len(whole) * ROW_BYTES
