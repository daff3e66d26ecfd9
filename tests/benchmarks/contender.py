"""A runner in a process of its own, asked turn by turn, so that all contenders meet the same machine."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from protocols.errors import LocalFault, TimedOut

ROOT: Final = Path(__file__).parents[2]
LOAD_S: Final = 300.0
ORDER_S: Final = 120.0
READ_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Took:
    """An order, in wall-clock and processor time."""

    wall_s: float
    cpu_s: float


class Contender:
    """`kind` weft, transformers or llama.cpp; `dtype` as that one calls it. Raises `LocalFault` if it does not come up."""

    def __init__(self, kind: str, folder: Path, dtype: str, threads: int, vocabulary: int) -> None:
        self._name = f"{kind} {dtype}"
        self._vocabulary = vocabulary
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.engine_runners", kind, str(folder), dtype, str(threads)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._unread = b""
        loaded = self._answer(LOAD_S)
        self.peak_bytes, self.resident_bytes = loaded["peak_bytes"], loaded["resident_bytes"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def open(self, streams: int, context: int, rows_max: int) -> None:
        self._order({"do": "open", "streams": streams, "context": context, "rows_max": rows_max})

    def decode(self, tokens: int) -> Took:
        return self._order({"do": "decode", "tokens": tokens})

    def prefill(self, rows: int) -> Took:
        return self._order({"do": "prefill", "rows": rows})

    def close(self) -> None:
        self._order({"do": "close"})

    def _order(self, order: dict[str, Any]) -> Took:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order | {"vocabulary": self._vocabulary}).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answer(ORDER_S)
        return Took(answer["took_s"], answer["cpu_s"])

    def _answer(self, within_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            if not select.select([self._process.stdout], [], [], within_s)[0]:
                raise TimedOut(f"{self._name} has not answered within {within_s:g} s")
            read = self._process.stdout.read1(READ_BYTES)  # type: ignore[attr-defined]
            if not read:
                raise LocalFault(f"{self._name} has ended: its own output above says why")
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
