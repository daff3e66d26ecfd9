"""The trial on real processes: `weft up` eight times on loopback, with torch behind each."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from node.demo.local_mesh import LocalMesh, LocalNode, wait_until
from protocols.ids import PeerId, shortened
from tests.e2e.asking import MODEL, Answer, ask
from tests.e2e.parity.trial import (
    AT_TOKEN,
    KNOWN_WITHIN_S,
    NODES,
    PROMPT,
    TOKENS,
    Act,
    Figures,
    Readings,
)

SETTINGS = {"WEFT_WORKER_THREADS": "1"}
NAMES = tuple(f"n{number}" for number in range(NODES))
OFFER_S = 120.0
VERDICT = "a member has changed"


class RealMesh:
    """Up, with one range of the model on every node. `layer_ms` is what a layer takes there, as the plan has it."""

    def __init__(self, mesh: LocalMesh, plan: dict[str, Any]) -> None:
        self.layer_ms: float = sorted(each["compute_ms"] for each in plan["ranges"])[NODES // 2]
        self.ranges: list[dict[str, Any]] = plan["ranges"]
        self._mesh = mesh
        self._peers = {node.name: PeerId(peer) for peer, node in mesh.by_peer().items()}

    def play(self, act: Act) -> Figures:
        """Once; whoever is lost stays so, and is ended if it was stopped. Raises `TimedOut`."""
        readings = Readings(act)
        victims: list[LocalNode] = []

        def strike(answer: Answer) -> None:
            readings.lost = answer.route[len(answer.route) // 2]["name"]
            victims.append(self._mesh[readings.lost])
            readings.acted_at_s = time.time()
            victims[0].send_signal(signal.SIGKILL if act == "kill" else signal.SIGSTOP)

        offset_s = time.time() - time.monotonic()
        try:
            answer = ask(self._mesh.first, AT_TOKEN, strike, prompt=PROMPT, max_tokens=TOKENS, seed=1)
            self._await_verdicts(readings)
        finally:
            for victim in victims:
                victim.kill()
        readings.token_at_s = [at_s + offset_s for at_s in answer.times_s]
        readings.moved_from = [each["lost_name"] for each in answer.reroutes]
        assert readings.lost in readings.moved_from, f"{readings.lost} was struck, {readings.moved_from} lost"
        return readings.figures

    def _await_verdicts(self, readings: Readings) -> None:
        survivors = [
            node for node in self._mesh.nodes.values() if node.is_running and node.name != readings.lost
        ]

        def are_known() -> bool:
            for node in survivors:
                at_s = self._verdict_at_s(node, readings)
                if at_s is not None:
                    readings.known_at_s[node.name] = at_s
            return len(readings.known_at_s) == len(survivors)

        wait_until(are_known, KNOWN_WITHIN_S, f"not everybody knows that {readings.lost} is lost")

    def _verdict_at_s(self, node: LocalNode, readings: Readings) -> float | None:
        """By the wall clock, which is one for all processes of this machine."""
        lost = shortened(self._peers[readings.lost])
        for line in node.log.read_text("utf-8", "replace").splitlines():
            if VERDICT in line and lost in line:
                said = json.loads(line)
                at_s = datetime.fromisoformat(said["ts"]).timestamp()
                if said["state"] == "DEAD" and at_s >= readings.acted_at_s:
                    return at_s
        return None


@contextmanager
def real_mesh(folder: Path, checkpoint: Path) -> Iterator[RealMesh]:
    with LocalMesh(folder, NAMES, SETTINGS) as mesh:
        mesh.start()
        with mesh.first.client() as client:
            plan = client.call("offer", {"path": str(checkpoint), "name": MODEL}, within_s=OFFER_S)["plan"]
        yield RealMesh(mesh, plan)
