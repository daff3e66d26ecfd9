"""Getting a range into the worker: its tensors from the mesh, its layers into memory, and nothing left behind if it fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count

import trio

from inference.model.config import parse_config
from inference.placement.grants import Grant
from inference.placement.holdings import Holding, Weights, check_offer, make_claim
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Unavailable
from protocols.ids import PeerId
from protocols.placement import LayerShape
from protocols.seams import ShardId, ShardLoaded, ShardSpec, ShardWorker

Progress = Callable[[str, int, int], None]
"""Called with the phase, the bytes done and the bytes in all."""


class Loader:
    """Ranges are loaded one at a time, so that they don't share the link to the same holder of weights."""

    def __init__(self, own: PeerId, worker: ShardWorker, weights: Weights) -> None:
        self._own = own
        self._worker = worker
        self._weights = weights
        self._turn = trio.Lock()  # fair, so that primaries, which are offered first, come first
        self._versions = count()
        self._layer_ms: dict[LayerShape, float] = {}

    async def load(
        self, grant: Grant, on_progress: Progress, on_loaded: Callable[[Holding], bool]
    ) -> Holding:
        """`on_loaded` is called in the same breath as the load ends, and says whether it is still wanted.

        Raises what the weights and the worker raise, `Malformed` for an offer that does not fit the model, and
        `Unavailable` if it is not wanted any more.
        """
        offer = grant.offer
        async with self._turn:
            raw = await self._weights.config_of(offer.model, offer.weights_from)
            config = parse_config(raw)
            check_offer(offer, config)
            names = config.tensor_names(offer.range)
            fetching = partial(on_progress, "fetching")
            files = await self._weights.ensure(offer.model, names, offer.weights_from, fetching)
            layer_ms = await self.measure(config.layer_shape(offer.dtype))
            shard = ShardId(offer.model, offer.range, next(self._versions))
            spec = ShardSpec(shard, raw, files, offer.dtype, offer.numerics)
            loaded = await self._into_worker(spec, partial(on_progress, "loading"))
            claim = make_claim(self._own, offer, shard, loaded, layer_ms)
            holding = Holding(grant, shard, config, loaded, claim)
            if not on_loaded(holding):
                await self.unload(shard)
                raise Unavailable("the grant was gone before its range was loaded")
        return holding

    async def measure(self, shape: LayerShape) -> float:
        """One decode step of one such layer, in ms; measured once per shape. Raises `WorkerDied`."""
        if shape not in self._layer_ms:
            if len(self._layer_ms) >= limits.MODELS_MAX:
                self._layer_ms.clear()
            self._layer_ms[shape] = await self._worker.measure_layer(shape)
        return self._layer_ms[shape]

    async def unload(self, shard: ShardId) -> None:
        """A worker that died, or dies of this, has unloaded it as well."""
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
                    await self.unload(spec.shard)
        return loaded
