"""`Watch`: the failure detector of a node, `suspicion` over a network, a disk and a board.

    watch = Watch(network, network_id, disk, randomness, board)
    watch.set_candidates(peers)               the members, now and whenever they change
    async with network.run(), trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        with watch.subscribe() as changes: ...

What it says reaches all members over the board, which is gossip, and those whom it concerns first over PING streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final, Protocol, assert_never

import structlog
import trio

from mesh.feed import Feed, Subscription
from mesh.liveness import suspicion_events as e
from mesh.liveness.detector import DetectorEvent, MemberAlive, MemberDead, MemberLeft, MemberSuspect, State
from mesh.liveness.incarnation import Incarnation
from mesh.liveness.messenger import Messenger
from mesh.liveness.pinger import Pinger
from mesh.liveness.probing import AskAfter, Ping
from mesh.liveness.suspicion import Suspicion
from mesh.rpc import accepting
from protocols import limits, streams
from protocols.ids import NetworkId, PeerId, shortened
from protocols.liveness import WATCH_CODEC, Alive, LivenessItem, Suspect
from protocols.seams import Disk, Network, PeerEvent, PeerUp, Randomness
from protocols.streams import Plane

log = structlog.get_logger()

BOOT_BYTES: Final = 8


class LivenessBoard(Protocol):
    """What spreads items to all members: gossip, or its double. Only `items` waits."""

    def publish(self, item: LivenessItem, ttl_s: float) -> None:
        """Replaces what this node said under the same `protocols.liveness.key_of`."""

    def withdraw(self, subject: PeerId) -> None:
        """Take the suspicion of a subject back."""

    def said(self) -> Iterable[tuple[PeerId, LivenessItem]]:
        """What others have said and not withdrawn, with its author."""

    def items(self) -> AsyncIterator[tuple[PeerId, LivenessItem]]:
        """The same, and then what comes."""


class Watch:
    """Implements `mesh.liveness.detector.Detector`."""

    def __init__(
        self,
        network: Network,
        network_id: NetworkId,
        disk: Disk,
        randomness: Randomness,
        board: LivenessBoard,
    ) -> None:
        self._network = network
        self._network_id = network_id
        self._board = board
        self._incarnation = Incarnation(disk)
        self._machine = Suspicion(network.peer, self._incarnation.first, randomness.token_bytes(BOOT_BYTES))
        self._members: frozenset[PeerId] = frozenset()
        self._messenger = Messenger(network, network_id, self._hear, self._is_member)
        self._events: Feed[DetectorEvent] = Feed()
        self._pingers: dict[PeerId, Pinger] = {}
        self._pinged: dict[PeerId, tuple[int, float]] = {}  # the nonce of the last ping, and when it went out
        self.rtts_ms: dict[PeerId, float] = {}  # of those whom this node monitors, as last measured
        self._todo: deque[Callable[[], Awaitable[None]]] = deque()
        self._errands = 0
        self._armed_at = 0.0
        self._wake = trio.Event()

    # What the rest of the node uses -------------------------------------------------------------------------------

    def state(self, peer: PeerId) -> State:
        return self._machine.state(peer)

    def states(self) -> Mapping[PeerId, State]:
        return self._machine.states()

    def subscribe(self) -> Subscription[DetectorEvent]:
        return self._events.subscribe()

    def boot_of(self, peer: PeerId) -> bytes:
        """Eight bytes drawn for the run in which it was heard of last, this node included; empty if it never was."""
        return self._machine.boot if peer == self._network.peer else self._machine.boot_of(peer)

    @property
    def incarnation(self) -> int:
        """This node's own."""
        return self._machine.incarnation

    def set_candidates(self, peers: Collection[PeerId]) -> None:
        """From now on these are the members, with or without this node itself."""
        members = frozenset(peers) - {self._network.peer}
        if members == self._members:
            return
        news, self._members = members - self._members, members
        self._handle(e.Candidates(members))
        for author, item in self._board.said() if news else ():
            about = {author, item.subject} if isinstance(item, Suspect) else {author}
            if about & news:  # it counted for nothing when it came
                self._hear(author, item)

    async def leave(self) -> None:
        """Say that this node goes; takes `LEAVE_S` at most. Nothing is watched any more."""
        with trio.move_on_after(limits.LEAVE_S):
            async with trio.open_nursery() as nursery:
                for output in self._machine.handle(e.Leave(), trio.current_time()):
                    if isinstance(output, e.Tell):
                        nursery.start_soon(self._messenger.tell, output.peer, output.items)
                    else:
                        self._perform(output)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled; the network must be running."""
        serve = accepting(streams.PING, WATCH_CODEC, self._network_id, self._messenger.serve)
        self._network.handle(streams.PING, serve)
        connections, events = self._network.connections(), self._network.events()
        for output in self._machine.start(trio.current_time()):
            self._perform(output)
        for connection in connections:
            self._connection_changed(PeerUp(connection.peer, connection.plane))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, events)
            nursery.start_soon(self._read_board)
            task_status.started()
            await self._tend(nursery)

    # The machine --------------------------------------------------------------------------------------------------

    def _handle(self, event: e.Input) -> None:
        for output in self._machine.handle(event, trio.current_time()):
            self._perform(output)
        # An alarm that is set too early costs less than being woken by every pong.
        if self._todo or self._machine.deadline < self._armed_at:
            self._wake.set()

    async def _tend(self, nursery: trio.Nursery) -> None:
        while True:
            while self._todo:
                nursery.start_soon(self._todo.popleft())
            self._wake = trio.Event()
            self._armed_at = self._machine.deadline
            with trio.move_on_at(self._armed_at):
                await self._wake.wait()
            self._handle(e.Alarm())
            self._prune()

    def _perform(self, output: e.Output) -> None:
        match output:
            case e.Cover(incarnation):
                self._incarnation.cover(incarnation)
            case e.Publish(item):
                ttl_s = limits.ALIVE_TTL_S if isinstance(item, Alive) else limits.TOMBSTONE_S
                self._board.publish(item, ttl_s)
            case e.Withdraw(subject):
                self._board.withdraw(subject)
            case e.Tell(peer, items):
                self._do(partial(self._messenger.tell, peer, items))
            case e.Redial(peer):
                self._do(partial(self._redial, peer))
            case e.Disconnect(peer):
                self._todo.append(partial(self._messenger.disconnect, peer))
            case Ping(peer, nonce):
                self._pinged[peer] = nonce, trio.current_time()
                self._pinger(peer).ping(nonce)
            case AskAfter(via, subject, nonce):
                self._do(partial(self._ask_after, via, subject, nonce))
            case MemberAlive() | MemberSuspect() | MemberDead() | MemberLeft():
                self._changed(output)
            case _:
                assert_never(output)

    def _changed(self, event: DetectorEvent) -> None:
        log.info(
            "a member has changed",
            peer=shortened(event.peer),
            state=self.state(event.peer).name,
            incarnation=event.incarnation,
        )
        self._events.tell(event)

    # Errands ------------------------------------------------------------------------------------------------------

    def _do(self, errand: Callable[[], Awaitable[None]]) -> None:
        """Have `_tend` start it, unless too many are under way: every errand is made up for by the next round."""
        if self._errands < limits.WATCH_TASKS_MAX:
            self._errands += 1
            self._todo.append(partial(self._run_errand, errand))

    async def _run_errand(self, errand: Callable[[], Awaitable[None]]) -> None:
        try:
            await errand()
        finally:
            self._errands -= 1

    async def _redial(self, peer: PeerId) -> None:
        if await self._messenger.is_refused(peer):
            self._handle(e.Refused(peer))

    async def _ask_after(self, via: PeerId, subject: PeerId, nonce: int) -> None:
        is_reached = await self._messenger.ask_after(via, subject, nonce)
        if is_reached is not None:
            self._handle(e.Answered(via, subject, nonce, is_reached))

    def _pinger(self, peer: PeerId) -> Pinger:
        if peer not in self._pingers:
            self._pingers[peer] = Pinger(
                self._network,
                self._network_id,
                peer,
                ponged=self._ponged,
                refused=lambda peer: self._handle(e.Refused(peer)),
            )
            self._todo.append(self._pingers[peer].run)
        return self._pingers[peer]

    def _ponged(self, peer: PeerId, nonce: int) -> None:
        pinged, sent_at = self._pinged.get(peer, (None, 0.0))
        if nonce == pinged:
            self.rtts_ms[peer] = (trio.current_time() - sent_at) * 1e3
        self._handle(e.Ponged(peer, nonce))

    def _prune(self) -> None:
        """No pings for those whom others monitor now."""
        if len(self._pingers) > limits.MONITORS:
            for peer in sorted(self._pingers.keys() - set(self._machine.subjects)):
                self._pingers.pop(peer).stop()
                self._pinged.pop(peer, None)
                self.rtts_ms.pop(peer, None)

    # What comes in ------------------------------------------------------------------------------------------------

    def _is_member(self, peer: PeerId) -> bool:
        return peer in self._members

    def _hear(self, author: PeerId, item: LivenessItem) -> None:
        self._handle(e.Heard(author, item))

    async def _read_board(self) -> None:
        async for author, item in self._board.items():
            self._hear(author, item)

    async def _follow(self, events: AsyncIterator[PeerEvent]) -> None:
        async for event in events:
            self._connection_changed(event)

    def _connection_changed(self, event: PeerEvent) -> None:
        if event.plane is Plane.CONTROL:
            is_up = isinstance(event, PeerUp)
            self._handle(e.Connected(event.peer) if is_up else e.Lost(event.peer))
