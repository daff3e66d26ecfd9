"""The processes of the ranks that do not lead, as the one that does sees them.

Each holds one end of a socketpair and lives as long as the other: if the leader ends, however it does, so do they. Nobody is
waited for without a bound. No torch here: they are started before it is imported, so that all import it at once.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from inference.engine.parallel.orders import Here, Order, RankLost, Read, encoded, receive_answer
from inference.engine.worker.wire import Failed
from protocols import limits

MODULE: Final = "inference.engine.parallel.follower"
_LOADING: Final = 10  # times as long may one be silent: a tensor may come from a slow disk


@dataclass(frozen=True, slots=True)
class _Follower:
    rank: int
    process: subprocess.Popen[bytes]
    end: socket.socket


class Followers:
    """All ranks but the first, from `with` to its end."""

    def __init__(self, of: int, arguments: Sequence[str], silence_s: float) -> None:
        """Starts `follower RANK arguments... PAIRS FD` for each, PAIRS its ends of the socketpairs between every two ranks, such as
        `0:7,2:9`. None may be silent for longer than `silence_s` when it is asked. `pairs` are this rank's ends."""
        self._of = of
        self._silence_s = silence_s
        ends: dict[tuple[int, int], socket.socket] = {}
        for lower in range(of):
            for higher in range(lower + 1, of):
                ends[lower, higher], ends[higher, lower] = socket.socketpair()
        own = {rank: {other: ends[rank, other] for other in range(of) if other != rank} for rank in range(of)}
        self.pairs = own.pop(0)
        self._followers = [self._started(rank, arguments, pairs) for rank, pairs in own.items()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in (*self.pairs.values(), *(each.end for each in self._followers)):
            end.close()
        for each in self._followers:
            with suppress(subprocess.TimeoutExpired):
                # Before the daemon's patience with this process ends.
                each.process.wait(limits.WORKER_STOP_S / 2)
            each.process.kill()
            each.process.wait()

    def wait_here(self, within_s: float) -> None:
        """Until all are up. Raises `RankLost`."""
        for each in self._followers:
            each.end.settimeout(within_s)
            self._answer(each)
            each.end.settimeout(self._silence_s)

    def tell(self, order: Order) -> None:
        """Raises `RankLost` if one does not take it."""
        data = encoded(order)
        for each in self._followers:
            try:
                each.end.sendall(data)
            except OSError as error:
                raise self._lost(each) from error

    def loaded(self) -> list[Failed]:
        """What has gone wrong in the load that they were told of, once it is over for all. Raises `RankLost`."""
        failures = []
        for each in self._followers:
            each.end.settimeout(_LOADING * self._silence_s)
            while isinstance(answer := self._answer(each), Here):
                pass
            each.end.settimeout(self._silence_s)
            if isinstance(answer, Failed):
                failures.append(answer)
        return failures

    def lost(self) -> RankLost | None:
        """The first that has ended, if one has."""
        ended = (each for each in self._followers if each.process.poll() is not None)
        return next(map(self._lost, ended), None)

    def _started(self, rank: int, arguments: Sequence[str], pairs: Mapping[int, socket.socket]) -> _Follower:
        ours, theirs = socket.socketpair()
        descriptors = [end.fileno() for end in (*pairs.values(), theirs)]
        named = ",".join(f"{other}:{end.fileno()}" for other, end in pairs.items())
        # -P: a folder called inference where the user happens to stand is not ours.
        command = [sys.executable, "-P", "-m", MODULE, str(rank), *arguments, named]
        process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            [*command, str(theirs.fileno())], stdin=subprocess.DEVNULL, pass_fds=descriptors
        )
        for end in (*pairs.values(), theirs):
            end.close()
        return _Follower(rank, process, ours)

    def _answer(self, follower: _Follower) -> Here | Read | Failed:
        try:
            return receive_answer(follower.end)
        except (EOFError, OSError) as error:
            raise self._lost(follower) from error

    def _lost(self, follower: _Follower) -> RankLost:
        code = follower.process.poll()
        fate = "hangs" if code is None else f"has ended with code {code}"
        return RankLost(f"the process of rank {follower.rank} of {self._of} {fate}")
