"""What does the decoding in a process of its own: weft's engine, transformers, llama.cpp, each behind the same five calls.

    python -m tests.benchmarks.engine_runners KIND FOLDER DTYPE THREADS

One order per line of stdin, one answer per line of stdout: {"took_s": wall, "cpu_s": processor time of the process}, or
{"error": ...}. All take the greedy token, after the same random contexts, on as many threads as they are told.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

from inference.engine.worker.process import openmp_settings


class Runner(Protocol):
    """A loaded model with some sequences under way."""

    def open(self, contexts: Sequence[Sequence[int]], rows_max: int) -> None:
        """Begin one sequence per context, each of which may come to `rows_max` rows."""

    def decode(self, tokens: int) -> None:
        """That many further tokens of every sequence."""

    def prefill(self, prompt: Sequence[int]) -> None:
        """The prompt up to its first token, in a sequence of its own that ends with it."""

    def close(self) -> None:
        """End all sequences."""


def main(arguments: Sequence[str]) -> None:
    kind, folder, dtype, threads = arguments
    os.environ.update(
        openmp_settings(int(threads))
    )  # contenders take turns; whoever spins on slows the next one
    runner = make_runner(kind, folder, dtype, int(threads))
    tell({"peak_bytes": peak_bytes(), "resident_bytes": resident_bytes()})
    for line in sys.stdin:
        order = json.loads(line)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        obey(runner, order)
        tell({"took_s": time.perf_counter() - began_s, "cpu_s": time.process_time() - began_cpu_s})


def make_runner(kind: str, folder: str, dtype: str, threads: int) -> Runner:
    if kind == "weft":
        from tests.benchmarks.weft_runner import WeftRunner

        return WeftRunner(folder, dtype, threads)
    if kind == "transformers":
        from tests.benchmarks.transformers_runner import TransformersRunner

        return TransformersRunner(folder, dtype, threads)
    from tests.benchmarks.llamacpp_runner import LlamaCppRunner

    return LlamaCppRunner(folder, dtype, threads)


def obey(runner: Runner, order: dict[str, Any]) -> None:
    rng = Random(7)

    def words(count: int) -> list[int]:
        return [rng.randrange(1, order["vocabulary"]) for _ in range(count)]

    if order["do"] == "open":
        runner.open([words(order["context"]) for _ in range(order["streams"])], order["rows_max"])
    elif order["do"] == "decode":
        runner.decode(order["tokens"])
    elif order["do"] == "prefill":
        runner.prefill(words(order["rows"]))
    else:
        runner.close()


def tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def resident_bytes() -> int:
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    with Path("/proc/self/status").open(encoding="ascii") as status:
        for line in status:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
