"""One life of the torch process, seen from the daemon: requests go in, answers come out, matched by the number of the call.

The rule of the file: no task stands between a caller and the socket. A call writes what the kernel takes at once, and only
the rest of a large one is left to a writer task; this halves what a step costs over its arithmetic. A request that was begun
is sent whole, whether or not its caller is still there, because half a message would end the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import trio

from inference.engine.worker.wire import (
    CALLS,
    PREFIX,
    REPLIES,
    Advanced,
    Answer,
    Failed,
    Kept,
    Ready,
    Reply,
    Request,
    Worked,
    encode,
    parse_prefix,
)
from protocols import limits
from protocols.errors import LocalFault, Overloaded, WeftError, WorkerDied

Body = bytes | bytearray | memoryview
Progress = Callable[[int, int], None]
READ_BYTES: Final = 64 * limits.KIB


class Connection(Protocol):
    """A connected socket in non-blocking mode."""

    def fileno(self) -> int: ...
    def send(self, data: Body, /) -> int: ...
    def recv_into(self, buffer: bytearray | memoryview, /) -> int: ...
    def close(self) -> None: ...


class Call:
    """A request on its way; `WorkerLink.answer` gives what comes back."""

    __slots__ = ("answer", "answered", "on_end", "on_progress", "on_work", "out")

    def __init__(
        self, on_progress: Progress | None, on_work: Callable[[int], None] | None, on_end: Callable[[], None]
    ) -> None:
        self.on_progress = on_progress
        self.on_work = on_work
        self.on_end = on_end
        self.answered = trio.Event()
        self.answer: Answer | None = None
        self.out = bytearray()

    def end(self) -> None:
        self.answered.set()
        self.on_end()


class WorkerLink:
    """`run` reads and writes until the process ends; `call` is for everybody."""

    def __init__(
        self, connection: Connection, on_kept: Callable[[int], None] = lambda _prefix_bytes: None
    ) -> None:
        """`on_kept` hears how much is kept for later sessions."""
        self._connection = connection
        self._on_kept = on_kept
        self._unanswered: dict[int, Call] = {}
        self._newest = 0  # the number of the last call; none has number 0
        self._unsent: deque[memoryview] = deque()
        self._has_unsent = trio.Event()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._start = self._end = 0  # what of the buffer was received and not yet taken
        self._ready = trio.Event()
        self.ready = Ready()  # as the process said it, once it is up
        self.refusal: WeftError | None = None  # why it does not come up, if it said so
        self._starting = trio.CancelScope()
        self.ended = trio.Event()

    @property
    def unanswered(self) -> int:
        """Requests that are under way or wait."""
        return len(self._unanswered)

    # Calls -----------------------------------------------------------------------------------------------------------

    async def call(
        self, request: Request, body: Body = b"", on_progress: Progress | None = None
    ) -> tuple[Answer, bytearray]:
        """The answer with its body. Raises what the worker raised, or `WorkerDied`."""
        return await self.answer(self.post(request, body, on_progress))

    async def answer(self, call: Call) -> tuple[Answer, bytearray]:
        """To a call that was posted; raises as `call` does."""
        try:
            if not call.answered.is_set():  # to wait for what is there would cost a turn of the scheduler
                await call.answered.wait()
        finally:
            call.on_progress = None  # the answer to a caller that has gone is dropped
        if call.answer is None:
            raise WorkerDied("the worker process has ended")
        if isinstance(call.answer, Failed):
            raise call.answer.as_error()
        return call.answer, call.out

    def post(
        self,
        request: Request,
        body: Body = b"",
        on_progress: Progress | None = None,
        on_work: Callable[[int], None] | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> Call:
        """Send a request without waiting. Raises `WorkerDied`, or `Overloaded` if too many wait already.

        `on_progress` hears of a load while somebody waits for it, `on_work` of the layers of a step in any case, and `on_end`
        when it is answered or never will be.
        """
        if self.ended.is_set():
            raise WorkerDied("the worker process has ended")
        if len(self._unanswered) >= limits.WORKER_REQUESTS_MAX:
            raise Overloaded(f"{limits.WORKER_REQUESTS_MAX} requests wait for the worker")
        call = Call(on_progress, on_work, on_end)
        self._newest = self._newest % (CALLS - 1) + 1
        self._unanswered[self._newest] = call
        head = encode(self._newest, request, len(body))
        if len(body) <= READ_BYTES:  # one copy is cheaper than a second system call
            self._put(memoryview(head + body))
        else:
            self._put(memoryview(head))
            self._put(memoryview(body))
        return call

    async def comes_up(self) -> bool:
        """Whether the process is up; False if it ended first or took longer than `WORKER_START_S`."""
        self._starting.deadline = trio.current_time() + limits.WORKER_START_S
        with self._starting:
            await self._ready.wait()
        return self._ready.is_set() and not self.ended.is_set()

    # The two tasks ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns when the process has closed its end; every open call has then failed. Raises `LocalFault`."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.ended.set()
            self._starting.cancel()
            for call in self._unanswered.values():
                call.end()
            self._unanswered.clear()

    def _put(self, data: memoryview) -> None:
        if not self._unsent:
            data = data[self._send(data) :]
        if data:
            self._unsent.append(data)
            self._has_unsent.set()

    def _send(self, data: memoryview) -> int:
        try:
            return self._connection.send(data)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            return len(data)  # the reader sees the end as well, and fails the calls

    async def _write(self) -> None:
        while True:
            await self._has_unsent.wait()
            while self._unsent:
                await trio.lowlevel.wait_writable(self._connection)
                self._unsent[0] = self._unsent[0][self._send(self._unsent[0]) :]
                if not self._unsent[0]:
                    self._unsent.popleft()
            self._has_unsent = trio.Event()

    async def _read(self) -> None:
        while True:
            try:
                header_bytes, body_bytes, number = parse_prefix(await self._exactly(PREFIX.size))
                header = await self._exactly(header_bytes)
                body = await self._exactly(body_bytes)
            except (EOFError, ConnectionResetError):
                return
            try:
                reply = REPLIES.decode(header)
            except msgspec.DecodeError as error:
                raise LocalFault(f"the worker wrote what this release cannot read: {error}") from error
            try:
                self._take(number, reply, body)
            except KeyError as error:
                raise LocalFault(f"the worker answered a call that was not made: {error}") from error

    def _take(self, number: int, reply: Reply, body: bytearray) -> None:
        if isinstance(reply, Ready):
            self.ready = reply
            self._ready.set()
        elif isinstance(reply, Failed) and not number:
            self.refusal = reply.as_error()
        elif isinstance(reply, Kept):
            self._on_kept(reply.prefix_bytes)
        elif isinstance(reply, Advanced):
            if (on_progress := self._unanswered[number].on_progress) is not None:
                on_progress(reply.done, reply.total)
        elif isinstance(reply, Worked):
            for each in reply.calls:
                if (on_work := self._unanswered[each].on_work) is not None:
                    on_work(reply.layers)
        else:
            call = self._unanswered.pop(number)
            call.answer, call.out = reply, body
            call.end()

    async def _exactly(self, count: int) -> bytearray:
        """Raises `EOFError` at the end of the stream."""
        data = bytearray(count)
        filled = 0
        while filled < count:
            if self._start == self._end and count - filled >= READ_BYTES:
                filled += await self._receive(memoryview(data)[filled:])  # a large body goes where it belongs
                continue
            if self._start == self._end:
                self._start, self._end = 0, await self._receive(self._buffer)
            taken = min(count - filled, self._end - self._start)
            data[filled : filled + taken] = self._buffer[self._start : self._start + taken]
            filled += taken
            self._start += taken
        return data

    async def _receive(self, buffer: memoryview) -> int:
        await trio.lowlevel.wait_readable(self._connection)
        if not (count := self._connection.recv_into(buffer)):
            raise EOFError
        return count
