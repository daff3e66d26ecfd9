"""The routes of the gateway."""

from __future__ import annotations

from contextlib import aclosing

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from node.config import HttpConfig
from node.http.answering import Answer, Wording
from node.http.chat import ChatWording, parse_chat_request
from node.http.completions import CompletionWording, parse_completion_request
from node.http.errors import ErrorBody, HttpError, TooLarge, describe
from node.http.guard import Guard
from node.http.parameters import Parameters
from node.http.shapes import ModelList, card_of
from node.lifecycle import Lifecycle, State
from protocols import limits
from protocols.errors import NotFound, Unavailable, WeftError
from protocols.seams import Clock


def make_app(config: HttpConfig, lifecycle: Lifecycle, clock: Clock) -> Starlette:
    """The ASGI application over the node that `lifecycle` has."""
    routes = _Routes(lifecycle, clock)
    return Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/v1/models", routes.models),
            Route("/v1/models/{model:path}", routes.model),
            Route("/v1/memory/tensor", routes.memory),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.complete, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, config=config, clock=clock)],
        exception_handlers={HTTPException: _unrouted, WeftError: _failed},
    )


class _Routes:
    def __init__(self, lifecycle: Lifecycle, clock: Clock) -> None:
        self._lifecycle = lifecycle
        self._clock = clock
        self._since_s = int(clock.wall())

    async def health(self, request: Request) -> Response:
        state = self._lifecycle.state
        if state is not State.READY:
            raise Unavailable(f"The node is {state.value}.")
        return _json({"status": "ok"})

    async def models(self, request: Request) -> Response:
        models = self._lifecycle.api.models()
        return _json(ModelList(tuple(card_of(model, self._since_s) for model in models)))

    async def model(self, request: Request) -> Response:
        wanted = request.path_params["model"]
        for model in self._lifecycle.api.models():
            if wanted in {model.name, model.digest}:
                return _json(card_of(model, self._since_s))
        raise NotFound(f"No model is called {wanted!r}: 'weft models' lists those there are.")

    async def memory(self, request: Request) -> Response:
        return _json(self._lifecycle.api.memory())

    async def chat(self, request: Request) -> ASGIApp:
        asked = parse_chat_request(await _body(request))
        return self._answer(ChatWording(asked, int(self._clock.wall())), asked)

    async def complete(self, request: Request) -> ASGIApp:
        asked = parse_completion_request(await _body(request))
        return self._answer(CompletionWording(asked, int(self._clock.wall())), asked)

    def _answer(self, wording: Wording, asked: Parameters) -> ASGIApp:
        return Answer(self._lifecycle.api, wording, bool(asked.stream))


async def _body(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limits.HTTP_BODY_BYTES_MAX:
                raise TooLarge
    return bytes(body)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, WeftError)
    return describe(error).to_response()


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}."
    body = ErrorBody(message, "invalid_request_error", None, "unknown_url")
    return HttpError(error.status_code, body, dict(error.headers or {})).to_response()
