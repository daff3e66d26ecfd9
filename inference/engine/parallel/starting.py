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
from inference.engine.worker.settings import WorkerSettings, as_argument
from inference.engine.worker.wire import Ready
from protocols import limits

_UP_SHARE: Final = 0.9  # of the time that the daemon gives this process


@contextmanager
def leading_engines(
    settings: WorkerSettings, silence_s: float = limits.RANK_SILENCE_S, backend: str = ""
) -> Iterator[tuple[Engines, Ready]]:
    """Engines of which every shard is computed in several processes, this one and its children, which end with it. `backend` is
    that of torch.distributed; empty: as the device wants it. Raises `RankLost` when one ends or hangs, `UserError` for devices that are
    not to be had."""
    own, until_met = Slice(0, settings.ranks), ExitStack()
    folder = until_met.enter_context(tempfile.TemporaryDirectory(prefix="weft-ranks-"))
    meeting = str(Path(folder, "meeting"))
    arguments = [as_argument(settings), str(silence_s), backend, meeting]
    with until_met, Followers(settings.ranks, arguments, silence_s) as followers:
        from inference.engine.device import find_device
        from inference.engine.parallel.leading import LeadingEngines
        from inference.engine.parallel.meeting import make_exchange, with_room

        device = find_device(settings.device, own.rank, own.of)

        def on_child(_number: int, _frame: FrameType | None) -> None:
            # Whatever this process waits for or does: without the other there is nothing to go on with.
            if (lost := followers.lost()) is not None:
                raise lost

        signal.signal(signal.SIGCHLD, on_child)
        try:
            followers.wait_here(_UP_SHARE * limits.WORKER_START_S)
            exchange = make_exchange(own, followers.pairs, device, silence_s, backend, meeting)
            until_met.close()
            settings = with_room(settings, device, exchange)
            engines = LeadingEngines(followers, own, exchange, settings, time.perf_counter, device)
            yield engines, Ready(device.kind, settings.memory_bytes)
        except RankLost as lost:
            raise followers.lost() or lost from lost
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
