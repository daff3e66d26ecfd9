"""The holder's side over streams: answer surveys and offers, load what was granted, let go of what is released.

A range is loaded while the proposer's stream is open: if that ends before the claim, the proposer has given up or died, and
the grant goes with it; if the proposer merely falls silent, the lease ends it. After the claim the range belongs to the mesh,
not to the proposer.

When the worker dies the claims of what it had are withdrawn in the same call, and its ranges are loaded again one by one. A
mapped range outlives the worker; it is loaded when a session needs it, and what nobody holds any more may be adopted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
import trio

from inference.placement.holding.grants import Grant, GrantPolicy, Grants
from inference.placement.holding.holdings import (
    HOLDINGS_FILE,
    Holding,
    Kept,
    Weights,
    decode_kept,
    encode_kept,
    spare_ones,
    told_of,
)
from inference.placement.holding.loading import Loader
from inference.placement.holding.promotion import Key, Promotions
from inference.placement.holding.reloading import Reloading
from inference.placement.progress import ProgressReport
from mesh.nursery import peer_nursery
from mesh.rpc import Channel
from protocols import limits
from protocols.errors import (
    LocalFault,
    Malformed,
    Overloaded,
    RemoteFault,
    Unauthenticated,
    Unavailable,
    UserError,
    WeftError,
)
from protocols.ids import ModelDigest, PeerId
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

GIVE_BACK_S: Final = 5.0  # between looks at what was loaded for want of its holder
REASON_LENGTH_MAX: Final = 500

Drained = Callable[[ShardId], Awaitable[None]]
"""Returns when no session uses the shard any more."""


Elsewhere = Callable[[Claim], bool]
"""Whether another node, whose range it is, serves what this claim is of."""


def _nowhere(_: Claim) -> bool:
    return False


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
        self.elsewhere: Elsewhere = _nowhere
        self._stops: dict[Grant, trio.CancelScope] = {}
        self._reloading = Reloading(self._load_again, self._give_up)
        self._outdated: list[Holding] = []  # replaced by the same range in another dtype
        self._promotions = Promotions(self._make_ready)
        self._adoptable: dict[Key, Offer] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bring back what an earlier run held; then watch the worker. Raises `LocalFault` for a damaged file."""
        kept = decode_kept(self._disk.read(HOLDINGS_FILE))
        self.notes.update((note.digest, note) for note in kept.notes)
        self._reloading.add(map(self.grants.restore, kept.offers))
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_worker)
            nursery.start_soon(self._reloading.run)
            nursery.start_soon(self._promotions.run)
            nursery.start_soon(self._give_back)

    def claims(self) -> tuple[Claim, ...]:
        holdings = self.holdings.values()
        return tuple(told_of(holding, holdings) for holding in holdings)

    @property
    def load_work(self) -> int:
        """Rises while anything is fetched or loaded."""
        return self._loader.work

    def keep(self) -> None:
        """Write what is claimed and named, for the next run. A full disk costs that, and not what is served now."""
        offers = tuple(grant.offer for grant in self.grants if grant.is_kept)
        try:
            self._disk.write(HOLDINGS_FILE, encode_kept(Kept(offers, tuple(self.notes.values()))))
        except LocalFault as error:
            log.exception("what is held will not come back after a restart", reason=str(error))

    # Answers ---------------------------------------------------------------------------------------------------------

    async def survey(self, survey: Survey) -> Capacity:
        """What this node could hold. Raises `WorkerDied`."""
        layer_ms = await self._loader.measure(survey.shape)
        has_weights, free_bytes = survey.model in self.notes, self._worker.free_bytes()
        capacity = self.grants.capacity(survey.model, layer_ms, free_bytes, has_weights, trio.current_time())
        row_bytes = self.grants.policy.kv_row_bytes(survey.shape)
        disk_bytes = await self._loader.free_disk_bytes()
        return msgspec.structs.replace(capacity, disk_free_bytes=disk_bytes, kv_row_bytes=row_bytes)

    async def serve_offer(self, channel: Channel[PlacementMessage], offer: Offer) -> None:
        """Grant or decline, load, claim. Raises `Unauthenticated` for an offer in another's name."""
        if offer.proposer != channel.peer:
            raise Unauthenticated("an offer in the name of another peer", channel.peer)
        verdict = self.grants.offer(offer, self._worker.free_bytes(), trio.current_time(), self._is_ready)
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
        key = (release.model, release.range)
        released: list[Holding] = []
        forms = {grant: grant.form for grant in self.grants}
        for grant in self.grants.release(release, proposer):
            self._stop(grant)
            holding = self.holdings.get(key)
            if holding is not None and holding.grant is grant:
                released.append(self.holdings.pop(key))
        if key in self.holdings:
            holding = self.holdings[key] = self.holdings[key].offered_again()  # perhaps under an earlier plan
            if holding.grant.form != forms[holding.grant]:
                released.append(self.holdings.pop(key))
                self.grants.demote(holding.grant)
                self._reloading.add([holding.grant])
        if released or key in self.holdings:
            self._changed()
        for holding in released:
            await self._let_go(holding)

    def _is_ready(self, grant: Grant) -> bool:
        holding = self.holdings.get((grant.offer.model, grant.offer.range))
        return holding is not None and holding.is_as_granted

    async def _claim_again(self, channel: Channel[PlacementMessage], grant: Grant) -> None:
        key = (grant.offer.model, grant.offer.range)
        self.holdings[key] = self.holdings[key].offered_again()
        self._changed()
        await channel.send(Granted(grant.offer.term))
        await channel.send(told_of(self.holdings[key], self.holdings.values()))

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
                    holding = await self._loader.load(grant, progress.tell, self._hold)
                    answer = told_of(holding, self.holdings.values())
                except (RemoteFault, Unavailable, UserError, LocalFault) as error:
                    log.warning(
                        "a granted range was not loaded", range=str(grant.offer.range), reason=str(error)
                    )
                    answer = LoadFailed(str(error)[:REASON_LENGTH_MAX])
                finally:
                    self._stops.pop(grant, None)
            if scope.cancelled_caught and trio.current_time() < scope.deadline:
                answer = self._taken_back(grant)
            nursery.cancel_scope.cancel()
        return answer

    def _taken_back(self, grant: Grant) -> Declined:
        """Whoever stands highest now has taken it, unless the proposer released it."""
        term, proposer = self.grants.highest(grant.offer.model)
        rival = proposer if proposer != grant.offer.proposer else None
        return Declined("the range was released, or a newer plan of that model granted", term, rival=rival)

    def _hold(self, holding: Holding) -> bool:
        """False if the grant is gone: its lease ended, it was released, or a newer plan took its place."""
        replaced = self.grants.claim(holding.grant, holding.resident_bytes, trio.current_time())
        if replaced is None:
            return False
        for grant in replaced:
            self._stop(grant)
        key = (holding.shard.model, holding.shard.range)
        if key in self.holdings and self.holdings[key].is_loaded:
            self._outdated.append(self.holdings[key])
        self.holdings[key] = holding
        self._changed()
        return True

    async def _let_go_of_outdated(self) -> None:
        """Outside of any lease: their sessions may take their time."""
        while self._outdated:
            await self._let_go(self._outdated.pop())

    async def _let_go(self, holding: Holding) -> None:
        if holding.is_loaded:
            await self.drained(holding.shard)
            await self._loader.unload(holding)

    def _stop(self, grant: Grant) -> None:
        if grant in self._stops:
            self._stops[grant].cancel()

    def _changed(self) -> None:
        self.keep()
        self._on_change()

    # What a session needs --------------------------------------------------------------------------------------------

    def may_adopt(self, offer: Offer) -> bool:
        """Whether this node has room for a range that nobody else holds; from then on its own sessions may open it."""
        if self._promotions.is_under_way((offer.model, offer.range)):
            return True  # its memory is promised already
        now, free_bytes = trio.current_time(), self._worker.free_bytes()
        if offer.bytes_needed > self.grants.available_bytes(free_bytes, now):
            return False
        if len(self._adoptable) >= limits.STAGES_MAX:
            self._adoptable.clear()
        self._adoptable[offer.model, offer.range] = offer
        return True

    def can_make_ready(self, key: Key, *, is_own_session: bool) -> bool:
        is_adopted = key in self._adoptable or self._promotions.is_under_way(key)
        return key in self.holdings or (is_own_session and is_adopted)

    async def make_ready(self, key: Key) -> None:
        """The range is in the worker afterwards. Raises `Unavailable` with the reason."""
        await self._promotions.wait_for(key)

    async def _make_ready(self, key: Key) -> None:
        """Load a mapped range, or one that is adopted. Raises what `Loader.load` raises."""
        grant = self._grant_for(key)
        if grant is None:
            return
        try:
            with trio.CancelScope() as scope:
                self._stops[grant] = scope
                await self._loader.load_at_once(grant, _unseen, self._hold)
            if scope.cancelled_caught:
                raise Unavailable("it was released meanwhile")
        except WeftError:
            if grant.is_adopted:
                self.grants.drop(grant)
            else:
                self.grants.demote(grant)
            raise
        finally:
            self._stops.pop(grant, None)

    def _grant_for(self, key: Key) -> Grant | None:
        """What is to be loaded, with its memory promised; None if it is there. Raises `Unavailable` or `Overloaded`."""
        now, free_bytes = trio.current_time(), self._worker.free_bytes()
        holding = self.holdings.get(key)
        if holding is not None:
            if holding.is_loaded:
                return None
            refusal = self.grants.promote(holding.grant, free_bytes, now)
            if refusal is not None:
                raise Overloaded(refusal.reason)
            return holding.grant
        if key not in self._adoptable:
            raise Unavailable("they are not held here")
        adopted = self.grants.adopt(self._adoptable.pop(key), free_bytes, now)
        if not isinstance(adopted, Grant):
            raise Overloaded(adopted.reason)
        return adopted

    async def _give_back(self) -> None:
        """Once its holder serves again and no session is left on it: a promoted range is mapped as before, an adopted one goes."""
        while True:
            await trio.sleep(GIVE_BACK_S)
            for key, holding in tuple(self.holdings.items()):
                if not holding.grant.is_temporary or not self.elsewhere(holding.claim):
                    continue
                if await self._is_unused(key, holding):
                    await self._put_back(key, holding)

    async def shed(self) -> Claim | None:
        """Give up the memory of one range that the mesh can spare here, for want of memory; None if there is none."""
        for key, holding in spare_ones(self.holdings, self.elsewhere):
            if await self._is_unused(key, holding):
                holding.grant.move_to_disk()
                await self._put_back(key, holding)
                return holding.claim
        return None

    async def _is_unused(self, key: Key, holding: Holding) -> bool:
        with trio.move_on_after(0.1) as patience:
            await self.drained(holding.shard)
        return not patience.cancelled_caught and self.holdings.get(key) is holding

    async def _put_back(self, key: Key, holding: Holding) -> None:
        if holding.grant.is_adopted:
            self.grants.drop(holding.grant)
            del self.holdings[key]
        else:
            self.grants.demote(holding.grant)
            self.holdings[key] = holding.mapped_again()
        self._changed()
        await self._loader.unload(holding)

    # A worker that died ----------------------------------------------------------------------------------------------

    async def _watch_worker(self) -> None:
        while True:
            await self._worker.wait_died()
            self.grants.unloaded()
            gone = {key: holding for key, holding in self.holdings.items() if holding.is_loaded}
            for key in gone:
                del self.holdings[key]
            self._on_change()
            self._reloading.worker_died(holding.grant for holding in gone.values())

    async def _load_again(self, grant: Grant) -> None:
        """Raises what `Loader.load` raises; leaves quietly if the grant is gone, or goes meanwhile."""
        if grant not in tuple(self.grants):
            return
        try:
            with trio.CancelScope() as scope:
                self._stops[grant] = scope
                await self._loader.load(grant, _unseen, self._hold)
        finally:
            self._stops.pop(grant, None)

    def _give_up(self, grant: Grant) -> None:
        self.grants.drop(grant)
        self.keep()


def _unseen(_phase: str, _done_bytes: int, _total_bytes: int) -> None:
    """Nobody waits for the progress of what is loaded again."""


async def _watch_proposer(channel: Channel[PlacementMessage]) -> None:
    """Raises `Disconnected` when the proposer closes; it has nothing more to say."""
    message = await channel.receive()
    raise Malformed(f"a {type(message).__name__} while a range is loaded", channel.peer)
