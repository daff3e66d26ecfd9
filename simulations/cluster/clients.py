"""The clients of a simulated mesh: each asks for one generation, and keeps what it was given and when.

A client runs inside the process that it asks, as a request of HTTP does, and loses its connection when that process ends.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

import trio

from node import api
from node.daemon import Daemon
from protocols.errors import WeftError
from simulations.cluster.cluster import Cluster
from simulations.cluster.model import Answer
from simulations.cluster.process import Phase, Process
from simulations.scenarios.script import Request

Status = Literal["finished", "cancelled", "failed", "lost"]


@dataclass(slots=True)
class Client:
    """One request and its log, which outlive the process that served it. `status` is what the client was told in the end, None
    while it waits.

    `events` is all that it was told and when, as it came; `endings` counts how often it was told an end.
    """

    index: int
    request: Request
    answer: Answer
    began_s: float = 0.0
    ended_s: float | None = None
    events: list[tuple[float, api.GenerateEvent]] = field(default_factory=list)
    tokens: list[tuple[float, api.Token]] = field(default_factory=list)
    status: Status | None = None
    endings: int = 0
    detail: str = ""
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def expected(self) -> list[int]:
        """What it would be told where nothing goes wrong."""
        return self.answer.first(self.request.tokens)

    def expected_at(self, place: int) -> int | None:
        """One of them, so that nobody computes what is not there to compare yet; None where there is no more."""
        return self.answer.at(place) if place < self.request.tokens else None

    @property
    def is_exact(self) -> bool:
        """Whether it was told the beginning of that, and all of it if it was told that this is all."""
        told = [token.token for _, token in self.tokens]
        if self.status == "finished":
            return told == self.expected
        return told == self.answer.first(len(told)) and len(told) <= self.request.tokens

    def hear(self, event: api.GenerateEvent) -> None:
        at_s = trio.current_time()
        if isinstance(event, api.Token):
            told = (at_s, event)
            self.tokens.append(told)
            self.events.append(told)
        else:
            self.events.append((at_s, event))

    def end(self, status: Status, detail: str = "") -> None:
        self.endings += 1
        self.status, self.detail, self.ended_s = status, detail, trio.current_time()
        self.over.set()


class Clients:
    """All clients of a script, in its order. `all` holds those that have begun."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.all: list[Client] = []

    async def run(self) -> None:
        """Returns when every client has had its end."""
        async with trio.open_nursery() as nursery:
            for index, request in enumerate(self._cluster.script.requests):
                nursery.start_soon(self._serve, index, request)

    async def _serve(self, index: int, request: Request) -> None:
        await trio.sleep_until(self._cluster.started_at_s + request.at_s)
        client = Client(index, request, self._cluster.model.answer(request), trio.current_time())
        insort(self.all, client, key=attrgetter("index"))
        self._note(client, f"{request.tokens} tokens")
        process = self._cluster.nodes[request.entry].process

        async def ask(daemon: Daemon) -> None:
            await self._ask(client, process, daemon)

        if process is None or not process.ask(ask):
            client.end("lost", "its entry node is down")
        else:
            await self._until_over(client, process)
        self._note(client, f"is {client.status} {client.detail}".rstrip())

    @staticmethod
    async def _until_over(client: Client, process: Process) -> None:
        async def lose() -> None:
            await process.gone.wait()
            if client.status is None:
                client.end("lost", "its entry node has gone down")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            await client.over.wait()
            nursery.cancel_scope.cancel()

    async def _ask(self, client: Client, process: Process | None, daemon: api.NodeApi) -> None:
        """Whatever it raises but `WeftError` is a bug of the node, and ends its process as one."""
        was_stopping = process is not None and process.phase is Phase.DRAINING
        try:
            await self._listen(client, process, daemon)
        except WeftError as error:
            if not _is_gone(process):
                client.end("lost" if was_stopping else "failed", str(error))

    async def _listen(self, client: Client, process: Process | None, daemon: api.NodeApi) -> None:
        request = client.request
        asked = api.GenerateRequest(
            self._cluster.model.name,
            prompt=request.prompt,
            max_tokens=request.tokens,
            temperature=request.temperature,
            seed=request.seed,
        )
        async with daemon.generate(asked) as events:
            async for event in events:
                if _is_gone(process):
                    return
                client.hear(event)
                if isinstance(event, api.Finished):
                    client.end("cancelled" if event.reason == "cancelled" else "finished")
                if isinstance(event, api.Token) and len(client.tokens) == request.cancel_after:
                    client.end("cancelled", "the client left")
                    return
        if client.status is None and not _is_gone(process):
            client.end("failed", "the events ended without a last one")

    def _note(self, client: Client, what: str) -> None:
        self._cluster.trace.note(client.request.entry, f"request {client.index}: {what}")


def _is_gone(process: Process | None) -> bool:
    """Whether the process has ended in which this still runs, so that nobody hears of it."""
    return process is not None and process.phase is Phase.GONE
