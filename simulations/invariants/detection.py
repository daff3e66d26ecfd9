"""When the living called a node dead, against what really happened to it: the figures of failure detection.

A verdict's time is that of the detector that came to it, so it does not matter how often this looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.liveness.detector import State
from mesh.liveness.standing import NEVER
from protocols.ids import PeerId
from simulations.invariants.history import STILL_S
from simulations.invariants.mesh import Mesh
from simulations.running.outcome import Detection


@dataclass(slots=True)
class _Case:
    """One node down once, or called dead once without being down."""

    node: str
    down_at_s: float | None
    verdicts: dict[str, float] = field(default_factory=dict)  # by who came to it
    all_s: float | None = None

    @property
    def first_s(self) -> float:
        return min(self.verdicts.values())

    def told(self) -> Detection:
        return Detection(self.node, self.down_at_s, self.first_s, self.all_s)


class Detections:
    """`look` again and again, at least twice as often as a node restarts."""

    def __init__(self) -> None:
        self._cases: dict[tuple[str, float | None, int], _Case] = {}

    @property
    def all(self) -> list[Detection]:
        """By the time of their first verdict."""
        return sorted(
            (case.told() for case in self._cases.values()), key=lambda each: (each.first_s, each.node)
        )

    def look(self, mesh: Mesh) -> None:
        for sight, peer, standing in mesh.doubted:
            if standing.state is State.DEAD and standing.incarnation != NEVER and peer in mesh.peers:
                self._note(mesh, sight.name, peer, standing.since, standing.incarnation)
        for case in self._cases.values():
            if case.all_s is None:
                self._close(mesh, case)

    def _note(self, mesh: Mesh, by: str, peer: PeerId, at_s: float, incarnation: int) -> None:
        node = mesh.peers[peer]
        if by == node or at_s < mesh.cluster.started_at_s:
            return
        history = mesh.histories[node]
        down = history.down_at(at_s, peer, incarnation)
        if down is None and history.stood_still(at_s - STILL_S, at_s):
            return
        began_s = None if down is None else down.began_s
        # A false death is one case per incarnation; a node that refutes and dies again has a new one.
        case = self._cases.setdefault((node, began_s, 0 if down else incarnation), _Case(node, began_s))
        case.verdicts.setdefault(by, at_s)

    @staticmethod
    def _close(mesh: Mesh, case: _Case) -> None:
        """All who live have come to it, as long as it is still so."""
        history = mesh.histories[case.node]
        is_over = case.down_at_s is not None and not (history.downs and history.downs[-1].covers(mesh.now))
        if is_over:
            return
        living = [sight.name for sight in mesh.awake if sight.name != case.node]
        if living and all(name in case.verdicts for name in living):
            case.all_s = max(case.verdicts[name] for name in living)
