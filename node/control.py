"""The control socket's server: lines in, lines out, one task per call.

    connection 1---* call      a call's scope is cancelled by a `cancel` request, by the end of its connection,
                               or by `end_calls` when the node is taken down

File permission is the authentication; peer credentials are checked on top. What a client sends wrong is answered, and
the connection goes on, except past the line limit, where the next line's beginning is unknown.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import structlog
import trio

from node.control_methods import CANCELLED, GOING_DOWN, METHODS, Method, describe
from node.control_socket import CREDENTIALS_BYTES, peer_uid
from node.lifecycle import Lifecycle
from protocols import limits
from protocols.control import ControlError, Reply, Request
from protocols.errors import Oversized, WeftError
from protocols.exit_codes import ExitCode

log = structlog.get_logger("node.control")

_UNREADABLE_ID = 0


class ControlServer:
    """Serves connections of user `uid` on a bound socket until cancelled."""

    def __init__(self, listener: socket.socket, lifecycle: Lifecycle, uid: int) -> None:
        listener.setblocking(False)
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        self._lifecycle = lifecycle
        self._uid = uid
        self._clients = 0
        self._running: set[trio.CancelScope] = set()
        self._ended = trio.Event()
        self._ending = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.serve_listeners(self._serve, [self._listener])

    async def end_calls(self) -> None:
        """Cancel what runs and wait until it has ended and been answered; later calls find no node."""
        self._ending = True
        while self._running:
            self._ended = trio.Event()
            for scope in self._running:
                scope.cancel()
            await self._ended.wait()

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            connection = _Connection(stream, self)
            if not self._is_welcome(stream):
                log.warning("control client of another user turned away")
                return
            self._clients += 1
            try:
                await connection.serve(is_full=self._clients > limits.CONTROL_CLIENTS_MAX)
            finally:
                self._clients -= 1

    def _is_welcome(self, stream: trio.SocketStream) -> bool:
        if not hasattr(socket, "SO_PEERCRED"):
            return True  # elsewhere than on Linux the file's mode alone keeps others out
        credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS_BYTES)
        return peer_uid(credentials) == self._uid

    async def call(self, request: Request, method: Method, connection: _Connection) -> None:
        """Run one call to its end and answer it."""
        scope = connection.calls[request.id]
        self._running.add(scope)
        try:
            with scope:
                reply = await self._answer(request, method, connection)
            if scope.cancelled_caught:
                reply = Reply(request.id, error=GOING_DOWN if self._ending else CANCELLED)
            await connection.send(reply)
            if self._ending:
                await connection.flush()
        finally:
            del connection.calls[request.id]
            self._running.discard(scope)
            if not self._running:
                self._ended.set()

    async def _answer(self, request: Request, method: Method, connection: _Connection) -> Reply:
        async def emit(event: dict[str, Any]) -> None:
            await connection.send(Reply(request.id, event=event))

        try:
            params = msgspec.convert(request.params, method.params, str_keys=True)
            return Reply(request.id, result=await method.call(self._lifecycle, params, emit))
        except msgspec.ValidationError as error:
            return Reply(request.id, error=ControlError(f"{request.method}: {error}", ExitCode.USAGE))
        except WeftError as error:
            return Reply(request.id, error=describe(error))


class _Connection:
    """One client: its running calls by id, its lines, and the one task that writes to it.

    Calls hand whole lines to that task, so that cancelling a call never leaves half a line behind.
    """

    def __init__(self, stream: trio.SocketStream, server: ControlServer) -> None:
        self.calls: dict[int, trio.CancelScope] = {}
        self._stream = stream
        self._server = server
        self._outgoing, self._to_write = trio.open_memory_channel[bytes](0)

    async def serve(self, *, is_full: bool) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            if is_full:
                await self._refuse(_UNREADABLE_ID, "too many clients on the control socket: end one of them")
            else:
                try:
                    async for line in _lines(self._stream):
                        await self._accept(line, nursery)
                except Oversized as error:
                    await self._refuse(_UNREADABLE_ID, str(error))
            await self.flush()
            nursery.cancel_scope.cancel()

    async def send(self, reply: Reply) -> None:
        await self._outgoing.send(msgspec.json.encode(reply) + b"\n")

    async def flush(self) -> None:
        """Return when everything sent before has been written: the writer comes back for more only then."""
        await self._outgoing.send(b"")

    async def _write(self, scope: trio.CancelScope) -> None:
        async for line in self._to_write:
            try:
                await self._stream.send_all(line)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                scope.cancel()  # the client is gone, and so is what it asked for
                return

    async def _accept(self, line: bytes, nursery: trio.Nursery) -> None:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            await self._refuse(_UNREADABLE_ID, f"not a request: {error}")
            return
        if request.method == "cancel":
            await self._cancel(request)
            return
        method = METHODS.get(request.method)
        if method is None:
            await self._refuse(
                request.id, f"unknown method {request.method!r}: there are cancel, {', '.join(METHODS)}"
            )
        elif request.id in self.calls:
            await self._refuse(request.id, f"call {request.id} is under way: give each its own id")
        elif len(self.calls) >= limits.CONTROL_CALLS_MAX:
            await self._refuse(request.id, f"{limits.CONTROL_CALLS_MAX} calls are under way: let one end")
        else:
            self.calls[request.id] = trio.CancelScope()
            nursery.start_soon(partial(self._server.call, request, method, self))

    async def _cancel(self, request: Request) -> None:
        target = request.params.get("id")
        scope = self.calls.get(target) if isinstance(target, int) else None
        if scope is not None:
            scope.cancel()
        await self.send(Reply(request.id, result={"cancelled": scope is not None}))

    async def _refuse(self, request_id: int, message: str) -> None:
        await self.send(Reply(request_id, error=ControlError(message, ExitCode.USAGE)))


async def _lines(stream: trio.SocketStream) -> AsyncIterator[bytes]:
    """Lines without their end; raises `Oversized` past the limit."""
    pending = bytearray()
    while True:
        try:
            chunk = await stream.receive_some(65_536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        if not chunk:
            return
        *lines, rest = (pending + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield bytes(line)
        pending = rest
        if len(pending) > limits.CONTROL_LINE_BYTES_MAX:
            raise Oversized(f"a line exceeds the {limits.CONTROL_LINE_BYTES_MAX} bytes allowed")
