"""Getting a range into the worker: its tensors from the mesh, its layers into memory, and nothing left behind if it fails.

A mapped range goes half the way: its tensors come to the disk of this node and are read once, so that they lie in the page
cache, and the worker hears of them only when a session needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count

import trio

from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from inference.placement.holding.grants import Grant
from inference.placement.holding.holdings import Holding, Weights, check_offer, make_claim
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Unavailable
from protocols.ids import PeerId
from protocols.placement import LayerShape, Offer
from protocols.seams import ShardId, ShardLoaded, ShardSpec, ShardWorker, TensorFile

Progress = Callable[[str, int, int], None]
"""Called with the phase, the bytes done and the bytes in all."""


class Loader:
    """Ranges are loaded one at a time, so that they don't share the link to the same holder of weights.

    `work` rises with everything that advances, so that sessions which wait for the worker know that it is not stuck.
    """

    def __init__(self, own: PeerId, worker: ShardWorker, weights: Weights) -> None:
        self._own = own
        self._worker = worker
        self._weights = weights
        self._turn = trio.Lock()  # fair, so that primaries, which are offered first, come first
        self._versions = count()
        self._layer_ms: dict[LayerShape, float] = {}
        self.work = 0

    async def load(
        self, grant: Grant, on_progress: Progress, on_loaded: Callable[[Holding], bool]
    ) -> Holding:
        """Load or map. `on_loaded` is called in the same breath as that ends, and says whether it is still wanted.

        Raises what the weights and the worker raise, `Malformed` for an offer that does not fit the model, and
        `Unavailable` if it is not wanted any more.
        """
        async with self._turn:
            return await self._load(grant, self._counted(on_progress), on_loaded)

    async def load_at_once(
        self, grant: Grant, on_progress: Progress, on_loaded: Callable[[Holding], bool]
    ) -> Holding:
        """The same, without waiting for its turn: a session stands still until it is done."""
        return await self._load(grant, self._counted(on_progress), on_loaded)

    async def _load(
        self, grant: Grant, on_progress: Progress, on_loaded: Callable[[Holding], bool]
    ) -> Holding:
        offer = grant.offer
        raw = await self._weights.config_of(offer.model, offer.weights_from)
        config = parse_config(raw)
        check_offer(offer, config)
        files = await self._fetched(offer, config, on_progress)
        layer_ms = await self.measure(config.layer_shape(offer.dtype))
        shard = ShardId(offer.model, offer.range, next(self._versions))
        loaded = None
        if grant.is_mapped:
            names = config.tensor_names(offer.range)
            await self._weights.warm(offer.model, names, partial(on_progress, "mapping"))
        else:
            tokenizer = await self._weights.tokenizer_of(offer.model)
            spec = ShardSpec(shard, raw, files, offer.dtype, offer.numerics, tokenizer)
            loaded = await self._into_worker(spec, partial(on_progress, "loading"))
        claim = make_claim(self._own, offer, shard, loaded, layer_ms)
        holding = Holding(grant, shard, config, loaded, claim)
        if not on_loaded(holding):
            await self.unload(holding)
            raise Unavailable("the grant was gone before its range was loaded")
        return holding

    async def _fetched(
        self, offer: Offer, config: ModelConfig, on_progress: Progress
    ) -> tuple[TensorFile, ...]:
        names = config.tensor_names(offer.range)
        fetching = partial(on_progress, "fetching")
        return await self._weights.ensure(offer.model, names, offer.weights_from, fetching)

    def _counted(self, on_progress: Progress) -> Progress:
        def count_and_tell(phase: str, done_bytes: int, total_bytes: int) -> None:
            self.work += 1
            on_progress(phase, done_bytes, total_bytes)

        return count_and_tell

    async def free_disk_bytes(self) -> int | None:
        return await self._weights.free_disk_bytes()

    async def measure(self, shape: LayerShape) -> float:
        """One decode step of one such layer, in ms; measured once per shape. Raises `WorkerDied`."""
        if shape not in self._layer_ms:
            if len(self._layer_ms) >= limits.MODELS_MAX:
                self._layer_ms.clear()
            self._layer_ms[shape] = await self._worker.measure_layer(shape)
        return self._layer_ms[shape]

    async def unload(self, holding: Holding) -> None:
        """A worker that died, or dies of this, has unloaded it as well."""
        if holding.is_loaded:
            await self._unload(holding.shard)

    async def _unload(self, shard: ShardId) -> None:
        with suppress(Unavailable):
            await self._worker.unload(shard)

    async def _into_worker(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> ShardLoaded:
        loaded: ShardLoaded | None = None
        try:
            with deadline(limits.LOAD_S, "the range was not loaded"):
                loaded = await self._worker.load(spec, on_progress)
        finally:
            if loaded is None:  # half a shard would lie in the worker for ever
                with trio.move_on_after(limits.REPLY_S, shield=True):
                    await self._unload(spec.shard)
        return loaded
