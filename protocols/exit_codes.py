"""What the `weft` command exits with. No import but enum, so that the command starts at once."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """An error's `code` on the control socket is one of these."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3
    REFUSED = 4
    TIMED_OUT = 124
    INTERRUPTED = 130
