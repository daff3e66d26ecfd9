"""`Members`: the machines of this package over a network, a clock and a disk.

decide_network(disk, randomness, invite)      before the network is made, whose handshake binds the network id
members = Members(network, clock, disk, randomness, name)
async with network.run(), trio.open_nursery() as nursery:
    await nursery.start(members.run)
    await members.join(invite)                if there is one
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import assert_never

import structlog
import trio

from mesh.feed import Feed, Subscription
from mesh.members import membership as m
from mesh.members.address_book import BOOK_FILE, AddressBook
from mesh.members.belonging import Belonging, decide_network, read_belonging, write_belonging
from mesh.members.errands import Errands
from mesh.members.invites import INVITES_FILE, SECRET_BYTES, Invites, Verdict
from mesh.members.joining import accept, request_join, serve_join
from mesh.members.liveness import answer_pings
from mesh.members.own_contact import renew_contact
from mesh.rpc import Channel, accepting, deadline
from protocols import limits, streams
from protocols.errors import Disconnected, LocalFault, UserError
from protocols.ids import NetworkId, PeerId, shortened
from protocols.membership import (
    JOIN_CODEC,
    MEMBERS_CODEC,
    PING_CODEC,
    Contact,
    Invite,
    JoinAccepted,
    JoinMessage,
    JoinRefused,
    JoinRequest,
    Leaving,
    MembersMessage,
    parse_invite,
)
from protocols.seams import Clock, Disk, Network, PeerEvent, PeerUp, Randomness
from protocols.streams import Plane

log = structlog.get_logger()


class Members:
    """The members of this node's network. Everything but `network_id` and `create` needs `run` to be ready."""

    def __init__(
        self, network: Network, clock: Clock, disk: Disk, randomness: Randomness, name: str = ""
    ) -> None:
        self._network = network
        self._clock = clock
        self._disk = disk
        self._randomness = randomness
        self._name = name
        self._belonging = read_belonging(disk)
        self._invites = Invites.decode(disk.read(INVITES_FILE))
        self._ready: m.Membership | None = None
        self._events: Feed[m.MemberEvent] = Feed()
        self._runner: Errands | None = None
        self._todo: deque[Callable[[], Awaitable[None]]] = deque()
        self._wake = trio.Event()
        self._is_leaving = False

    # What the rest of the node uses -------------------------------------------------------------------------------

    @property
    def network_id(self) -> NetworkId | None:
        """None until `decide_network` or `create`."""
        return self._belonging.network if self._belonging else None

    def create(self) -> NetworkId:
        """A new network with this node alone, unless it has one."""
        network = decide_network(self._disk, self._randomness, None)
        self._belonging = Belonging(network, is_joined=True)
        return network

    def members(self) -> tuple[Contact, ...]:
        """All but this node."""
        return self._machine.members

    def contact(self) -> Contact:
        """This node's own."""
        return self._machine.own

    def is_up(self, peer: PeerId) -> bool:
        """Whether a member can be talked to, as far as is known."""
        return self._machine.is_up(peer)

    def subscribe(self) -> Subscription[m.MemberEvent]:
        """`MemberUp` and `MemberDown` from this call on."""
        return self._events.subscribe()

    def invite(self, uses: int, ttl_s: float) -> str:
        """A new invite as one string. Raises `UserError` for senseless figures or when too many are outstanding."""
        secret = self._randomness.token_bytes(SECRET_BYTES)
        expires_s = self._invites.make(secret, uses, ttl_s, self._clock.wall())
        self._disk.write(INVITES_FILE, self._invites.encode())
        self._refresh_welcome()
        self._wake.set()
        return Invite(self._network_id, self.contact(), secret, uses, expires_s).to_text()

    async def join(self, invite_text: str) -> None:
        """Become a member of the invite's network; a formality if this node is one. Raises `UserError`."""
        invite = parse_invite(invite_text)
        if invite.network != self._network_id:
            raise UserError(
                f"The invite is to network {shortened(invite.network)} and this node runs in "
                f"{shortened(self._network_id)}: start a node with a home of its own (WEFT_HOME)."
            )
        if invite.inviter.peer == self._network.peer:
            raise UserError("This node made that invite itself: use it on another machine.")
        if self._belonging and self._belonging.is_joined:
            return
        self._handle(m.Joining(invite.inviter))
        joined: m.Joined | m.JoinFailed = m.JoinFailed()
        try:
            joined = m.Joined(await request_join(self._network, invite, self.contact(), self._clock.wall()))
        finally:
            self._handle(joined)
        self._belonging = Belonging(invite.network, is_joined=True)
        write_belonging(self._disk, self._belonging)

    async def leave(self) -> None:
        """Tell the others that this node goes, so that they need not find out; takes `LEAVE_S` at most."""
        self._is_leaving = True
        with trio.move_on_after(limits.LEAVE_S):
            async with trio.open_nursery() as nursery:
                for contact in self.members():
                    if self.is_up(contact.peer):
                        nursery.start_soon(self._errands.tell_once, contact.peer, Leaving())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up with the members until cancelled; the network must be running and its id decided."""
        own = renew_contact(self._network, self._clock, self._disk, self._name)
        self._ready = m.Membership(own, AddressBook.decode(self._disk.read(BOOK_FILE)))
        self._runner = Errands(self._network, self._network_id)
        self._serve()
        events = self._network.events()
        self._perform(self._machine.start(trio.current_time()))
        self._refresh_welcome()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, events)
            task_status.started()
            await self._tend(nursery)

    # The machine ---------------------------------------------------------------------------------------------------

    @property
    def _machine(self) -> m.Membership:
        assert self._ready is not None, "run is not ready"
        return self._ready

    @property
    def _errands(self) -> Errands:
        assert self._runner is not None, "run is not ready"
        return self._runner

    @property
    def _network_id(self) -> NetworkId:
        assert self._belonging is not None, "the network is not decided"
        return self._belonging.network

    async def _follow(self, events: AsyncIterator[PeerEvent]) -> None:
        for connection in self._network.connections():
            self._handle(PeerUp(connection.peer, connection.plane))
        async for event in events:
            self._handle(event)

    async def _tend(self, nursery: trio.Nursery) -> None:
        welcome_until = math.inf
        while True:
            while self._todo:
                nursery.start_soon(self._todo.popleft())
            self._wake = trio.Event()
            with trio.move_on_at(min(self._machine.deadline, welcome_until)):
                await self._wake.wait()
            welcome_until = self._refresh_welcome()
            self._handle(m.Alarm())

    def _refresh_welcome(self) -> float:
        """Strangers are welcome while an invite is valid; gives when that ends on trio's clock, if it will."""
        now_s = self._clock.wall()
        left_s = self._invites.open_until_s(now_s) - now_s
        self._network.welcome_strangers(left_s > 0)
        return trio.current_time() + left_s if left_s > 0 else math.inf

    def _handle(self, event: m.Input) -> None:
        self._perform(self._machine.handle(event, trio.current_time()))
        self._wake.set()  # there may be errands, or another deadline

    def _perform(self, outputs: list[m.Output]) -> None:
        for output in outputs:
            match output:
                case m.Persist():
                    self._persist()
                case m.Learn(contact):
                    self._network.learn(contact)
                case m.Admit(members):
                    self._network.admit(members)
                case m.Dial(peer, plane):
                    self._do(partial(self._dial, peer, plane))
                case m.Disconnect(peer):
                    self._do(partial(self._errands.disconnect, peer))
                case m.Tell(peer, messages):
                    self._do(partial(self._tell, peer, messages))
                case m.MemberUp(peer):
                    self._do(partial(self._watch, peer))
                    self._events.tell(output)
                case m.MemberDown(peer):
                    self._errands.unwatch(peer)
                    self._events.tell(output)
                case _:
                    assert_never(output)

    def _do(self, errand: Callable[[], Awaitable[None]]) -> None:
        """Have `_tend` start it, since it takes time and the machine's outputs come anywhere."""
        self._todo.append(errand)

    async def _dial(self, peer: PeerId, plane: Plane) -> None:
        if not self._is_leaving:
            await self._errands.dial(peer, plane)
        self._handle(m.DialEnded(peer, plane))

    async def _tell(self, peer: PeerId, messages: tuple[MembersMessage, ...]) -> None:
        if self.is_up(peer):
            await self._errands.tell(peer, *messages)

    async def _watch(self, peer: PeerId) -> None:
        if self.is_up(peer):
            await self._errands.watch(peer)

    def _persist(self) -> None:
        try:
            self._disk.write(BOOK_FILE, AddressBook(self._machine.members).encode())
        except LocalFault:
            # A full disk must not take a serving node down: the others vouch again after a restart.
            log.exception("the address book can't be written")

    # What others ask -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        network, net = self._network, self._network_id
        network.handle(streams.JOIN, accepting(streams.JOIN, JOIN_CODEC, net, self._serve_join))
        network.handle(streams.MEMBERS, accepting(streams.MEMBERS, MEMBERS_CODEC, net, self._hear))
        network.handle(streams.PING, accepting(streams.PING, PING_CODEC, net, answer_pings))

    async def _hear(self, channel: Channel[MembersMessage]) -> None:
        while True:
            try:
                with deadline(limits.REPLY_S, f"{channel.peer} says nothing more"):
                    message = await channel.receive()
            except Disconnected:
                return
            self._handle(m.Heard(channel.peer, message))

    async def _serve_join(self, channel: Channel[JoinMessage]) -> None:
        await serve_join(channel, self._judge)

    def _judge(self, request: JoinRequest) -> JoinAccepted | JoinRefused:
        newcomer = request.contact
        # A member that asks again lost the answer to its first request, which took a use already.
        if not self._machine.is_member(newcomer.peer):
            if self._machine.is_full:
                return JoinRefused("full")
            verdict = self._invites.redeem(request.secret, self._clock.wall())
            if verdict is not Verdict.ACCEPTED:
                return JoinRefused(verdict.value)
            self._disk.write(INVITES_FILE, self._invites.encode())
        self._handle(m.Redeemed(newcomer))
        return accept(self.contact(), [one for one in self.members() if one.peer != newcomer.peer])
