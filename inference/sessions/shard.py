"""Serving stages: the driver between the streams, the machine of each stage, and the torch worker.

One task per stage takes frames from its inbox, computes them, and sends the outputs on; a credit goes back only after
that, so a slow stage behind slows the one in front and nothing piles up. A reroute cuts short whatever is being sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

import trio

from inference.sessions.held import HeldShard as HeldShard
from inference.sessions.held import HeldShards, loaded_shard
from inference.sessions.relay import GiveBack, Outlet, Relay, StageKey
from inference.sessions.stage import (
    Arrived,
    Compute,
    Computed,
    Forward,
    Output,
    Stage,
    Tell,
)
from inference.sessions.stage import GiveBack as Returned
from mesh.nursery import peer_nursery
from mesh.rpc import Channel, accepting, deadline
from protocols import limits, streams
from protocols.errors import (
    Disconnected,
    Malformed,
    RemoteFault,
    Unavailable,
)
from protocols.ids import NetworkId, PeerId
from protocols.seams import CacheSpec, Network, ShardId, ShardWorker, Stepping
from protocols.session import (
    SESSION_CODEC,
    CloseStage,
    Downstream,
    OpenStage,
    Progress,
    Reroute,
    SessionMessage,
    StageOpened,
    StageRefused,
    StageTrouble,
)
from protocols.tensor import Frame

FRAMES_WAITING_MAX = 2 * limits.CREDITS_PER_SESSION  # an abandoned epoch's may lie before the new ones
REROUTES_WAITING_MAX = limits.FAILOVERS_MAX
CREDITS_TOGETHER = limits.CREDITS_PER_SESSION // 2  # returned in one message; the sender has as many left


class ShardServer:
    """All stages that this node serves."""

    def __init__(
        self, network: Network, network_id: NetworkId, relay: Relay, worker: ShardWorker, shards: HeldShards
    ) -> None:
        self._relay = relay
        self._worker = worker
        self._shards = shards
        self.sessions: dict[StageKey, OpenStage] = {}
        self._entries: dict[StageKey, tuple[PeerId, trio.CancelScope]] = {}
        self._refuses = ""
        self.shortage = ""  # while it is not empty, no more stages are opened, for that reason
        self._changed = trio.Event()
        network.handle(streams.SESSION, accepting(streams.SESSION, SESSION_CODEC, network_id, self._serve))

    async def _serve(self, channel: Channel[SessionMessage]) -> None:
        with deadline(limits.REPLY_S, "no session was opened"):
            opened = await channel.receive()
        if not isinstance(opened, OpenStage):
            raise Malformed(f"a session begins with OpenStage, not {type(opened).__name__}", channel.peer)
        await self._end_earlier(opened, channel.peer)
        refusal = self._refusal(opened, channel.peer)
        if refusal:
            await channel.send(StageRefused(refusal))
            return
        key, scope = (opened.session, opened.stage), trio.CancelScope()
        self.sessions[key], self._entries[key] = opened, (channel.peer, scope)
        try:
            with scope:
                held = await loaded_shard(channel, opened, self._shards, self._work)
                await self._open(channel, opened, held)
        finally:
            del self.sessions[key], self._entries[key]
            self._changed.set()
            self._changed = trio.Event()

    async def _end_earlier(self, opened: OpenStage, entry: PeerId) -> None:
        """An entry that opens a stage again, in a later epoch, has given up the stream it had; this node may be slower."""
        key = (opened.session, opened.stage)
        with deadline(limits.REPLY_S, "the stage is still open from an earlier epoch"):
            while key in self.sessions and self.sessions[key].epoch < opened.epoch:
                holder, scope = self._entries[key]
                if holder != entry:
                    return
                scope.cancel()
                await self._changed.wait()

    def refuse(self, reason: str) -> None:
        """Open no more stages."""
        self._refuses = reason

    def end(self) -> None:
        """Close every stage and open no more, so that their entries go on elsewhere."""
        self._refuses = self._refuses or "this node is going down"
        for _, scope in self._entries.values():
            scope.cancel()

    async def drained(self, shard: ShardId) -> None:
        """Return when no session uses that range."""
        while any(
            (opened.model, opened.range) == (shard.model, shard.range) for opened in self.sessions.values()
        ):
            await self._changed.wait()

    async def drain(self) -> None:
        """Return when no stage is open."""
        while self.sessions:
            await self._changed.wait()

    def _refusal(self, opened: OpenStage, entry: PeerId) -> str:
        if reason := self._refuses or self.shortage:
            return reason
        is_held = self._shards.held(opened.model, opened.range) is not None
        if not is_held and not self._shards.can_load(opened.model, opened.range, entry):
            return f"layers {opened.range} of that model are not held here"
        if (opened.session, opened.stage) in self.sessions:
            return "that stage of the session is open already"
        if len(self.sessions) >= limits.SESSIONS_MAX:
            return f"{limits.SESSIONS_MAX} sessions are open here"
        return ""

    async def _open(self, channel: Channel[SessionMessage], opened: OpenStage, held: HeldShard | str) -> None:
        if isinstance(held, str):
            await channel.send(StageRefused(held[:500]))
            return
        spec = CacheSpec(
            opened.prompt_rows, opened.rows_max, opened.sampling, channel.peer, opened.stages, opened.stop_ids,
            opened.prefix, opened.epoch,
        )  # fmt: skip
        try:
            rows = await self._worker.open_cache(held.shard, opened.session, opened.stage, spec)
        except (Unavailable, RemoteFault) as error:
            await channel.send(StageRefused(str(error)[:500]))
            return
        try:
            await _StageTask(channel, opened, held, rows, self._relay, self._worker, self._work).run()
        finally:
            with trio.move_on_after(limits.REPLY_S, shield=True):
                await self._close_cache(held.shard, opened)

    def _work(self) -> int:
        """Of all stages: one that waits for its turn is not to blame while the worker advances with another."""
        return self._worker.work(self.sessions) + self._shards.load_work()

    async def _close_cache(self, shard: ShardId, opened: OpenStage) -> None:
        try:
            await self._worker.close_cache(shard, opened.session, opened.stage)
        except Unavailable:
            return  # it went with the process, or that is too busy to be told: then the memory watch finds it


@dataclass(slots=True)
class _Taken:
    """A frame that found its stage idle: what the machine made of it, and the step if that has been started."""

    outputs: list[Output]
    give_back: GiveBack
    stepping: Stepping | None = None


class _StageTask:
    """One open stage. A frame that finds it idle goes to the worker at once; the task has its turn when that has answered, or
    when more comes."""

    def __init__(
        self,
        channel: Channel[SessionMessage],
        opened: OpenStage,
        held: HeldShard,
        rows: int,
        relay: Relay,
        worker: ShardWorker,
        work: Callable[[], int],
    ) -> None:
        self._channel = channel
        self._opened = opened
        self._held = held
        self._relay = relay
        self._worker = worker
        self._work_done = work
        self._machine = Stage(opened, held.width, held.dtype, held.is_exact, rows)
        self._inbox: deque[_Taken | tuple[Frame, GiveBack] | Reroute] = deque()  # bounded by what is taken in
        self._has_mail = trio.Event()
        self._is_idle = False
        self._started: _Taken | None = None  # with the worker, and not in the inbox yet
        self._sending: trio.CancelScope | None = None
        self._reroutes_waiting = 0
        self._newest_epoch = opened.epoch  # of all orders, those that wait included
        self._keep_rows = math.inf  # those from here on will be undone by a reroute that waits
        self._outlet: Outlet | None = None
        self._owed: tuple[int, int] = (0, 0)  # the epoch, and the credits not yet returned in it
        self._step_ms = 0.0
        self._step_rows = 0

    async def run(self) -> None:
        """Until the entry closes the stage or its stream ends."""
        session, stage = self._opened.session, self._opened.stage
        deliver = self._deliver
        self._relay.register(session, stage, deliver)
        try:
            await self._tell(StageOpened(self._machine.epoch, self._machine.kept))
            async with peer_nursery() as nursery:
                nursery.start_soon(self._work)
                nursery.start_soon(self._report)
                await self._listen()
                nursery.cancel_scope.cancel()
        finally:
            self._relay.unregister(session, stage, deliver)
            if self._outlet:
                self._outlet.close()

    def _deliver(self, frame: Frame, give_back: GiveBack) -> None:
        self._check(frame)
        if len(self._inbox) >= FRAMES_WAITING_MAX:
            raise Malformed("more frames than credits")
        if self._is_idle:
            self._take(_Taken(self._arrive(frame), give_back))
        else:
            self._put((frame, give_back))

    def _take(self, taken: _Taken) -> None:
        self._is_idle = False
        first = taken.outputs[0] if taken.outputs else None
        if isinstance(first, Compute):
            with suppress(Unavailable, RemoteFault):  # it is tried again, and told to the entry
                taken.stepping = self._worker.start_step(self._held.shard, first.frame, self._put_started)
                self._started = taken
                return
        self._put(taken)

    def _put_started(self) -> None:
        """Its step has ended, or something has come that is to be seen to behind it."""
        taken, self._started = self._started, None
        if taken is not None:
            self._put(taken)

    def _put(self, item: _Taken | tuple[Frame, GiveBack] | Reroute) -> None:
        self._put_started()
        self._is_idle = False
        self._inbox.append(item)
        self._has_mail.set()

    def _arrive(self, frame: Frame) -> list[Output]:
        try:
            return self._machine.handle(Arrived(frame))
        except Malformed as error:
            return [Tell(StageTrouble(self._machine.epoch, str(error)[:500]))]

    async def _listen(self) -> None:
        while True:
            try:
                message = await self._channel.receive()
            except Disconnected:
                return
            match message:
                case Reroute():
                    self._interrupt(message)
                case CloseStage():
                    return
                case _:
                    raise Malformed(f"a stage was sent a {type(message).__name__}", self._channel.peer)

    def _interrupt(self, order: Reroute) -> None:
        """What is still being sent belongs to a route that has been given up. An older order undoes nothing."""
        if order.epoch <= self._newest_epoch:
            return
        self._newest_epoch = order.epoch
        if self._reroutes_waiting >= REROUTES_WAITING_MAX:
            raise Malformed("more reroutes than a session survives", self._channel.peer)
        self._reroutes_waiting += 1
        self._keep_rows = min(self._keep_rows, order.resume_at)
        if self._sending:
            self._sending.cancel()
        self._put(order)

    async def _work(self) -> None:
        while True:
            if self._inbox:
                await trio.lowlevel.checkpoint()  # others have their turn
            else:
                self._is_idle, self._has_mail = True, trio.Event()
                await self._has_mail.wait()
            match self._inbox.popleft():
                case Reroute() as order:
                    self._reroutes_waiting -= 1
                    if not self._reroutes_waiting:
                        self._keep_rows = math.inf
                    await self._act(self._machine.handle(order), _keep_back)
                case _Taken(outputs, give_back, stepping):
                    await self._act(outputs, give_back, stepping)
                case frame, give_back:
                    if frame.header.position < self._keep_rows:
                        await self._act(self._arrive(frame), give_back)

    def _check(self, frame: Frame) -> None:
        header = frame.header
        width = 0 if self._opened.range.start == 0 else self._held.width
        if header.width != width or (width and header.dtype is not self._held.dtype):
            raise Malformed(
                f"rows of width {header.width} {header.dtype.name} do not fit layers {self._opened.range}"
            )

    async def _act(
        self, outputs: list[Output], give_back: GiveBack, stepping: Stepping | None = None
    ) -> None:
        """`stepping`: of the first output, if that is a `Compute` and was started."""
        for output in outputs:
            match output:
                case Compute(frame):
                    await self._compute(frame, give_back, stepping)
                    stepping = None
                case Forward(frame, downstream):
                    await self._forward(frame, downstream)
                case Tell(message):
                    await self._tell(message)
                case Returned():
                    self._give_back(give_back)
                case _:
                    assert_never(output)

    def _give_back(self, give_back: GiveBack) -> None:
        epoch, owed = self._owed
        owed = owed + 1 if epoch == self._machine.epoch else 1
        if owed == CREDITS_TOGETHER:
            give_back(self._machine.epoch, owed)
            owed = 0
        self._owed = self._machine.epoch, owed

    async def _compute(self, frame: Frame, give_back: GiveBack, stepping: Stepping | None) -> None:
        try:
            stepping = stepping or self._worker.start_step(self._held.shard, frame)
            result = await stepping.result()
        except (Unavailable, RemoteFault) as error:
            await self._tell(StageTrouble(self._machine.epoch, str(error)[:500]))
            await trio.sleep_forever()  # the entry closes this stage
        self._step_ms, self._step_rows = result.step_ms, result.step_rows
        await self._act(self._machine.handle(Computed(frame, result)), give_back)

    async def _forward(self, frame: Frame, downstream: Downstream) -> None:
        epoch = self._machine.epoch
        if frame.header.epoch != epoch or self._reroutes_waiting:
            return
        outlet = self._outlet_to(downstream, epoch)
        try:
            if outlet.send_nowait(frame):
                return
            with trio.CancelScope() as self._sending:
                await outlet.send(frame)
        except (Unavailable, RemoteFault) as error:
            await self._tell(StageTrouble(epoch, str(error)[:500], blames_downstream=True))
        finally:
            self._sending = None

    async def _tell(self, message: SessionMessage) -> None:
        if self._channel.send_nowait(message):
            return
        with deadline(limits.REPLY_S, "the entry takes no messages"):
            await self._channel.send(message)

    def _outlet_to(self, downstream: Downstream, epoch: int) -> Outlet:
        if self._outlet is None or self._outlet.epoch != epoch:
            if self._outlet:
                self._outlet.close()
            self._outlet = self._relay.outlet(downstream.peer, self._opened.session, downstream.stage, epoch)
        return self._outlet

    async def _report(self) -> None:
        machine = self._machine
        while True:
            await trio.sleep(limits.PROGRESS_S)
            work, step_ms, step_rows = self._work_done(), self._step_ms, self._step_rows
            await self._tell(
                Progress(machine.epoch, machine.rows, work, machine.computing, step_ms, step_rows)
            )


def _keep_back(_epoch: int, _frames: int) -> None:
    """A reroute came on no activation stream: nobody gets credits for it."""
