"""The holder's side over streams: answer surveys and offers, load what was granted, let go of what is released.

A range is loaded while the proposer's stream is open: if that ends before the claim, the proposer has given up or died, and
the grant goes with it; if the proposer merely falls silent, the lease ends it. After the claim the range belongs to the mesh,
not to the proposer.

When the worker dies its claims are withdrawn in the same call, and its ranges are loaded again one by one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from inference.placement.grants import Grant, GrantPolicy, Grants
from inference.placement.holdings import (
    HOLDINGS_FILE,
    Holding,
    Kept,
    Weights,
    decode_kept,
    encode_kept,
)
from inference.placement.loading import Loader, Progress
from inference.placement.progress import ProgressReport
from mesh.nursery import peer_nursery
from mesh.rpc import Channel
from protocols import limits
from protocols.errors import (
    LocalFault,
    Malformed,
    RemoteFault,
    Unauthenticated,
    Unavailable,
    UserError,
    WeftError,
    WorkerDied,
)
from protocols.ids import ModelDigest, PeerId, shortened
from protocols.placement import (
    Capacity,
    Claim,
    Declined,
    Granted,
    LayerRange,
    LoadFailed,
    ModelNote,
    Offer,
    PlacementMessage,
    Release,
    Survey,
)
from protocols.seams import Disk, ShardId, ShardWorker

log = structlog.get_logger()

RELOAD_WAIT_S: Final = 1.0  # after a failure, before the next range is tried
REASON_LENGTH_MAX: Final = 500

Drained = Callable[[ShardId], Awaitable[None]]
"""Returns when no session uses the shard any more."""


async def _at_once(_: ShardId) -> None:
    await trio.lowlevel.checkpoint()


class Holder:
    """The ranges of this node. `on_change` is called, without waiting, whenever its claims are others than before."""

    def __init__(
        self,
        own: PeerId,
        worker: ShardWorker,
        weights: Weights,
        disk: Disk,
        policy: GrantPolicy,
        on_change: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._loader = Loader(own, worker, weights)
        self._disk = disk
        self._on_change = on_change
        self.grants = Grants(policy)
        self.holdings: dict[tuple[ModelDigest, LayerRange], Holding] = {}
        self.notes: dict[ModelDigest, ModelNote] = {}
        self.drained: Drained = _at_once
        self._stops: dict[Grant, trio.CancelScope] = {}
        self._unloaded: deque[Grant] = deque()  # claimed ones that are to be loaded again
        self._outdated: list[Holding] = []  # replaced by the same range in another dtype
        self._failures: Counter[Grant] = Counter()
        self._wake = trio.Event()
        self._deaths = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bring back what an earlier run held; then watch the worker. Raises `LocalFault` for a damaged file."""
        kept = decode_kept(self._disk.read(HOLDINGS_FILE))
        self.notes.update((note.digest, note) for note in kept.notes)
        self._unloaded += map(self.grants.restore, kept.offers)
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_worker)
            nursery.start_soon(self._load_again)

    def claims(self) -> tuple[Claim, ...]:
        return tuple(holding.claim for holding in self.holdings.values())

    def keep(self) -> None:
        """Write what is claimed and named, for the next run. A full disk costs that, and not what is served now."""
        offers = tuple(grant.offer for grant in self.grants if grant.is_claimed)
        try:
            self._disk.write(HOLDINGS_FILE, encode_kept(Kept(offers, tuple(self.notes.values()))))
        except LocalFault as error:
            log.exception("what is held will not come back after a restart", reason=str(error))

    # Answers ---------------------------------------------------------------------------------------------------------

    async def survey(self, survey: Survey) -> Capacity:
        """What this node could hold. Raises `WorkerDied`."""
        layer_ms = await self._loader.measure(survey.shape)
        free_bytes = self.grants.available_bytes(self._worker.free_bytes(), trio.current_time())
        layers_left = self.grants.layers_left()
        if layers_left == 0:
            free_bytes = 0  # on the wire a cap of 0 is none
        return Capacity(layer_ms, free_bytes, layers_left or 0, survey.model in self.notes)

    async def serve_offer(self, channel: Channel[PlacementMessage], offer: Offer) -> None:
        """Grant or decline, load, claim. Raises `Unauthenticated` for an offer in another's name."""
        if offer.proposer != channel.peer:
            raise Unauthenticated("an offer in the name of another peer", channel.peer)
        verdict = self.grants.offer(offer, self._worker.free_bytes(), trio.current_time())
        for grant in verdict.superseded:
            self._stop(grant)
        if verdict.grant is None:
            await channel.send(verdict.reply)
        elif verdict.is_held:
            await self._claim_again(channel, verdict.grant)
        else:
            try:
                await channel.send(verdict.reply)
                await channel.send(await self._load_for(channel, verdict.grant))
            finally:
                if not verdict.grant.is_claimed:
                    self.grants.drop(verdict.grant)
            await self._let_go_of_outdated()

    async def release(self, release: Release, proposer: PeerId) -> None:
        """Withdraw the claim at once, unload when its sessions have ended. Idempotent."""
        released: list[Holding] = []
        for grant in self.grants.release(release, proposer):
            self._stop(grant)
            holding = self.holdings.get((release.model, release.range))
            if holding is not None and holding.grant is grant:
                released.append(self.holdings.pop((release.model, release.range)))
        if released:
            self._changed()
        for holding in released:
            await self._let_go(holding)

    async def _claim_again(self, channel: Channel[PlacementMessage], grant: Grant) -> None:
        key = (grant.offer.model, grant.offer.range)
        if key not in self.holdings:
            await channel.send(Declined("its worker has ended and loads that range again"))
            return
        self.holdings[key] = self.holdings[key].offered_again()
        self._changed()
        await channel.send(Granted(grant.offer.term))
        await channel.send(self.holdings[key].claim)

    # Loading ---------------------------------------------------------------------------------------------------------

    async def _load_for(
        self, channel: Channel[PlacementMessage], grant: Grant
    ) -> Claim | LoadFailed | Declined:
        """Raises `Disconnected` if the proposer leaves before the claim."""
        assert grant.lease_ends_s is not None
        progress = ProgressReport()
        answer: Claim | LoadFailed | Declined = LoadFailed("the lease ended before the range was loaded")
        async with peer_nursery() as nursery:
            nursery.start_soon(_watch_proposer, channel)
            nursery.start_soon(progress.report, channel)
            with trio.CancelScope(deadline=grant.lease_ends_s) as scope:
                self._stops[grant] = scope
                try:
                    answer = (await self._load(grant, progress.tell)).claim
                except (RemoteFault, Unavailable, UserError, LocalFault) as error:
                    log.warning(
                        "a granted range was not loaded", range=str(grant.offer.range), reason=str(error)
                    )
                    answer = LoadFailed(str(error)[:REASON_LENGTH_MAX])
                finally:
                    self._stops.pop(grant, None)
            if scope.cancelled_caught and trio.current_time() < scope.deadline:
                term = self.grants.term_of(grant.offer.model)
                answer = Declined("the range was released, or a newer plan of that model granted", term)
            nursery.cancel_scope.cancel()
        return answer

    async def _load(self, grant: Grant, on_progress: Progress) -> Holding:
        """Raises what `Loader.load` raises."""
        return await self._loader.load(grant, on_progress, self._hold)

    def _hold(self, holding: Holding) -> bool:
        """False if the grant is gone: its lease ended, it was released, or a newer plan took its place."""
        resident_bytes = holding.loaded.resident_bytes
        if self.grants.claim(holding.grant, resident_bytes, trio.current_time()) is None:
            return False
        key = (holding.shard.model, holding.shard.range)
        if key in self.holdings:
            self._outdated.append(self.holdings[key])
        self.holdings[key] = holding
        self._changed()
        return True

    async def _let_go_of_outdated(self) -> None:
        """Outside of any lease: their sessions may take their time."""
        while self._outdated:
            await self._let_go(self._outdated.pop())

    async def _let_go(self, holding: Holding) -> None:
        await self.drained(holding.shard)
        await self._loader.unload(holding.shard)

    def _stop(self, grant: Grant) -> None:
        if grant in self._stops:
            self._stops[grant].cancel()

    def _changed(self) -> None:
        self.keep()
        self._on_change()

    # A worker that died, a node that was restarted -------------------------------------------------------------------

    async def _watch_worker(self) -> None:
        while True:
            await self._worker.wait_died()
            self._deaths += 1
            self.grants.unloaded()
            self._unloaded += (holding.grant for holding in self.holdings.values())
            self.holdings.clear()
            self._on_change()
            self._wake.set()

    async def _load_again(self) -> None:
        while True:
            while self._unloaded:
                await self._try_again(self._unloaded.popleft())
            self._wake = trio.Event()
            await self._wake.wait()

    async def _try_again(self, grant: Grant) -> None:
        """Once; after a failure wait and put it last, or give it up if it is what kills the worker."""
        if grant not in tuple(self.grants):
            return  # released meanwhile
        deaths = self._deaths
        try:
            with trio.CancelScope() as scope:
                self._stops[grant] = scope
                await self._load(grant, _unseen)
            self._failures.pop(grant, None)
        except WorkerDied as error:
            await trio.sleep(RELOAD_WAIT_S)  # by then its death is known, if it was not down before
            self._failed_again(grant, error, is_to_blame=self._deaths > deaths)
        except Unavailable as error:
            self._failed_again(grant, error, is_to_blame=False)  # peers that are away come back
            await trio.sleep(RELOAD_WAIT_S)
        except (RemoteFault, UserError, LocalFault) as error:
            self._failed_again(grant, error, is_to_blame=True)
            await trio.sleep(RELOAD_WAIT_S)
        finally:
            self._stops.pop(grant, None)

    def _failed_again(self, grant: Grant, error: WeftError, *, is_to_blame: bool) -> None:
        self._failures[grant] += is_to_blame
        log.warning("a held range was not loaded", range=str(grant.offer.range), reason=str(error))
        if self._failures[grant] <= limits.RELOADS_MAX:
            self._unloaded.append(grant)
            return
        del self._failures[grant]
        self.grants.drop(grant)
        self.keep()
        log.error("a range was given up", model=shortened(grant.offer.model), range=str(grant.offer.range))


def _unseen(_phase: str, _done_bytes: int, _total_bytes: int) -> None:
    """Nobody waits for the progress of what is loaded again."""


async def _watch_proposer(channel: Channel[PlacementMessage]) -> None:
    """Raises `Disconnected` when the proposer closes; it has nothing more to say."""
    message = await channel.receive()
    raise Malformed(f"a {type(message).__name__} while a range is loaded", channel.peer)
