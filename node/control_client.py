"""The command line's end of the control socket: a blocking socket and json, nothing that takes long to import.

    with ControlClient(folders.socket) as client:
        client.call("run", {...}, on_event=show)

Leaving the context closes the connection, which cancels what runs on it.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from node.folders import Folders, is_locked
from protocols.errors import Disconnected, Malformed, TimedOut, UserError, WeftError
from protocols.exit_codes import ExitCode

CALL_S: Final = 30.0  # a call that does not stream; an invite or plan asks the mesh
_CANCEL_S: Final = 2.0  # an interrupted command waits this long for the other hops
_POLL_S: Final = 0.02

OnEvent = Callable[[dict[str, Any]], None]


class NoDaemon(UserError):
    """Nothing listens on the control socket."""


class CallFailed(WeftError):
    """The daemon answered with an error; `code` is what to exit with."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


class ControlClient:
    """One connection; one call at a time."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            self._socket.close()
            raise NoDaemon(f"no daemon at {path}. Start one with 'weft up'.") from error
        except OSError as error:
            self._socket.close()
            raise UserError(f"{path} can't be used ({error}). Set WEFT_HOME to a home of yours.") from error
        self._pending = bytearray()
        self._last_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        on_event: OnEvent | None = None,
        within_s: float | None = CALL_S,
    ) -> dict[str, Any]:
        """The result; events on the way go to `on_event`. Raises `CallFailed`, `TimedOut`, `Disconnected`."""
        self._last_id += 1
        self._send({"id": self._last_id, "method": method, "params": params or {}})
        return self._await_result(self._last_id, on_event, within_s)

    def cancel(self) -> None:
        """Cancel the call that was interrupted, and wait a moment until it has ended on every hop."""
        interrupted = self._last_id
        try:
            self._last_id += 1
            self._send({"id": self._last_id, "method": "cancel", "params": {"id": interrupted}})
            self._await_result(interrupted, None, _CANCEL_S)
        except WeftError:
            return  # it has ended, or closing the connection will see to it

    def wait_closed(self, within_s: float) -> None:
        """Return when the daemon has closed the connection; raises `TimedOut`."""
        try:
            while True:
                self._read_line(within_s)
        except Disconnected:
            return

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._socket.settimeout(CALL_S)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise Disconnected("the daemon closed the connection: 'weft status' tells how it is.") from error

    def _await_result(self, call_id: int, on_event: OnEvent | None, within_s: float | None) -> dict[str, Any]:
        while True:
            reply = _decoded(self._read_line(within_s))
            if reply.get("id") not in {call_id, 0}:
                continue
            if "error" in reply:
                error = reply["error"]
                raise CallFailed(str(error["message"]), ExitCode(error["code"]))
            if "result" in reply:
                result: dict[str, Any] = reply["result"]
                return result
            if on_event is not None:
                on_event(reply["event"])

    def _read_line(self, within_s: float | None) -> bytes:
        self._socket.settimeout(within_s)
        while b"\n" not in self._pending:
            try:
                chunk = self._socket.recv(65_536)
            except TimeoutError as error:
                raise TimedOut(f"the daemon did not answer within {within_s:g} s: see its log.") from error
            except OSError as error:
                raise Disconnected(
                    "the connection to the daemon broke: 'weft status' tells how it is."
                ) from error
            if not chunk:
                raise Disconnected("the daemon went away: 'weft status' tells how it is.")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return bytes(line)


def wait_unlocked(folders: Folders, within_s: float) -> None:
    """Return when no daemon runs on this home; raises `TimedOut`."""
    deadline = time.monotonic() + within_s
    while is_locked(folders):
        if time.monotonic() > deadline:
            raise TimedOut(f"the daemon is still there after {within_s:g} s: see its log.")
        time.sleep(_POLL_S)


def _decoded(line: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(line)
    except ValueError as error:
        raise Malformed("the daemon answered in a language of its own: is it of this release?") from error
    if not isinstance(reply, dict):
        raise Malformed("the daemon answered in a language of its own: is it of this release?")
    return reply
