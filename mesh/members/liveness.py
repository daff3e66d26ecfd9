"""Noticing silence: TCP does not tell when a cable is pulled, and neither does libp2p, so every member is asked.

The machine watches one peer: a ping every `PING_INTERVAL_S`, and a peer that owes a pong for longer than `PING_TIMEOUT_S`
is given up. An alarm that rings late means that *this* node was held up, and with it the reading of pongs: the peer is
given the lost time, or a busy node would bury its neighbours.

    Opened -> SendPing ... Answered ... Alarm -> SendPing ... Alarm, still owing -> GiveUp
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, assert_never

import trio

from mesh.rpc import Channel, deadline, dial
from protocols import limits, streams
from protocols.errors import Malformed, TimedOut
from protocols.ids import NetworkId, PeerId
from protocols.membership import PING_CODEC, Ping, PingMessage, Pong
from protocols.seams import Network

LATE_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Answered:
    """A pong came in."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """`deadline` has passed."""


@dataclass(frozen=True, slots=True)
class SendPing:
    nonce: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The peer is silent."""


Input = Answered | Alarm
Output = SendPing | GiveUp


@dataclass(slots=True)
class Liveness:
    """The machine. `rtt_ms` is the latest round trip, None before the first."""

    deadline: float = -math.inf
    rtt_ms: float | None = None
    _nonce: int = 0
    _sent_at: float = 0.0
    _owed_until: float = field(default=math.inf)

    def handle(self, event: Input, now: float) -> list[Output]:
        """Raises `Malformed` for a pong that was not asked for."""
        match event:
            case Answered(nonce):
                self._answered(nonce, now)
                return []
            case Alarm():
                return self._ring(now)
            case _:
                assert_never(event)

    def _answered(self, nonce: int, now: float) -> None:
        if nonce != self._nonce or self._owed_until == math.inf:
            raise Malformed("a pong that was not asked for")
        self._owed_until = math.inf
        self.rtt_ms = (now - self._sent_at) * 1e3
        self.deadline = max(self._sent_at + limits.PING_INTERVAL_S, now)

    def _ring(self, now: float) -> list[Output]:
        if now < self.deadline:
            return []
        if self._owed_until == math.inf:
            self._nonce += 1
            self._sent_at = now
            self.deadline = self._owed_until = now + limits.PING_TIMEOUT_S
            return [SendPing(self._nonce)]
        if now - self.deadline > LATE_S:
            self.deadline = now + LATE_S
            return []
        return [GiveUp()]


async def watch(network: Network, peer: PeerId, network_id: NetworkId) -> None:
    """Ping a peer for as long as it answers. Raises `Unavailable` or `RemoteFault` when it no longer does."""
    machine = Liveness()
    event: Input = Alarm()
    async with dial(network, peer, streams.PING, PING_CODEC, network_id) as channel:
        while True:
            for output in machine.handle(event, trio.current_time()):
                await _act(channel, output)
            event = await _next_event(channel, machine.deadline)


async def _act(channel: Channel[PingMessage], output: Output) -> None:
    match output:
        case SendPing(nonce):
            with deadline(limits.PING_TIMEOUT_S, f"{channel.peer} takes no ping"):
                await channel.send(Ping(nonce))
        case GiveUp():
            raise TimedOut(f"{channel.peer} has not answered for {limits.PING_TIMEOUT_S:g} s")
        case _:
            assert_never(output)


async def _next_event(channel: Channel[PingMessage], alarm_at: float) -> Input:
    with trio.move_on_at(alarm_at):
        match await channel.receive():
            case Pong(nonce):
                return Answered(nonce)
            case _:
                raise Malformed("only pongs answer pings", channel.peer)
    return Alarm()


async def answer_pings(channel: Channel[PingMessage]) -> None:
    """The other side: serves a ping stream until it ends."""
    while True:
        match await channel.receive():
            case Ping(nonce):
                with deadline(limits.PING_TIMEOUT_S, f"{channel.peer} takes no pong"):
                    await channel.send(Pong(nonce))
            case _:
                raise Malformed("only pings are answered", channel.peer)
