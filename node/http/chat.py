"""`POST /v1/chat/completions`, streaming and whole.

    read body -> check -> generate -> answer
                             ^ a client that leaves cancels it on every hop, in both forms

An error before the first byte is a response with its status; after it, the last event of the stream, without `[DONE]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import trio
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from node.api import Finished, GenerateEvent, NodeApi, Rerouted, Started, Token
from node.http.errors import describe
from node.http.shapes import (
    AnswerMessage,
    ChatRequest,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    Usage,
    to_generate_request,
    usage_of,
)
from protocols import limits
from protocols.errors import LocalFault, Unavailable, WeftError


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The ASGI answer to a checked request."""

    api: NodeApi
    request: ChatRequest
    created_s: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last: ASGIApp | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
            if self.request.stream:
                stream = EventStream(send)
                nursery.start_soon(stream.keep_alive)
                last = await self._stream(stream)
            else:
                last = await self._whole()
            nursery.cancel_scope.cancel()
        # Sent out here, because the server reports its own end of a response as a disconnect, too.
        if last is not None:
            await last(scope, receive, send)

    async def _whole(self) -> ASGIApp:
        """The response."""
        started: Started | None = None
        try:
            async with self.api.generate(to_generate_request(self.request)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        started = event
                    elif isinstance(event, Finished):
                        return Response(self._completion(started, event), media_type="application/json")
            raise LocalFault("the generation ended without its last event")
        except WeftError as error:
            return describe(error).to_response()

    async def _stream(self, stream: EventStream) -> ASGIApp:
        """Send the events; what ends them, or the error response if there were none."""
        try:
            async with self.api.generate(to_generate_request(self.request)) as events:
                started: Started | None = None
                async for event in events:
                    if isinstance(event, Started):
                        started = event
                        await stream.start()
                    await self._show(event, _opened(started), stream)
        except WeftError as error:
            if not stream.is_open:
                return describe(error).to_response()
            await stream.data(describe(error).to_json())
        return _end_of_body

    async def _show(self, event: GenerateEvent, started: Started, stream: EventStream) -> None:
        match event:
            case Started():
                await stream.data(self._chunk(started, Delta(role="assistant", content="")))
            case Token():
                if event.text:
                    await stream.data(self._chunk(started, Delta(content=event.text)))
            case Rerouted():
                await stream.comment(f"layers {event.range} moved after {event.pause_ms:.0f} ms")
            case Finished():
                if event.tail:
                    await stream.data(self._chunk(started, Delta(content=event.tail)))
                await stream.data(self._chunk(started, Delta(), _finish_reason(event)))
                if self.request.stream_options and self.request.stream_options.include_usage:
                    await stream.data(self._chunk(started, None, usage=usage_of(event)))
                await stream.data(b"[DONE]")

    def _chunk(
        self,
        started: Started,
        delta: Delta | None,
        finish_reason: str | None = None,
        usage: Usage | None = None,
    ) -> bytes:
        choices = () if delta is None else (ChunkChoice(delta, finish_reason),)
        chunk = Chunk(_id_of(started), self.created_s, self.request.model, started.model, choices, usage)
        return msgspec.json.encode(chunk)

    def _completion(self, started: Started | None, finished: Finished) -> bytes:
        opened = _opened(started)
        choice = Choice(AnswerMessage(finished.text), _finish_reason(finished))
        completion = Completion(
            _id_of(opened),
            self.created_s,
            self.request.model,
            opened.model,
            (choice,),
            usage_of(finished),
        )
        return msgspec.json.encode(completion)


@dataclass(slots=True)
class EventStream:
    """Server-sent events on an ASGI `send`; one writer at a time, and a comment when it has been silent for long."""

    send: Send
    is_open: bool = False
    _sending: trio.Lock = field(default_factory=trio.Lock)
    _last_s: float = field(default_factory=trio.current_time)

    async def start(self) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        self.is_open = True
        async with self._sending:
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def data(self, line: bytes) -> None:
        await self._write(b"data: " + line + b"\n\n")

    async def comment(self, text: str) -> None:
        await self._write(f": {text}\n\n".encode())

    async def keep_alive(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep_until(self._last_s + limits.HTTP_KEEPALIVE_S)
            if trio.current_time() < self._last_s + limits.HTTP_KEEPALIVE_S:
                continue
            if self.is_open:
                await self.comment("keepalive")
            else:
                self._last_s = trio.current_time()

    async def _write(self, data: bytes) -> None:
        async with self._sending:
            self._last_s = trio.current_time()
            await self.send({"type": "http.response.body", "body": data, "more_body": True})


async def _end_of_body(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    # The body has been read, so that nothing but the client's leaving is left to receive.
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _opened(started: Started | None) -> Started:
    if started is None:
        raise LocalFault("the generation began without its first event")
    return started


def _id_of(started: Started) -> str:
    return f"chatcmpl-{started.session}"


def _finish_reason(finished: Finished) -> str:
    if finished.reason == "cancelled":
        raise Unavailable("The generation was cancelled by the node: ask again.")
    return finished.reason
