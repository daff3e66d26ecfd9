"""The report names the kernel that a worker would choose, and the reason in numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from inference.engine.device import Device
from inference.engine.kernels.linear import Kernel
from inference.engine.numerics.exactness import BLOCK_ROWS, WHOLE_FRAMES
from inference.engine.numerics.report import Question, Report, report, why
from inference.engine.numerics.selftest import Arithmetic, find_arithmetic
from inference.engine.numerics.timing import Timing
from inference.model.precision import PRECISIONS
from protocols.errors import UserError
from tests.inference.engine.checkpoints import save_checkpoint


def timing(kernel: Kernel, us: float) -> Timing:
    return Timing(kernel, dict.fromkeys(BLOCK_ROWS, us))


def test_the_report_says_what_a_worker_would_choose(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path)
    found = report(Question(str(tmp_path), device="cpu"))
    assert (found.device, found.device_why, found.unserved) == ("cpu", "it is the one that was asked for", ())
    assert [choice.dtype for choice in found.choices] == list(PRECISIONS)
    for choice in found.choices:
        arithmetic = find_arithmetic(checkpoint.config, choice.dtype, "exact")
        assert (choice.kernel, choice.numerics_class) == (arithmetic.kernel.value, arithmetic.numerics_class)
        assert choice.weights_bytes == checkpoint.config.range_bytes(checkpoint.config.whole, choice.dtype)
        assert choice.kernel in {times.kernel for times in choice.timings}
    assert msgspec.json.decode(msgspec.json.encode(found), type=Report) == found


def test_with_caches_in_8_bit_it_names_their_class_and_their_size(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    plain, rounded = (report(Question(str(tmp_path), device="cpu", kv=kv)) for kv in ("model", "int8"))
    for one, other in zip(plain.choices, rounded.choices, strict=True):
        item_bytes = 4 if one.dtype == "f32" else 2
        assert (one.kv_row_bytes, other.kv_row_bytes) == (12 * 16 * item_bytes, 12 * (16 + item_bytes))
        assert other.is_exact == one.is_exact
        assert other.numerics_class.endswith("/kv8")
        assert not one.numerics_class.endswith("/kv8")


def test_without_a_card_the_report_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = report(Question(dtypes=()))
    assert found.device == "cpu"
    assert found.device_why.startswith(f"torch {torch.__version__} ")
    with pytest.raises(UserError, match=r"worker\.device is cuda, and torch"):
        report(Question(dtypes=(), device="cuda"))


def test_on_an_accelerator_the_report_names_what_is_served_there(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Device(torch.device("cpu"), model="Card 1")
    monkeypatch.setattr("inference.engine.numerics.report.find_device", lambda _wanted: card)
    found = report(Question())
    assert found.device == "cpu Card 1"
    assert [(choice.dtype, choice.kernel, choice.timings) for choice in found.choices] == [
        ("bf16", "plain", ()),
        ("f32", "plain", ()),
    ]
    assert found.unserved == ("int8", "int4")


@pytest.mark.parametrize(
    ("timings", "chosen", "said"),
    [
        ((timing(Kernel.PLAIN, 5),), 0, "no other kernel of this torch serves it on this processor"),
        ((timing(Kernel.PACKED, 10), timing(Kernel.PLAIN, 25)), 0, "plain takes 2.50 times as long"),
        (
            (timing(Kernel.PACKED, 10), timing(Kernel.PLAIN, 8)),
            0,
            "plain takes 0.80 times as long, and would have to take less than 0.75 times as long to be preferred",
        ),
        (
            (timing(Kernel.PACKED, 10), timing(Kernel.PLAIN, 25)),
            1,
            "packed is quicker, but its rows depend on each other",
        ),
    ],
)
def test_the_reason_is_told_in_numbers(timings: tuple[Timing, ...], chosen: int, said: str) -> None:
    found = Arithmetic(timings[chosen].kernel, WHOLE_FRAMES, False, "", timings)
    assert why(found) == said
    assert why(replace(found, is_exact=True)) == said


def test_a_folder_without_a_model_and_an_unknown_dtype_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a model folder"):
        report(Question(str(tmp_path)))
    with pytest.raises(UserError, match="choose one of bf16"):
        report(Question(dtypes=("fp8",)))
