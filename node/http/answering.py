"""Answers to requests that generate, streaming and whole, whatever the endpoint.

    read body -> check -> generate -> answer
                             ^ a client that leaves cancels it on every hop, in both forms

An error before the first byte is a response with its status; after it, the last event of the stream, without `[DONE]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import trio
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from node.api import (
    Finished,
    GenerateEvent,
    GenerateRequest,
    NodeApi,
    Rerouted,
    Started,
    Token,
    TokenLogprobs,
)
from node.http.errors import describe
from protocols import limits
from protocols.errors import LocalFault, WeftError


class Wording(Protocol):
    """How one endpoint words the answer to one request; each method gives JSON."""

    @property
    def request(self) -> GenerateRequest:
        """Raises `UserError` for what a request can't ask."""

    def opening(self, started: Started) -> tuple[bytes, ...]:
        """Events before the first text."""

    def piece(self, started: Started, text: str, logprobs: tuple[TokenLogprobs, ...]) -> bytes: ...
    def ending(self, started: Started, finished: Finished) -> tuple[bytes, ...]:
        """Events behind the last text. Raises `Unavailable` if the generation was given up."""

    def whole(self, started: Started, finished: Finished, logprobs: tuple[TokenLogprobs, ...]) -> bytes:
        """Raises as `ending` does."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The ASGI answer to a checked request."""

    api: NodeApi
    wording: Wording
    streams: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last: ASGIApp | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
            if self.streams:
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
        logprobs: list[TokenLogprobs] = []
        try:
            async with self.api.generate(self.wording.request) as events:
                async for event in events:
                    if isinstance(event, Started):
                        started = event
                    elif isinstance(event, Token):
                        logprobs += event.logprobs
                    elif isinstance(event, Finished):
                        told = (*logprobs, *event.logprobs)
                        body = self.wording.whole(_opened(started), event, told)
                        return Response(body, media_type="application/json")
            raise LocalFault("the generation ended without its last event")
        except WeftError as error:
            return describe(error).to_response()

    async def _stream(self, stream: EventStream) -> ASGIApp:
        """Send the events; what ends them, or the error response if there were none."""
        try:
            async with self.api.generate(self.wording.request) as events:
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
                await stream.data(*self.wording.opening(started))
            case Token(text=text, logprobs=logprobs):
                if text or logprobs:
                    await stream.data(self.wording.piece(started, text, logprobs))
            case Rerouted():
                await stream.comment(f"layers {event.range} moved after {event.pause_ms:.0f} ms")
            case Finished(tail=tail, logprobs=logprobs):
                if tail or logprobs:
                    await stream.data(self.wording.piece(started, tail, logprobs))
                await stream.data(*self.wording.ending(started, event), b"[DONE]")


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

    async def data(self, *lines: bytes) -> None:
        for line in lines:
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
