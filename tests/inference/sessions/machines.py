"""The machines of a session and its stages joined without trio: any order of delivery that streams allow, and deaths.

A row is eight bytes; a stage's output row is a digest of its range and of all input rows so far, so that a lost, doubled or
reordered row changes every token after it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import assert_never

from inference.sessions import events as e
from inference.sessions import stage as s
from inference.sessions.session import Session
from protocols import limits
from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.placement import LayerRange
from protocols.seams import StepResult
from protocols.session import OpenStage, Reroute, Sampling, SessionMessage, StageOpened, StageTrouble
from protocols.tensor import DType, Frame, Header, Kind, Numerics

WIDTH = 2  # two f32 are eight bytes
Key = tuple[PeerId, int, int]  # peer, index in the route, incarnation


def digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=8).digest()


def compute(layers: LayerRange, rows: list[bytes]) -> bytes:
    """The output row for the last of `rows`."""
    return digest(str(layers).encode(), *rows)


def expected(order: e.Order, ranges: list[LayerRange]) -> list[int]:
    """What an unbroken run generates."""
    tokens = list(order.prompt)
    while len(tokens) < order.rows_max:
        rows = [token.to_bytes(8, "little") for token in tokens]
        for layers in ranges:
            rows = [compute(layers, rows[: at + 1]) for at in range(len(rows))]
        tokens.append(token_of(rows[-1]))
    return tokens[len(order.prompt) :]


def token_of(row: bytes) -> int:
    return int.from_bytes(row, "little") % 1000


@dataclass
class Kept:
    """What the workers of all peers keep of sessions: for a peer, a range and a name, all input rows up to the end of that block."""

    rows: dict[tuple[PeerId, LayerRange, bytes], list[bytes]] = field(default_factory=dict)

    def find(self, peer: PeerId, opened: OpenStage) -> list[bytes]:
        found: list[bytes] = []
        for name in opened.prefix[: (opened.prompt_rows - 1) // limits.PREFILL_CHUNK_ROWS]:
            rows = self.rows.get((peer, opened.range, name))
            if rows is None:
                break
            found = rows
        return list(found)

    def forget(self, random: Random, share: float) -> None:
        self.rows = {key: rows for key, rows in self.rows.items() if random.random() >= share}


@dataclass
class Holder:
    """A stage at its holder, with its worker's cache of input rows."""

    machine: s.Stage
    peer: PeerId
    kept: Kept
    cache: list[bytes] = field(default_factory=list)
    outbox: deque[s.Forward] = field(default_factory=deque)
    computed: int = 0

    def step(self, frame: Frame) -> StepResult:
        header = frame.header
        assert header.truncate_to == header.position <= len(self.cache)
        del self.cache[header.position :]
        layers = self.machine.opened.range
        if layers.start == 0:
            rows = [token.to_bytes(8, "little") for token in frame.tokens]
        else:
            rows = [bytes(frame.body[at : at + 8]) for at in range(0, len(frame.body), 8)]
        out = []
        for row in rows:
            self.cache.append(row)
            out.append(compute(layers, self.cache))
            self._keep(header)
        self.computed += len(rows)
        is_last = self.machine.downstream is None
        token = token_of(out[-1]) if is_last and header.sample else None
        return StepResult(b"" if is_last else b"".join(out), token, 1.0)

    def _keep(self, header: Header) -> None:
        opened, (block, rest) = self.machine.opened, divmod(len(self.cache), limits.PREFILL_CHUNK_ROWS)
        as_named = header.kind is Kind.PREFILL and header.epoch == opened.epoch
        if as_named and not rest and block <= len(opened.prefix):
            self.kept.rows[self.peer, opened.range, opened.prefix[block - 1]] = list(self.cache)


class Machines:
    """Everything in flight, in queues that keep order as streams do and no other."""

    def __init__(
        self,
        order: e.Order,
        ranges: list[LayerRange],
        holders_each: int,
        random: Random,
        *,
        merge: bool,
        kept: Kept | None = None,
    ) -> None:
        self.random = random
        self.kept = kept or Kept()
        self.merge = merge
        self.alive = {
            (at, copy): PeerId(f"peer-{at}-{copy}")
            for at in range(len(ranges))
            for copy in range(holders_each)
        }
        self.ranges = ranges
        route = [e.Hop(self.alive[at, 0], layers) for at, layers in enumerate(ranges)]
        self.session = Session(order, route, self._replace)
        self.holders: dict[Key, Holder] = {}
        self.queues: dict[tuple[object, ...], deque[Callable[[], None]]] = {}
        self.emitted: list[int] = []
        self.end: e.Finish | e.Fail | None = None
        self.now = 0.0
        self._entry(e.Start())

    def run(self, kills: int) -> None:
        """Deliver everything in a random order, with that many deaths at random moments."""
        for _ in range(100_000):
            ready = [name for name, queue in self.queues.items() if queue]
            if not ready or self.end:
                return
            if kills and self.random.random() < 0.02:
                kills -= 1
                self.kill(self.random.choice(sorted(self.alive.values())))
                continue
            self.queues[self.random.choice(ready)].popleft()()
        raise AssertionError("the session goes round in circles")

    def kill(self, peer: PeerId) -> None:
        self.alive = {at: other for at, other in self.alive.items() if other != peer}
        for key in [key for key in self.holders if key[0] == peer]:
            del self.holders[key]
        for name in [name for name in self.queues if peer in name[1:2]]:
            self.queues[name].clear()  # what was on its way from it
        for index, place in enumerate(self.session.places):
            if place.peer == peer:
                self._post(
                    ("up", peer),
                    lambda at=index, nth=place.incarnation: self._entry(e.Lost(at, nth, "killed")),
                )  # type: ignore[misc]

    def _replace(self, layers: LayerRange, excluded: frozenset[PeerId]) -> PeerId | None:
        at = self.ranges.index(layers)
        holders = [
            peer for (place, _), peer in sorted(self.alive.items()) if place == at and peer not in excluded
        ]
        return holders[0] if holders else None

    def _post(self, name: tuple[object, ...], action: Callable[[], None]) -> None:
        self.queues.setdefault(name, deque()).append(action)

    def _entry(self, event: e.Input) -> None:
        for output in self.session.handle(event, self.now):
            match output:
                case e.Open(index, incarnation, peer, message):
                    self._post(
                        ("open", peer), lambda k=(peer, index, incarnation), m=message: self._open(k, m)
                    )  # type: ignore[misc]
                case e.Send(index, message):
                    place = self.session.places[index]
                    key = (place.peer, index, place.incarnation)
                    self._post(("down", *key), lambda k=key, m=message: self._order(k, m))  # type: ignore[misc]
                case e.Feed():
                    self._feed(output)
                case e.Emit(position, token):
                    assert position == len(self.session.order.prompt) + len(self.emitted)
                    self.emitted.append(token)
                case e.Finish() | e.Fail():
                    self.end = output
                case e.Recovered() | e.Blame() | e.WakeAt():
                    pass
                case _:
                    assert_never(output)

    def _feed(self, feed: e.Feed) -> None:
        order = self.session.order
        for name in [
            name
            for name in self.queues
            if name[0] == "data" and name[1] == "entry" and name[-1] != feed.epoch
        ]:
            self.queues[name].clear()
        for at, token in enumerate(feed.tokens):
            position = feed.position + at
            last = at == len(feed.tokens) - 1
            header = Header(
                feed.kind, order.session, feed.epoch, 0, position, 1, 0, position, Numerics.EXACT, DType.F32,
                sample=feed.sample and last,
            )  # fmt: skip
            self._data("entry", self.session.places[0].peer, Frame(header, (token,), b""))

    def _data(self, sender: str, peer: PeerId, frame: Frame) -> None:
        name = ("data", sender, peer, frame.header.kind is Kind.DECODE, frame.header.epoch)
        self._post(name, lambda: self._arrive(name, peer, frame))

    def _open(self, key: Key, message: OpenStage) -> None:
        if key[0] not in self.alive.values():
            self._tell_lost(key)
            return
        for older in [older for older in self.holders if older[:2] == key[:2]]:
            del self.holders[older]
        found = self.kept.find(key[0], message)
        stage = s.Stage(message, WIDTH, DType.F32, self.merge, len(found))
        self.holders[key] = Holder(stage, key[0], self.kept, found)
        self._tell(key, StageOpened(message.epoch, len(found)))

    def _order(self, key: Key, message: SessionMessage) -> None:
        if isinstance(message, Reroute) and key in self.holders:
            self.holders[key].outbox.clear()
            self._act(key, self.holders[key].machine.handle(message))

    def _arrive(self, name: tuple[object, ...], peer: PeerId, frame: Frame) -> None:
        for key, holder in list(self.holders.items()):
            if key[0] != peer or key[1] != frame.header.stage:
                continue
            if holder.machine.computing and frame.header.epoch == holder.machine.epoch:
                # Stands for credits: a stage is never sent more than it has room for.
                self.queues[name].appendleft(lambda: self._arrive(name, peer, frame))
            else:
                self._act(key, holder.machine.handle(s.Arrived(frame)))

    def _act(self, key: Key, outputs: list[s.Output]) -> None:
        holder = self.holders[key]
        for output in outputs:
            match output:
                case s.Compute(frame):
                    self._post(("work", *key), lambda f=frame: self._work(key, holder, f))  # type: ignore[misc]
                case s.Forward():
                    holder.outbox.append(output)
                    self._post(("send", *key), lambda: self._send(key, holder))
                case s.Tell(message):
                    self._tell(key, message)
                case s.GiveBack():
                    pass
                case _:
                    assert_never(output)

    def _work(self, key: Key, holder: Holder, frame: Frame) -> None:
        if self.holders.get(key) is holder:
            self._act(key, holder.machine.handle(s.Computed(frame, holder.step(frame))))

    def _send(self, key: Key, holder: Holder) -> None:
        if not holder.outbox or self.holders.get(key) is not holder:
            return
        forward = holder.outbox.popleft()
        if forward.downstream.peer not in self.alive.values():
            trouble = StageTrouble(forward.frame.header.epoch, "reset", blames_downstream=True)
            self._tell(key, trouble)
            return
        self._data(f"{key[0]}", forward.downstream.peer, forward.frame)

    def _tell(self, key: Key, message: SessionMessage) -> None:
        self._post(("up", key[0]), lambda: self._entry(e.Told(key[1], key[2], message)))

    def _tell_lost(self, key: Key) -> None:
        self._post(("up", key[0]), lambda: self._entry(e.Lost(key[1], key[2], "refused")))


def make_order(prompt: int, tokens: int) -> e.Order:
    ids = tuple(range(1, prompt + 1))
    return e.Order(SessionId("0" * 32), ModelDigest("0" * 64), ids, prompt + tokens, Sampling())
