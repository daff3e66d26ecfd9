"""A worker of two processes that gives the other one a second: `python impatient_worker.py FD`."""

from __future__ import annotations

import sys

from inference.engine.parallel.orders import RankLost
from inference.engine.parallel.starting import leading_engines
from inference.engine.worker.process import prepare, serve

SILENCE_S = 1.0

if __name__ == "__main__":
    prepare(1)
    try:
        with leading_engines(2, 1, 4_000_000, "", 0.0, SILENCE_S) as engines:
            serve(int(sys.argv[1]), engines)
    except RankLost as lost:
        sys.exit(f"weft worker: {lost}")
