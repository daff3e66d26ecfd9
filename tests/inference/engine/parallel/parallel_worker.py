"""A worker of two processes: `python parallel_worker.py SILENCE_S BACKEND FD`, as for `leading_engines`."""

from __future__ import annotations

import sys

from inference.engine.parallel.orders import RankLost
from inference.engine.parallel.starting import leading_engines
from inference.engine.worker.process import prepare, serve
from inference.engine.worker.settings import WorkerSettings

SETTINGS = WorkerSettings(1, 4_000_000, prefix_share=0.25, ranks=2)

if __name__ == "__main__":
    silence_s, backend, descriptor = sys.argv[1:]
    prepare(1)
    try:
        with leading_engines(SETTINGS, float(silence_s), backend) as (engines, ready):
            serve(int(descriptor), engines, ready)
    except RankLost as lost:
        sys.exit(f"weft worker: {lost}")
