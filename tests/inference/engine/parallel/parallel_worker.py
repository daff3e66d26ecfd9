"""A worker of two processes: `python parallel_worker.py SILENCE_S BACKEND FD`, as for `leading_engines`."""

from __future__ import annotations

import sys

from inference.engine.parallel.orders import RankLost
from inference.engine.parallel.starting import leading_engines
from inference.engine.worker.process import prepare, serve

if __name__ == "__main__":
    silence_s, backend, descriptor = sys.argv[1:]
    prepare(1)
    try:
        with leading_engines(2, 1, 4_000_000, "", 0.25, "model", float(silence_s), backend) as engines:
            serve(int(descriptor), engines)
    except RankLost as lost:
        sys.exit(f"weft worker: {lost}")
