"""Brings the ranks of a worker together. No torch until the others are started: they import it at the same time."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from inference.engine.parallel.followers import Followers
from inference.engine.parallel.orders import RankLost
from inference.engine.parallel.slices import Slice
from inference.engine.worker.server import Engines
from protocols import limits

_UP_SHARE: Final = 0.9  # of the time that the daemon gives this process


@contextmanager
def leading_engines(
    ranks: int,
    threads: int,
    memory_bytes: int,
    quantised: str,
    prefix_share: float,
    kv: str,
    silence_s: float = limits.RANK_SILENCE_S,
    backend: str = "",
) -> Iterator[Engines]:
    """Engines of which every shard is computed in `ranks` processes, this one and its children, which end with it. Each has
    `threads`, and `memory_bytes` are for all. `backend` is that of torch.distributed; empty: sockets, for what lies in the memory of
    the host. Raises `RankLost` when one ends or hangs."""
    own, until_met = Slice(0, ranks), ExitStack()
    folder = until_met.enter_context(tempfile.TemporaryDirectory(prefix="weft-ranks-")) if backend else ""
    meeting = str(Path(folder, "meeting")) if backend else ""
    arguments = (threads, memory_bytes, quantised, prefix_share, kv, silence_s, backend, meeting)
    with Followers(ranks, [str(each) for each in arguments], silence_s) as followers:
        from inference.engine.parallel.leading import LeadingEngines
        from inference.engine.parallel.meeting import make_exchange

        def on_child(_number: int, _frame: FrameType | None) -> None:
            # Whatever this process waits for or does: without the other there is nothing to go on with.
            if (lost := followers.lost()) is not None:
                raise lost

        signal.signal(signal.SIGCHLD, on_child)
        try:
            with until_met:
                followers.wait_here(_UP_SHARE * limits.WORKER_START_S)
                exchange = make_exchange(own, followers.pairs, silence_s, backend, meeting)
            yield LeadingEngines(
                followers,
                own,
                exchange,
                threads,
                memory_bytes,
                time.perf_counter,
                quantised,
                prefix_share,
                kv,
            )
        except RankLost as lost:
            raise followers.lost() or lost from lost
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
