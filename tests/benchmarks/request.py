"""One request, asked of a daemon over its control socket, and of the whole model in one process for comparison."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, Self

from node.demo.local_mesh import LocalNode
from protocols.errors import LocalFault, TimedOut
from tests.benchmarks.model import prompt_of

ANSWER_S: Final = 60.0  # between two events of a request
REFERENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Request:
    prompt_ids: tuple[int, ...]
    tokens: int
    temperature: float = 0.0
    seed: int = 0

    @classmethod
    def drawn(
        cls, rng: Random, prompt_rows: int, vocabulary: int, tokens: int, temperature: float
    ) -> Request:
        prompt_ids = tuple(rng.randrange(1, vocabulary) for _ in range(prompt_rows))
        return cls(prompt_ids, tokens, temperature, rng.randrange(1 << 32))


@dataclass(slots=True)
class Answer:
    """Tokens with the times at which they came out of the control socket."""

    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    route: list[dict[str, Any]] = field(default_factory=list)
    reroutes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Of decoding: from the first token to the last."""
        return (len(self.tokens) - 1) / (self.times_s[-1] - self.times_s[0])

    def gaps_s(self, after: int = 1) -> list[float]:
        """The waits for the tokens that followed on the first `after`."""
        return [self.times_s[at] - self.times_s[at - 1] for at in range(after, len(self.times_s))]


def ask(
    node: LocalNode, model: str, request: Request, answer: Answer, on_token: Callable[[], None] | None = None
) -> None:
    """Fills `answer` as events come. Raises `CallFailed`, `TimedOut` or `Disconnected`."""

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "started":
            answer.route = event["route"]
        elif event["kind"] == "rerouted":
            answer.reroutes.append(event)
        elif event["kind"] == "token":
            answer.times_s.append(time.monotonic())
            answer.tokens.append(event["token"])
            if on_token is not None:
                on_token()

    params = {
        "model": model,
        "prompt": prompt_of(request.prompt_ids),
        "max_tokens": request.tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    with node.client() as client:
        client.call("run", params, on_event, within_s=ANSWER_S)


class Reference:
    """The same request in one process without a mesh: one torch thread, bf16, exact. Runs beside; `token_ids` waits."""

    def __init__(self, folder: Path, request: Request) -> None:
        question = {
            "model": str(folder),
            "prompt_ids": request.prompt_ids,
            "max_tokens": request.tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        self._question = json.dumps(question).encode()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "inference.engine.reference"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        assert self._process.stdin is not None
        self._process.stdin.write(self._question)
        self._process.stdin.close()
        self._process.stdin = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def token_ids(self) -> list[int]:
        """Raises `LocalFault` if it failed; what it complained of is on stderr. Raises `TimedOut`."""
        try:
            printed, _ = self._process.communicate(timeout=REFERENCE_S)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"the run in one process did not end within {REFERENCE_S:g} s") from None
        if self._process.returncode:
            raise LocalFault("the run in one process failed")
        ids: list[int] = json.loads(printed)["token_ids"]
        return ids
