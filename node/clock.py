"""The real clocks: the seam `protocols.seams.Clock` on this machine."""

from __future__ import annotations

import time


class SystemClock:
    """Seconds, as the operating system tells them."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
