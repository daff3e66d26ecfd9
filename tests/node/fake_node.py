"""A node without mesh or model, which keeps the promises of `NodeApi`: what control socket, CLI and HTTP are tested with.

It echoes the prompt word by word. Some models behave: `hold` says one word and waits until cancelled, `slow` waits for
`release`, `moved` re-routes once, and those named after an error raise it, at once or (`late-...`) after one word.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import trio

from node.api import (
    Connection,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Goal,
    HeldRange,
    LikelyToken,
    Member,
    Model,
    NodeStatus,
    Offered,
    OfferEvent,
    OfferProgress,
    Pinged,
    Plan,
    PlannedRange,
    PlannedStandby,
    RefusedNode,
    ReleasedRange,
    Rerouted,
    RevokedMember,
    Session,
    Shard,
    Stage,
    Started,
    Token,
    TokenLogprobs,
    Withdrawn,
    Worker,
)
from node.memory import CacheMemory, MachineMemory, ProcessMemory, ShardMemory, TensorMemory
from node.opinions import Peer, PeerFacet, PeerHappening, PeerHealth, PeerReport, WhyPeer
from protocols.errors import (
    LocalFault,
    Malformed,
    NoRoute,
    NotFound,
    Overloaded,
    Refused,
    TimedOut,
    UserError,
)
from protocols.ids import ModelDigest, NetworkId, PeerId, SessionId

PEER = PeerId("12D3KooWFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeAAAA")
OTHER = PeerId("12D3KooWFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeBBBB")
DIGEST = ModelDigest("ab" * 32)
SESSION = SessionId("cd" * 16)
ROUTE = (Stage("0-3", PEER, "anna"), Stage("4-7", OTHER, "bert"))

ERRORS = {
    "refused": Refused("Your node may not use this model: ask its owner."),
    "too-long": UserError("The prompt has 900 tokens and the context 512: give a shorter one."),
    "overloaded": Overloaded("All sessions are taken: try again."),
    "no-route": NoRoute("No standby is left for layers 4-7: start another node."),
    "timed-out": TimedOut("no answer within 5 s"),
    "malformed": Malformed("the peer sent nonsense"),
    "fault": LocalFault("the disk is full"),
    "bug": RuntimeError("a bug"),
}


class FakeNode:
    """`generating` is set by the first event, `cancelled` when a generation or offer was left early."""

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self.offers: list[tuple[str, str | None, tuple[str, ...]]] = []
        self.goals: list[Goal] = []
        self.generating = threading.Event()
        self.cancelled = threading.Event()
        self.release = trio.Event()
        self.running = 0
        self.drained = False
        self.faults: dict[str, int] = {}
        self.is_short = False

    def status(self) -> NodeStatus:
        return NodeStatus(
            peer=PEER,
            name="anna",
            network=NetworkId("ef" * 16),
            addresses={"control": ("/ip4/127.0.0.1/tcp/4747",), "data": ("/ip4/127.0.0.1/tcp/4748",)},
            members=(Member(PEER, "anna", up=True), Member(OTHER, "bert", up=False)),
            shards=(Shard("tiny", DIGEST, "0-3", False, "exact", "cpu-avx512"),),
            worker=Worker("ready", 4711, 3 << 30, "it is short of memory" if self.is_short else ""),
            connections=(Connection(OTHER, "data", "/weft/noise-xk/1", dialled=True),),
            faults=self.faults,
        )

    async def invite(self, uses: int, ttl_s: float) -> str:
        return f"weft1.{uses}.{ttl_s:g}"

    async def revoke(self, peer: str) -> RevokedMember:
        if peer != "bert":
            raise Refused(f"{peer} was not let in by this node: run 'weft revoke' on one of anna.")
        return RevokedMember(OTHER, "bert", (Member(PEER, "anna", up=False),))

    def models(self) -> tuple[Model, ...]:
        ranges = (HeldRange("0-3", PEER, "anna", False), HeldRange("0-3", OTHER, "bert", True))
        return (Model("tiny", DIGEST, 8, 512, local=True, ready=True, ranges=ranges),)

    @asynccontextmanager
    async def offer(
        self,
        path_or_name: str,
        name: str | None = None,
        on: tuple[str, ...] = (),
        goal: Goal = Goal(),  # noqa: B008  (frozen)
    ) -> AsyncIterator[AsyncIterator[OfferEvent]]:
        self.offers.append((path_or_name, name, on))
        self.goals.append(goal)
        if path_or_name == "missing":
            raise UserError("There is no model folder 'missing': give a path, or weft-tiny.")
        async with aclosing(self._offering(path_or_name)) as events:
            yield events

    async def _offering(self, path: str) -> AsyncGenerator[OfferEvent]:
        for phase, done in (("fetching", 0), ("fetching", 512), ("loading", 1024), ("claimed", 1024)):
            yield OfferProgress(OTHER, "bert", "4-7", False, phase, done, 1024)
            if path == "hold":
                await self._wait_cancelled()
        yield Offered(await self.plan("tiny"))

    async def plan(
        self,
        model: str,
        on: tuple[str, ...] = (),
        goal: Goal = Goal(),  # noqa: B008  (frozen)
    ) -> Plan:
        self._known(model)
        self.goals.append(goal)
        mapped = PlannedStandby(OTHER, "bert", "mapped", 0, 1 << 20, 1800.0, "packed when it has to serve")
        ranges = (
            PlannedRange("0-3", PEER, "anna", OTHER, "bert", 1 << 20, 4.0, 0.0, "it is quick", (mapped,)),
            PlannedRange("4-7", OTHER, "bert", None, None, 1 << 20, 6.5, 1.0, "it has room"),
        )
        refused = (RefusedNode(PEER, "carl", "its operator lets it hold no layers"),)
        return Plan(
            "tiny", DIGEST, 8, ranges, 12.5, 1.0, 90.0, ("1 of 2 ranges has no standby",), refused, True
        )

    async def withdraw(self, model: str) -> Withdrawn:
        self._known(model)
        if model == "hold":
            return Withdrawn("tiny", DIGEST, ())
        ranges = (
            ReleasedRange("0-3", PEER, "anna", False),
            ReleasedRange("0-3", OTHER, "bert", True, "no answer within 60 s"),
        )
        return Withdrawn("tiny", DIGEST, ranges)

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[GenerateEvent]]:
        self.requests.append(request)
        if request.model in ERRORS:
            raise ERRORS[request.model]
        self._known(request.model)
        self.running += 1
        try:
            async with aclosing(self._generating(request)) as events:
                yield events
        finally:
            self.running -= 1

    async def _generating(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        prompt = request.prompt or request.messages[-1].content
        words = prompt.split()
        yield Started(SESSION, DIGEST, ROUTE, len(words))
        for index, word in enumerate(words):
            text = word if index == 0 else f" {word}"
            yield Token(len(words) + index, index, text, self._logprobs(request, index, text))
            if index == 0:
                self.generating.set()
                await self._act(request.model)
                if request.model == "moved":
                    yield Rerouted(1, "4-7", OTHER, "bert", PEER, "anna", 812.4, 96, 1)
        await trio.lowlevel.checkpoint()
        reason = "length" if request.max_tokens == len(words) else "stop"
        yield Finished(reason, len(words), len(words), 20.5, 40.25, " ".join(words))

    @staticmethod
    def _logprobs(request: GenerateRequest, index: int, text: str) -> tuple[TokenLogprobs, ...]:
        """Of a token, and of one that is half a character."""
        if request.logprobs is None:
            return ()
        chosen = LikelyToken(index, text, tuple(text.encode()), -0.5)
        half = LikelyToken(99, "\N{REPLACEMENT CHARACTER}", (0xE2, 0x98), -1.25)
        likeliest = (chosen, half)[: request.logprobs]
        return (TokenLogprobs(index, text, chosen.bytes, -0.5, index, likeliest),)

    async def _act(self, model: str) -> None:
        if model == "hold":
            await self._wait_cancelled()
        if model == "slow":
            await self.release.wait()
        if model.startswith("late-"):
            raise ERRORS[model.removeprefix("late-")]

    async def _wait_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()

    def _known(self, model: str) -> None:
        if model not in {"tiny", "hold", "slow", "moved"} and not model.startswith("late-"):
            raise NotFound(f"No model is called {model!r}: 'weft models' lists those there are.")

    def sessions(self) -> tuple[Session, ...]:
        return (Session(SESSION, "tiny", ROUTE, 0, 5, 7, 40.0, 3.5),) * self.running

    def memory(self) -> TensorMemory:
        high = ("it opens no more sessions and takes no more layers",)
        return TensorMemory(
            peer=PEER,
            name="anna",
            level="high" if self.is_short else "normal",
            reason="it is short of memory: 600 MiB of 16,384 MiB are neither used nor promised"
            if self.is_short
            else "",
            does=high if self.is_short else (),
            machine=MachineMemory(6 << 30, 16 << 30, "control group" if self.is_short else "machine"),
            worker=ProcessMemory(
                4711, 4 << 30, 1 << 30, 64 << 20, 16 << 20, 2 << 30, 1400 << 20, 1250 << 20, 5 << 30, 96 << 20
            ),
            shards=(ShardMemory("tiny", DIGEST, "0-3", 1 << 30, 2, 64 << 20, 16 << 20),),
            caches=(
                CacheMemory(SESSION, 0, "tiny", "0-3", True, 32 << 20, 12 << 20),
                CacheMemory(SESSION, 1, "tiny", "0-3", False, 32 << 20, 4 << 20),
            ),
            orphans_closed=3 if self.is_short else 0,
        )

    def peers(self) -> tuple[Peer, ...]:
        health = PeerHealth(0.5, 3.0, 1 << 30, 4 << 30, 1, 0)
        return (
            Peer(PEER, "anna", "up", 1.0, 0, 0, 0, 0, ("tiny 0-3",), health),
            Peer(OTHER, "bert", "down", 0.62, 12.5, 3, 1, 0, ("tiny 4-7", "tiny 0-3 (standby)"), None, 1.25),
        )

    def why_peer(self, peer: str) -> WhyPeer:
        if peer not in {"bert", OTHER}:
            raise NotFound(f"no member is called {peer!r}: 'weft peers' lists them.")
        reports = (
            PeerReport(PEER, "anna", "anna", 2, 0, 0.5, 8.0, 4.0, 20, 2, 0, 0),
            PeerReport(OTHER, "carl", "dora", 1, 0, 0.3, 8.0, 2.0, 20, 2, 0, 0),
            PeerReport(OTHER, "emil", "emil", 0, 3, 0.0, 60.0, 0.0, 0, 0, 0, 9),
            PeerReport(OTHER, "nina", "nina", 0, 0, 0.0, 60.0, 0.0, 0, 0, 0, 9),
        )
        happenings = (PeerHappening(1.8e9, "failed", "session 1a2b3c4d: silent for 1.2 s"),)
        facets = (PeerFacet("liveness", 2.5, 3.0, 0.5, 1.0, 0.31),)
        return WhyPeer(self.peers()[1], 0.22, facets, happenings, reports)

    async def ping(self, address: str, count: int) -> Pinged:
        if not address.startswith("/ip4/"):
            raise Refused(
                "This node has nothing to do with foreign peers: allow them with mesh.foreign_listen."
            )
        return Pinged(OTHER, "" if "9999" in address else "js-libp2p/3.3.11", (3.25, 1.5, 2.0)[:count])

    async def drain(self) -> None:
        self.drained = True
        self.release.set()
        while self.running:
            await trio.sleep(0.001)
