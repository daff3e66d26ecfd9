"""How the ranks of a worker reach each other."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from inference.engine.parallel.distributed import Distributed
from inference.engine.parallel.pairs import Pairs
from inference.engine.parallel.ranks import Exchange
from inference.engine.parallel.slices import Slice


def make_exchange(
    own: Slice, pairs: Mapping[int, socket.socket], silence_s: float, backend: str, meeting: str
) -> Exchange:
    """By the backend of torch.distributed that is named, or by the sockets. Raises `RankLost`."""
    return Distributed(own, backend, meeting, silence_s) if backend else Pairs(own, pairs, silence_s)
