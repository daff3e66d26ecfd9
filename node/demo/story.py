"""What the demo does with its mesh: offer, generate, kill in the middle, bring back, generate again, compare.

Times are those of the client: a pause is the time between two tokens as they came out of the control socket.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from inference.model.tiny import MODEL_DIR
from inference.model.tiny.tasks import Demo, demo_prompts
from node.demo.local_mesh import LocalMesh, LocalNode, wait_until
from protocols.errors import LocalFault, UserError

MODEL: Final = "weft-tiny"
KILL_AFTER: Final = (0.35, 0.6)  # the kill comes at a random token of this part of the least length
TOKENS_MIN: Final = 120
RETURN_S: Final = 45.0

Say = Callable[[str], None]


@dataclass
class Run:
    """One generation with a death in its middle."""

    label: str
    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    text: str = ""
    route: list[dict[str, Any]] = field(default_factory=list)
    reroutes: list[dict[str, Any]] = field(default_factory=list)
    finished: dict[str, Any] = field(default_factory=dict)
    killed: str = ""
    killed_after: int = 0
    is_identical: bool = False
    is_right: bool = False

    @property
    def pause_ms(self) -> float:
        """The longest time between two tokens."""
        gaps = [after - before for before, after in zip(self.times_s, self.times_s[1:], strict=False)]
        return 1000 * max(gaps, default=0.0)

    @property
    def was_rebuilt(self) -> bool:
        """Whether it was the death that moved a range."""
        return any(reroute["lost_name"] == self.killed for reroute in self.reroutes)

    @property
    def replayed_rows(self) -> int:
        return sum(reroute["replayed_rows"] for reroute in self.reroutes)


@dataclass(frozen=True)
class Asked:
    """A prompt with how it is sampled."""

    prompt: Demo
    temperature: float
    seed: int

    @property
    def params(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": self.prompt.prompt}]
        return {"model": MODEL, "messages": messages, "temperature": self.temperature, "seed": self.seed}


class Reference:
    """An unbroken run of the whole model in one process without a mesh, started at once and asked for at the end."""

    def __init__(self, asked: Asked) -> None:
        ids = prompt_ids(asked.prompt.prompt)
        question = {
            "model": str(MODEL_DIR),
            "prompt_ids": ids,
            "max_tokens": context() - len(ids),
            "temperature": asked.temperature,
            "seed": asked.seed,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "inference.engine.reference"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode())
        self._process.stdin.close()
        self._process.stdin = None

    def token_ids(self) -> list[int]:
        """Waits for it. Raises `LocalFault` if it failed."""
        printed, complaints = self._process.communicate(timeout=60)
        if self._process.returncode:
            raise LocalFault(f"the run in one process failed: {complaints.decode().strip()[-500:]}")
        ids: list[int] = json.loads(printed)["token_ids"]
        return ids

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def ask_twice() -> Sequence[tuple[str, Asked]]:
    """The greedy prompt and the one that is sampled."""
    demos = demo_prompts()
    return [("greedy", Asked(demos.greedy, 0.0, 0)), ("temperature 1, seed 7", Asked(demos.sampled, 1.0, 7))]


def offer(mesh: LocalMesh, say: Say) -> dict[str, Any]:
    """Place the embedded model; the plan."""

    def show(event: dict[str, Any]) -> None:
        if event["phase"] == "claimed":
            role = "standby of" if event["standby"] else "holds"
            say(f"  {event['name']} {role} layers {event['range']}")

    with mesh.first.client() as client:
        offered = client.call("offer", {"path": MODEL}, show, within_s=120)
    plan: dict[str, Any] = offered["plan"]
    if any(planned["standby"] is None for planned in plan["ranges"]):
        raise UserError(
            "not every range has a standby: the machine lacks memory for the demo; close something."
        )
    return plan


def generate(mesh: LocalMesh, label: str, asked: Asked, write: Say) -> Run:
    """Stream a completion and kill the holder of the middle range on the way."""
    run = Run(label)
    nodes = mesh.by_peer()
    at = KILL_AFTER[0] + (KILL_AFTER[1] - KILL_AFTER[0]) * Random(label).random()  # noqa: S311  (a story, no secret)
    kill_at = int(TOKENS_MIN * at)

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "started":
            run.route = event["route"]
        elif event["kind"] == "rerouted":
            run.reroutes.append(event)
        elif event["kind"] == "token":
            run.tokens.append(event["token"])
            run.times_s.append(time.monotonic())
            write(event["text"])
            if len(run.tokens) == kill_at:
                holder = _holder_of_the_middle(run)
                run.killed, run.killed_after = nodes[holder].name, kill_at
                nodes[holder].kill()

    with mesh.first.client() as client:
        run.finished = client.call("run", asked.params, on_event, within_s=60)
    run.text = run.finished["text"]
    run.is_right = asked.prompt.check(run.text)
    return run


def _holder_of_the_middle(run: Run) -> str:
    """The peer that computes the middle range now, whatever has moved since the start."""
    middle = run.route[len(run.route) // 2]
    moves = [reroute["to"] for reroute in run.reroutes if reroute["range"] == middle["range"]]
    holder: str = [middle["peer"], *moves][-1]
    return holder


def bring_back(mesh: LocalMesh, node: LocalNode, ranges: int) -> float:
    """Start a killed daemon again and wait until it serves its ranges as before; the seconds that took."""
    began_s = time.monotonic()
    node.start()
    node.wait_ready()

    def is_whole() -> bool:
        served = next(model for model in mesh.first.call("models")["models"] if model["name"] == MODEL)
        holders = served["ranges"]
        primaries = {held["range"] for held in holders if not held["standby"]}
        standbys = {held["range"] for held in holders if held["standby"]}
        return len(primaries) == len(standbys) == ranges

    wait_until(is_whole, RETURN_S, f"{node.name} did not come back with its ranges")
    mesh.wait_connected()
    return time.monotonic() - began_s


def security_of(mesh: LocalMesh) -> list[str]:
    """The security protocol of every connection that any daemon has."""
    return [
        connection["security"]
        for node in mesh.nodes.values()
        if node.is_running
        for connection in node.status()["connections"]
    ]


def prompt_ids(text: str) -> list[int]:
    from inference.model.text import Text

    tokenizer = Text({path.name: path.read_bytes() for path in _small_files()})
    return list(tokenizer.encode_chat([{"role": "user", "content": text}]))


def context() -> int:
    """The longest prompt and answer of the embedded model, together."""
    longest: int = json.loads((MODEL_DIR / "config.json").read_bytes())["max_position_embeddings"]
    return longest


def _small_files() -> list[Path]:
    return [path for path in MODEL_DIR.iterdir() if path.suffix in {".json", ".jinja"}]
