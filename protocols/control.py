"""The control socket: newline-delimited JSON over a unix socket that only its owner can open.

A request is `{"id", "method", "params"}`. A reply is `{"id", "result"}` or `{"id", "error": {"message", "code"}}`; methods that
stream send `{"id", "event": {...}}` any number of times before it. Closing the connection cancels what runs on it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec


class ExitCode(IntEnum):
    """What the CLI exits with; an error's `code` is one of these."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3
    REFUSED = 4
    TIMED_OUT = 124
    INTERRUPTED = 130


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    id: int
    method: str
    params: dict[str, Any] = {}


class ControlError(msgspec.Struct, frozen=True):
    message: str
    code: ExitCode = ExitCode.FAILED


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exactly one of the three is set."""

    id: int
    result: dict[str, Any] | None = None
    error: ControlError | None = None
    event: dict[str, Any] | None = None
