"""One life of the torch process, seen from the daemon: requests go in, answers come out in the same order.

A request that was taken is sent whole, whether or not its caller is still there: half a message would end the connection.
The answer to a caller that has gone is dropped. When the process ends, every open request raises `WorkerDied`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from inference.engine.worker_wire import (
    PREFIX,
    REPLIES,
    Advanced,
    Answer,
    Failed,
    Ready,
    Reply,
    Request,
    encode,
    parse_prefix,
)
from protocols import limits
from protocols.errors import LocalFault, WorkerDied

Body = bytes | bytearray | memoryview
Progress = Callable[[int, int], None]
JOINED_BYTES_MAX: Final = 64 * limits.KIB  # below this, one copy is cheaper than a second system call
READ_BYTES: Final = 256 * limits.KIB


class _Call:
    __slots__ = ("answer", "answered", "body", "on_progress", "out", "request")

    def __init__(self, request: Request, body: Body, on_progress: Progress | None) -> None:
        self.request, self.body, self.on_progress = request, body, on_progress
        self.answered = trio.Event()
        self.answer: Answer | None = None
        self.out = bytearray()


class WorkerLink:
    """`run` reads and writes until the process ends; `call` is for everybody."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._requests, self._taken = trio.open_memory_channel[_Call](limits.WORKER_REQUESTS_MAX)
        self._unanswered: deque[_Call] = deque()
        self._pending = bytearray()
        self._ready = trio.Event()
        self._starting = trio.CancelScope()
        self.ended = trio.Event()

    async def call(
        self, request: Request, body: Body = b"", on_progress: Progress | None = None
    ) -> tuple[Answer, bytearray]:
        """The answer with its body. Raises what the worker raised, or `WorkerDied`."""
        call = _Call(request, body, on_progress)
        try:
            await self._requests.send(call)
            await call.answered.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WorkerDied("the worker process has ended") from error
        finally:
            call.on_progress = None
        if call.answer is None:
            raise WorkerDied("the worker process has ended")
        if isinstance(call.answer, Failed):
            raise call.answer.as_error()
        return call.answer, call.out

    async def comes_up(self) -> bool:
        """Whether the process is up; False if it ended first or took longer than `WORKER_START_S`."""
        self._starting.deadline = trio.current_time() + limits.WORKER_START_S
        with self._starting:
            await self._ready.wait()
        return self._ready.is_set() and not self.ended.is_set()

    async def post(self, request: Request) -> None:
        """Send a request whose answer nobody waits for."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._requests.send(_Call(request, b"", None))

    async def run(self) -> None:
        """Returns when the process has closed its end; every open call has then failed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self._fail_all()

    async def _write(self) -> None:
        async for call in self._taken:
            self._unanswered.append(call)
            head, body, call.body = encode(call.request, len(call.body)), call.body, b""
            try:
                if len(body) <= JOINED_BYTES_MAX:
                    await self._stream.send_all(head + bytes(body))
                else:
                    await self._stream.send_all(head)
                    await self._stream.send_all(body)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the reader sees the end as well

    async def _read(self) -> None:
        while True:
            try:
                header_bytes, body_bytes = parse_prefix(await self._exactly(PREFIX.size))
                header = await self._exactly(header_bytes)
                body = await self._exactly(body_bytes)
            except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
                return
            try:
                self._take(REPLIES.decode(header), body)
            except msgspec.DecodeError as error:
                raise LocalFault(f"the worker wrote what this release cannot read: {error}") from error

    def _take(self, reply: Reply, body: bytearray) -> None:
        if isinstance(reply, Ready):
            self._ready.set()
        elif isinstance(reply, Advanced):
            if (on_progress := self._unanswered[0].on_progress) is not None:
                on_progress(reply.done, reply.total)
        else:
            call = self._unanswered.popleft()
            call.answer, call.out = reply, body
            call.answered.set()

    async def _exactly(self, count: int) -> bytearray:
        """Raises `EOFError` at the end of the stream."""
        while len(self._pending) < count:
            chunk = await self._stream.receive_some(READ_BYTES)
            if not chunk:
                raise EOFError
            self._pending += chunk
        if len(self._pending) == count:
            taken, self._pending = self._pending, bytearray()
            return taken
        taken = self._pending[:count]
        del self._pending[:count]
        return taken

    def _fail_all(self) -> None:
        self._requests.close()
        while True:
            try:
                self._unanswered.append(self._taken.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        self._taken.close()
        for call in self._unanswered:
            call.answered.set()
        self._unanswered.clear()
        self.ended.set()
        self._starting.cancel()
