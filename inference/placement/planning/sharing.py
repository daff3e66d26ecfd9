"""How many layers each node of a chain gets, in whole layers: the quickest slowest stage, or the least time for one token.

Both are greedy and exact, because the cost of a node only grows with its count. For the slowest stage layers go, one by one, to
whoever would still be quickest with one more (Gross, 1956); water-filling with a level found by bisection would give the same up
to rounding. For the time of one token, which is the sum of all stages, the quickest nodes are filled first.
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
    return _deal(layers - len(caps), [1] * len(caps), layer_ms, caps)


def level_layers(layers: int, layer_ms: Sequence[float], caps: Sequence[int]) -> tuple[int, ...]:
    """As `share_layers`, but a node may get none; `layers` is at most the sum of the caps."""
    assert layers <= sum(caps)
    return _deal(layers, [0] * len(caps), layer_ms, caps)


def fill_layers(layers: int, layer_ms: Sequence[float], caps: Sequence[int]) -> tuple[int, ...]:
    """As `share_layers`, with the least sum of all stages; of equals the earlier gets the layer."""
    assert 0 < len(caps) == len(layer_ms) <= layers <= sum(caps)
    assert min(caps) >= 1
    counts = [1] * len(caps)
    left = layers - len(caps)
    for index in sorted(range(len(caps)), key=layer_ms.__getitem__):
        more = min(left, caps[index] - 1)
        counts[index] += more
        left -= more
    return tuple(counts)


def _deal(left: int, counts: list[int], layer_ms: Sequence[float], caps: Sequence[int]) -> tuple[int, ...]:
    """Gives `left` more layers away, each to whoever is quickest with it."""
    times = [max(ms, LAYER_MS_MIN) for ms in layer_ms]
    queue = [
        ((counts[index] + 1) * ms, ms, index) for index, ms in enumerate(times) if counts[index] < caps[index]
    ]
    heapq.heapify(queue)
    for _ in range(left):
        *_, index = heapq.heappop(queue)
        counts[index] += 1
        if counts[index] < caps[index]:
            heapq.heappush(queue, ((counts[index] + 1) * times[index], times[index], index))
    return tuple(counts)
