"""`weft doctor` asks a process of its own, and prints what that finds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from inference.engine.numerics.report import MISTAKEN
from node.cli import doctor as module
from node.cli.doctor import doctor
from protocols.errors import LocalFault, TimedOut, UserError, WeftError

FOUND = {
    "device": "cpu",
    "device_why": "torch 2.9.0 is built without CUDA",
    "capability": "AVX512",
    "threads": 2,
    "choices": [
        {
            "dtype": "int8",
            "kernel": "int8-onednn",
            "rows": "1+2+4",
            "is_exact": True,
            "numerics_class": "exact/int8/cpu/AVX512",
            "weights_bytes": 3 << 30,
            "why": "int8-fbgemm takes 1.54 times as long",
            "timings": [
                {"kernel": "int8-onednn", "us": {"1": 487.2, "8": 340.0}},
                {"kernel": "int8-fbgemm", "us": {"1": 488.0, "8": 628.4}},
            ],
            "kv_row_bytes": 23_232,
        }
    ],
    "unserved": [],
}
TEXT = """\
device: cpu (torch 2.9.0 is built without CUDA)
cpu with AVX512, 2 threads; times in microseconds of one product

int8: int8-onednn in blocks of 1+2+4 rows, exact, 3.0 GiB of weights, 22 MiB for every 1000 tokens of a session
  why: int8-fbgemm takes 1.54 times as long
  kernel       1 row  8 rows
  int8-onednn  487    340
  int8-fbgemm  488    628
"""

CARD_TEXT = """\
device: cuda NVIDIA H200 (torch 2.9.0 finds it)
not served there: int8, int4

bf16: plain in blocks of whole rows, not exact, 3.0 GiB of weights, 22 MiB for every 1000 tokens of a session
  why: torch's own product is what this device has
"""


def answer(monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str = "") -> list[dict[str, Any]]:
    """What the process is asked."""
    asked: list[dict[str, Any]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(json.loads(options["input"]))
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(module.subprocess, "run", run)
    return asked


def test_the_findings_are_a_table_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, 0, json.dumps(FOUND))
    assert CliRunner().invoke(doctor, ["--threads", "2", "--kv", "int8"]).output == TEXT
    assert asked == [{"model": "", "threads": 2, "device": "auto", "kv": "int8"}]


def test_a_card_is_named_with_what_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = {
        **FOUND["choices"][0],  # type: ignore[index]
        "dtype": "bf16",
        "kernel": "plain",
        "rows": "whole",
        "is_exact": False,
        "why": "torch's own product is what this device has",
        "timings": [],
    }
    found = FOUND | {
        "device": "cuda NVIDIA H200",
        "device_why": "torch 2.9.0 finds it",
        "choices": [choice],
        "unserved": ["int8", "int4"],
    }
    asked = answer(monkeypatch, 0, json.dumps(found))
    assert CliRunner().invoke(doctor, ["--device", "cuda"]).output == CARD_TEXT
    assert asked[0]["device"] == "cuda"


def test_json_is_what_the_process_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 0, json.dumps(FOUND))
    assert json.loads(CliRunner().invoke(doctor, ["--json"]).output) == FOUND


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [(MISTAKEN, UserError, "^no model there$"), (1, LocalFault, "ended with 1: no model there")],
)
def test_a_mistake_is_the_users_and_a_crash_is_ours(
    monkeypatch: pytest.MonkeyPatch, code: int, error: type[WeftError], says: str
) -> None:
    answer(monkeypatch, code, "", "no model there\n")
    with pytest.raises(error, match=says):
        CliRunner().invoke(doctor, ["folder"], catch_exceptions=False)


def test_a_busy_machine_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], timeout: float, **_: Any) -> Callable[[], None]:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(module.subprocess, "run", run)
    with pytest.raises(TimedOut, match="the machine is busy"):
        CliRunner().invoke(doctor, [], catch_exceptions=False)
