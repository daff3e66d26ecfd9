"""A process that computes its slice of whatever the first rank begins:
`python -m inference.engine.parallel.follower RANK SETTINGS SILENCE_S BACKEND MEETING PAIRS FD`, SETTINGS those of the worker,
BACKEND that of torch.distributed if one is asked for, MEETING the file by which its ranks find each other, PAIRS its ends of the
socketpairs to the others, and FD its end of the one that orders come by.

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
from inference.engine.worker.settings import from_argument
from protocols.errors import UserError

HERE_S: Final = 1.0


def main(arguments: list[str]) -> None:
    rank, argument, silence_s, backend, meeting, named, descriptor = arguments
    settings = from_argument(argument)
    prepare(settings.threads_each)
    # Only now: torch reads the environment while it is imported.
    from inference.engine.device import find_device
    from inference.engine.parallel.following import FollowingEngines
    from inference.engine.parallel.meeting import make_exchange, with_room

    own, pairs = Slice(int(rank), settings.ranks), {}
    for each in named.split(","):
        other, _, end_descriptor = each.partition(":")
        pairs[int(other)] = socket.socket(fileno=int(end_descriptor))
    device = find_device(settings.device, own.rank, own.of)
    with (
        socket.socket(fileno=int(descriptor)) as end,
        suppress(EOFError, BrokenPipeError, ConnectionResetError),
    ):
        end.sendall(encoded(Here()))
        exchange = make_exchange(own, pairs, device, float(silence_s), backend, meeting)
        engines = FollowingEngines(own, exchange, with_room(settings, device, exchange), device)
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
    except UserError:
        sys.exit(1)  # of the device: the first rank finds the same, and tells it
