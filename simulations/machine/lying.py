"""Members that break the rules, and members of a newer release: through the product's own seams, so that no rule is written twice.

A `Conduct` belongs to a machine and outlives its processes. What it wraps behaves as it did until something is set:

    conduct = Conduct()
    seams = Seams(clock, randomness, conduct.network(network), disk, conduct.worker(worker))
    Daemon(..., readings=conduct.readings(read))
    conduct.lies = frozenset({"activations"})
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from node.machine import Readings
from protocols.hello import MINOR
from protocols.ids import SessionId
from protocols.seams import Network, ShardWorker
from simulations.machine.lying_network import LyingNetwork
from simulations.machine.lying_worker import LyingWorker

SESSIONS_KEPT: Final = 64  # of which frames are remembered, to be sent again
FRAMES_KEPT: Final = 4  # fewer than there are credits: what is sent again must not be taken for a flood
PRAISE: Final = Readings(memory_free_bytes=1 << 40, memory_total_bytes=1 << 40, cores=64, load=0.0)

Lying = Literal["activations", "epoch", "health", "withhold"]


class Conduct:
    """How a machine behaves. An `is_honest` one wraps nothing, which costs nothing."""

    def __init__(self, *, is_honest: bool = False) -> None:
        self.lies: frozenset[Lying] = frozenset()
        self.minor = MINOR
        self._is_honest = is_honest
        self._sent: dict[tuple[SessionId, int], deque[tuple[int, bytes]]] = {}

    def network(self, network: Network) -> Network:
        return network if self._is_honest else LyingNetwork(network, self)

    def worker(self, worker: ShardWorker) -> ShardWorker:
        return worker if self._is_honest else LyingWorker(worker, self)

    def readings(self, read: Callable[[], Readings]) -> Callable[[], Readings]:
        return lambda: PRAISE if "health" in self.lies else read()

    # What the wrappers ask -------------------------------------------------------------------------------------------

    @property
    def alters(self) -> bool:
        return "activations" in self.lies

    @property
    def praises(self) -> bool:
        return "health" in self.lies

    @property
    def withholds(self) -> bool:
        return "withhold" in self.lies

    @property
    def is_newer(self) -> bool:
        return self.minor != MINOR

    def stale(self, key: tuple[SessionId, int], epoch: int) -> bytes:
        """Frames of an older epoch than this, sent to that stage earlier, for sending them again; each once."""
        if "epoch" not in self.lies or key not in self._sent:
            return b""
        kept = self._sent[key]
        stale = b"".join(frame for older, frame in kept if older < epoch)
        if stale:
            kept.clear()
        return stale

    def remember(self, key: tuple[SessionId, int], epoch: int, frame: bytes) -> None:
        if "epoch" not in self.lies:
            return
        kept = self._sent.setdefault(key, deque(maxlen=FRAMES_KEPT))
        kept.append((epoch, frame))
        if len(self._sent) > SESSIONS_KEPT:
            del self._sent[next(iter(self._sent))]
