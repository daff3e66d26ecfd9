"""Connections between nodes, as TCP and the handshake behind it let them come and go; who dials is the product's `Dialling`.

A model of the control plane of `mesh.host`: one connection per pair, in order in both directions. A process that ends resets
its connections; a machine that loses power tells nobody, and when it is up again it resets whatever comes on an old one. Of
two dials at once the one of the lower peer id stays; later ones replace what was there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from protocols import limits
from protocols.ids import PeerId
from protocols.streams import Plane
from simulations.world.node import WorldNode

if TYPE_CHECKING:
    from simulations.world.world import World

FIRST: Final = 0  # the connections that there are at the beginning
DIAL_MS: Final = round(limits.DIAL_S * 1000)
SMALL_BYTES: Final = 100
SIMULTANEOUS_MS: Final = round((limits.DIAL_S + limits.HANDSHAKE_S) * 1000)


class Dialled(Enum):
    CONNECTED = "connected"
    REFUSED = "nobody listens"
    SILENT = "no answer in time"


class Connecting:
    def __init__(self, world: World) -> None:
        self._world = world
        self._agenda = world.agenda
        self._last = FIRST
        self._dialler: dict[int, tuple[int, int]] = {}  # of a connection: who, and when it stood

    # Messages on connections ---------------------------------------------------------------------------------------

    def send(
        self, node: WorldNode, to: int, size_bytes: int, what: Any, *args: Any, after_ms: int = 0
    ) -> bool:
        """`what(receiver, number of the sender, *args)` when it is there; False if there is no connection."""
        connection = node.connections.get(to)
        if connection is None:
            return False
        self._world.ways.carry(
            node.number,
            to,
            size_bytes,
            self._arrive,
            to,
            node.number,
            connection,
            what,
            args,
            after_ms=after_ms,
        )
        return True

    def _arrive(self, to: int, source: int, connection: int, what: Any, args: tuple[Any, ...]) -> None:
        node = self._world.nodes[to]
        if not node.is_powered:
            return
        if node.is_paused:
            node.backlog.append((self._arrive, (to, source, connection, what, args)))
        elif node.is_running and node.connections.get(source) == connection:
            self._world.delivered(source, to, what)
            what(node, source, *args)
        else:
            self._world.ways.carry(to, source, SMALL_BYTES, self._reset, source, to, connection)

    # Ends ------------------------------------------------------------------------------------------------------------

    def close(self, node: WorldNode, to: int) -> None:
        """This end at once, the other when it hears of it."""
        connection = node.connections.get(to)
        if connection is not None:
            self._drop(node, to)
            self._world.ways.carry(node.number, to, SMALL_BYTES, self._reset, to, node.number, connection)

    def close_all(self, node: WorldNode) -> None:
        """The kernel does so for a process that has ended: nobody in it hears of it."""
        for to, connection in node.connections.items():
            self._world.ways.carry(node.number, to, SMALL_BYTES, self._reset, to, node.number, connection)

    def reset(self, one: WorldNode, two: WorldNode) -> None:
        """At both ends, at once."""
        for node, other in ((one, two), (two, one)):
            if (connection := node.connections.get(other.number)) is not None:
                self._reset(node.number, other.number, connection)

    def _reset(self, to: int, source: int, connection: int) -> None:
        node = self._world.nodes[to]
        if node.is_paused:
            node.backlog.append((self._reset, (to, source, connection)))
        elif node.is_running and node.connections.get(source) == connection:
            self._drop(node, source)

    def _drop(self, node: WorldNode, other: int) -> None:
        del node.connections[other]
        self._world.gossiping.connection_lost(node, other)
        self._world.watching.connection_lost(node, other)
        node.dialling.lost(self._world.nodes[other].peer, Plane.CONTROL, self._agenda.now_s)
        self.arm(node)

    def _stand(self, node: WorldNode, other: int, connection: int) -> None:
        before = node.connections.get(other)
        node.connections[other] = connection
        node.dialling.connected(self._world.nodes[other].peer, Plane.CONTROL, self._agenda.now_s)
        if before is None:
            self._world.watching.connected(node, other)
        else:  # the streams of the old one have ended with it
            self._world.gossiping.connection_lost(node, other)

    # Dialling --------------------------------------------------------------------------------------------------------

    def arm(self, node: WorldNode) -> None:
        self._world.arm(node, "dialling", node.dialling.deadline, self._ring)

    def _ring(self, node: WorldNode) -> None:
        for peer, plane in node.dialling.due(self._agenda.now_s):
            if plane is Plane.CONTROL:
                self.dial(node, self._world.number_of[peer], DIAL_MS, partial(self._ended, node, peer))
            else:  # sessions are no part of this world
                node.dialling.connected(peer, plane, math.inf)
        self.arm(node)

    def _ended(self, node: WorldNode, peer: PeerId, _: Dialled) -> None:
        node.dialling.ended(peer, Plane.CONTROL, self._agenda.now_s)
        self.arm(node)

    def dial(self, node: WorldNode, to: int, patience_ms: int, done: Callable[[Dialled], None]) -> None:
        """`done` is called once, unless the node ends before."""
        if to in node.connections:
            done(Dialled.CONNECTED)
            return
        attempt = _Attempt(node, node.run, to, self._agenda.now_ms + patience_ms, done)
        self._world.ways.carry(node.number, to, SMALL_BYTES, self._knocked, attempt)
        self._agenda.at(attempt.until_ms, self._finish, attempt, Dialled.SILENT)

    def _finish(self, attempt: _Attempt, dialled: Dialled) -> None:
        node = attempt.node
        if attempt.is_over or node.run != attempt.run or not node.is_running:
            return
        if node.is_paused:
            node.backlog.append((self._finish, (attempt, dialled)))
            return
        attempt.is_over = True
        attempt.done(dialled)

    def _knocked(self, attempt: _Attempt) -> None:
        there = self._world.nodes[attempt.to]
        if not there.is_powered or attempt.is_over:
            return
        if there.is_paused:
            there.backlog.append((self._knocked, (attempt,)))
        elif there.is_running:
            self._back(attempt, self._accepted, attempt)
        else:
            self._back(attempt, self._finish, attempt, Dialled.REFUSED)

    def _back(self, attempt: _Attempt, what: Any, *args: Any) -> None:
        self._world.ways.carry(attempt.to, attempt.node.number, SMALL_BYTES, what, *args)

    def _accepted(self, attempt: _Attempt) -> None:
        """The dialler's end stands; the other one does when it hears of that."""
        node = attempt.node
        if attempt.is_over or node.run != attempt.run or not node.is_running:
            return
        if node.is_paused:
            node.backlog.append((self._accepted, (attempt,)))
            return
        if attempt.to not in node.connections:
            self._last += 1
            self._dialler[self._last] = node.number, self._agenda.now_ms
            args = (attempt.to, node.number, self._last)
            self._world.ways.carry(node.number, attempt.to, SMALL_BYTES, self._confirmed, *args)
            self._stand(node, attempt.to, self._last)
        self._finish(attempt, Dialled.CONNECTED)

    def _confirmed(self, to: int, source: int, connection: int) -> None:
        there = self._world.nodes[to]
        if not there.is_powered:
            return
        if there.is_paused:
            there.backlog.append((self._confirmed, (to, source, connection)))
        elif not there.is_running:
            self._world.ways.carry(to, source, SMALL_BYTES, self._reset, source, to, connection)
        elif not self._gives_way(there, source):
            self._stand(there, source, connection)

    def _gives_way(self, there: WorldNode, source: int) -> bool:
        """Whether a connection that this node dialled at the same time stays."""
        dialler, stood_ms = self._dialler.get(there.connections.get(source, FIRST), (source, 0))
        is_recent = self._agenda.now_ms - stood_ms <= SIMULTANEOUS_MS
        return dialler == there.number and is_recent and there.peer < self._world.nodes[source].peer


class _Attempt:
    def __init__(
        self, node: WorldNode, run: int, to: int, until_ms: int, done: Callable[[Dialled], None]
    ) -> None:
        self.node, self.run, self.to, self.until_ms, self.done = node, run, to, until_ms, done
        self.is_over = False
