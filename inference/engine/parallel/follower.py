"""A process that computes its slice of whatever the first rank begins:
`python -m inference.engine.parallel.follower RANK OF THREADS MEMORY_BYTES FOLDER PREFIX_SHARE KV SILENCE_S BACKEND MEETING PAIRS FD`,
BACKEND that of torch.distributed and MEETING the file by which its ranks find each other, or both empty where PAIRS, its ends of
the socketpairs to the others, are to be used, FD its end of the one that orders come by, and the rest as for the leader.

It keeps the very books that the leader keeps, of the memory of all ranks together, so that it opens, keeps and lets go of the
same caches and prompts. Where it comes to something else, or anything fails, it ends, and with it all others do.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from inference.engine.parallel.orders import Here, RankLost, encoded, receive_order
from inference.engine.parallel.slices import Slice
from inference.engine.worker.process import prepare

HERE_S: Final = 1.0


def main(arguments: list[str]) -> None:
    rank, of, threads, memory_bytes, descriptor = (int(arguments.pop(at)) for at in (0, 0, 0, 0, -1))
    quantised, prefix_share, kv, silence_s, backend, meeting, named = arguments
    prepare(threads)
    # Only now: torch reads the environment while it is imported.
    from inference.engine.parallel.following import FollowingEngines
    from inference.engine.parallel.meeting import make_exchange

    own, pairs = Slice(rank, of), {}
    for each in named.split(","):
        other, _, end_descriptor = each.partition(":")
        pairs[int(other)] = socket.socket(fileno=int(end_descriptor))
    with socket.socket(fileno=descriptor) as end, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        end.sendall(encoded(Here()))
        exchange = make_exchange(own, pairs, float(silence_s), backend, meeting)
        engines = FollowingEngines(own, exchange, threads, memory_bytes, quantised, float(prefix_share), kv)
        while True:
            answer = engines.obey(receive_order(end), _signs_of_life(end))
            if answer is not None:
                end.sendall(encoded(answer))


def _signs_of_life(end: socket.socket) -> Callable[[int, int], None]:
    """For the progress of a load: the leader hears now and then that there is some, and its end is noticed."""
    told_at = time.monotonic()

    def tell(_done: int, _total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= HERE_S:
            told_at = time.monotonic()
            end.sendall(encoded(Here()))

    return tell


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RankLost as lost:
        sys.exit(f"weft worker, rank {sys.argv[1]}: {lost}")
