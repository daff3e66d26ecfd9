"""`make bench NAME=chain`, `engine`, `mesh` or `sim`, or one part of it: figures as JSON lines on stdout and nothing else there; what goes on is told
on stderr.

Exits 0 whatever the figures are, since a bar that is missed is the reader's to judge, and 1 if something could not be measured.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Final

from protocols.errors import WeftError
from protocols.exit_codes import ExitCode
from tests.benchmarks import chain, engine, mesh, sim
from tests.benchmarks.figures import Figure, append_to_ledger, commit_of_tree

Benchmark = Callable[[Callable[[str], None]], Iterator[Figure]]
BENCHMARKS: Final[dict[str, Benchmark]] = {
    "chain": chain.measure,
    "engine": engine.measure,
    **{f"engine:{name}": part for name, part in engine.PARTS.items()},
    "mesh": mesh.measure,
    **{f"mesh:{name}": part for name, part in mesh.PARTS.items()},
    "sim": sim.measure,
    **{f"sim:{name}": part for name, part in sim.PARTS.items()},
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench", description="Measure, and print figures as JSON lines.")
    parser.add_argument("name", nargs="?", default="", help=f"one of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--ledger", action="store_true", help="keep the figures in ledger.jsonl as well")
    options = parser.parse_args(arguments)
    if options.name not in BENCHMARKS:
        said = f"there is no benchmark {options.name!r}" if options.name else "name a benchmark"
        return _complain(f"{said}: 'make bench NAME=...' takes {', '.join(BENCHMARKS)}.", ExitCode.USAGE)
    try:
        commit = commit_of_tree() if options.ledger else ""
        figures: list[Figure] = []
        try:
            _run(BENCHMARKS[options.name], figures)
        finally:
            if commit:
                append_to_ledger(figures, commit)
    except (WeftError, OSError) as error:
        return _complain(str(error), ExitCode.FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", ExitCode.INTERRUPTED)
    return ExitCode.OK


def _run(benchmark: Benchmark, figures: list[Figure]) -> None:
    """Adds to `figures` what is measured, also if it ends in an error."""
    began_s = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began_s:5.0f} s] {line}", file=sys.stderr, flush=True)

    for figure in benchmark(say):
        figures.append(figure)
        print(figure.as_json(), flush=True)
    say("done")


def _complain(message: str, code: ExitCode) -> ExitCode:
    print(f"bench: {message}", file=sys.stderr)
    return code


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # so that the daemons end with it
    sys.exit(main(sys.argv[1:]))
