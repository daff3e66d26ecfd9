"""How many layers each node gets: water-filling by measured layer time, in whole layers.

The rule of the file: the chain is as slow as its slowest stage when it is full, so layers go, one by one, to whoever would
still be quickest with one more. For costs that only grow with the count this greedy is the exact minimum of the largest
stage time (Gross, 1956); water-filling with a level found by bisection would give the same up to rounding.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

LAYER_MS_MIN: Final = 1e-3  # a node that says it needs no time at all still gets a finite share


def share_layers(layers: int, layer_ms: Sequence[float], caps: Sequence[int]) -> tuple[int, ...]:
    """Counts that sum to `layers`, each at least 1 and at most its cap, with the least slowest stage.

    The caller makes sure that it can be done: as many caps as times, each at least 1, and len <= layers <= sum of caps.
    Of equals the quicker node gets the layer, then the earlier, so that equal inputs give equal counts.
    """
    assert 0 < len(caps) == len(layer_ms) <= layers <= sum(caps)
    assert min(caps) >= 1
    times = [max(ms, LAYER_MS_MIN) for ms in layer_ms]
    counts = [1] * len(caps)
    next_ms = [(2 * ms, ms, index) for index, ms in enumerate(times) if caps[index] > 1]
    heapq.heapify(next_ms)
    for _ in range(layers - len(caps)):
        *_, index = heapq.heappop(next_ms)
        counts[index] += 1
        if counts[index] < caps[index]:
            heapq.heappush(next_ms, ((counts[index] + 1) * times[index], times[index], index))
    return tuple(counts)
