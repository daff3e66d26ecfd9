"""Asking a daemon to generate, and doing something to the mesh on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from node.demo.local_mesh import LocalNode
from protocols.errors import Disconnected

MODEL: Final = "checkpoint"
GREEDY: Final[dict[str, Any]] = {"prompt": "Once upon a time", "max_tokens": 120, "seed": 1}
DRAWN: Final[dict[str, Any]] = GREEDY | {"temperature": 1.0, "seed": 7}
ANSWER_S: Final = 90.0  # for a machine that does much else


@dataclass
class Answer:
    """What came out of the control socket, and when."""

    route: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    reroutes: list[dict[str, Any]] = field(default_factory=list)
    finished: dict[str, Any] = field(default_factory=dict)
    _pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The pieces as a reader got them."""
        return "".join(self._pieces) + self.finished["tail"]

    @property
    def pause_s(self) -> float:
        """The longest time between two tokens."""
        return max(after - before for before, after in zip(self.times_s, self.times_s[1:], strict=False))

    @property
    def moved(self) -> list[tuple[str, str, str]]:
        """Ranges with whom they left and whom they went to."""
        return [(each["range"], each["lost_name"], each["to_name"]) for each in self.reroutes]

    def hear(self, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "started":
                self.route = event["route"]
            case "rerouted":
                self.reroutes.append(event)
            case "token":
                self.tokens.append(event["token"])
                self.times_s.append(time.monotonic())
                self._pieces.append(event["text"])


def ask(
    node: LocalNode,
    at: int = 0,
    act: Callable[[Answer], None] = lambda _: None,
    *,
    model: str = MODEL,
    **params: Any,
) -> Answer:
    """The whole answer; `act` is called once, in mid-generation, when `at` tokens have come. Raises `CallFailed`."""
    answer = Answer()

    def hear(event: dict[str, Any]) -> None:
        answer.hear(event)
        if event["kind"] == "token" and len(answer.tokens) == at:
            act(answer)

    with node.client() as client:
        answer.finished = client.call("run", {"model": model, **params}, hear, ANSWER_S)
    assert answer.text == answer.finished["text"]
    return answer


class _Enough(Exception):
    """The reader has left."""


def leave(node: LocalNode, at: int, **params: Any) -> Answer:
    """Close the connection when `at` tokens have come."""
    answer = Answer()

    def hear(event: dict[str, Any]) -> None:
        answer.hear(event)
        if len(answer.tokens) == at:
            raise _Enough

    try:
        with node.client() as client:
            client.call("run", {"model": MODEL, **params}, hear, ANSWER_S)
    except (_Enough, Disconnected):
        pass
    return answer
