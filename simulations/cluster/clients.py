"""The clients of a simulated mesh: each asks for one generation, and keeps what it was given and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import trio

from node import api
from protocols.errors import WeftError
from protocols.session import Sampling
from simulations.cluster.cluster import Cluster
from simulations.cluster.model import NAME, encode
from simulations.machine.worker import reference_tokens
from simulations.scenarios.script import Request


@dataclass(slots=True)
class Client:
    """One request and its log. `status` is what the client was told in the end, None while it waits."""

    index: int
    request: Request
    expected: list[int]
    began_s: float = 0.0
    ended_s: float | None = None
    events: list[tuple[float, api.GenerateEvent]] = field(default_factory=list)
    status: Literal["finished", "cancelled", "failed", "lost"] | None = None
    endings: int = 0  # how often it was told an end
    detail: str = ""

    @property
    def tokens(self) -> list[tuple[float, api.Token]]:
        return [(at_s, event) for at_s, event in self.events if isinstance(event, api.Token)]


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
        client = Client(index, request, self._expected(request), trio.current_time())
        self.all.append(client)
        self._cluster.trace.note(request.entry, f"request {index}: {request.tokens} tokens")
        node = self._cluster.nodes[request.entry]
        starts = node.starts
        try:
            if node.daemon is None:
                self._end(client, "lost", "its entry node is down")
            else:
                await self._ask(client, node.daemon)
        except WeftError as error:
            self._end(client, "failed" if node.is_up and node.starts == starts else "lost", str(error))

    async def _ask(self, client: Client, daemon: api.NodeApi) -> None:
        request = client.request
        asked = api.GenerateRequest(
            NAME,
            prompt=request.prompt,
            max_tokens=request.tokens,
            temperature=request.temperature,
            seed=request.seed,
        )
        async with daemon.generate(asked) as events:
            async for event in events:
                client.events.append((trio.current_time(), event))
                if isinstance(event, api.Finished):
                    self._end(client, "finished" if event.reason == "length" else "cancelled")
                if isinstance(event, api.Token) and len(client.tokens) == request.cancel_after:
                    self._end(client, "cancelled", "the client left")
                    return

    def _end(
        self, client: Client, status: Literal["finished", "cancelled", "failed", "lost"], detail: str = ""
    ) -> None:
        client.endings += 1
        client.status, client.detail, client.ended_s = status, detail, trio.current_time()
        self._cluster.trace.note(
            client.request.entry, f"request {client.index} is {status} {detail}".rstrip()
        )

    def _expected(self, request: Request) -> list[int]:
        sampling = Sampling(request.temperature, 0, 1.0, request.seed)
        return reference_tokens(encode(request.prompt), self._cluster.script.layers, sampling, request.tokens)
