"""The control socket: newline-delimited JSON over a unix socket that only its owner can open.

A request is `{"id", "method", "params"}`. A reply is `{"id", "result"}` or `{"id", "error": {"message", "code"}}`; methods that
stream send `{"id", "event": {...}}` any number of times before it. `{"method": "cancel", "params": {"id": N}}` cancels one call,
closing the connection all that run on it. A line that is no request is answered with id 0.
"""

from __future__ import annotations

from typing import Any

import msgspec

from protocols.exit_codes import ExitCode


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
