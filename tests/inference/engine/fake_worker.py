"""A worker process without torch, for tests of the client: `python fake_worker.py FD`.

Rows gain 1 per layer; the token is the sum of all rows. A load takes as long as its config says.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from inference.engine.batching.cost_curve import BatchRows
from inference.engine.worker import process as worker
from inference.engine.worker.server import CacheKey, StepOutput
from inference.engine.worker.wire import Ready
from protocols.errors import Malformed, UserError, WeftError
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardLoaded, ShardSpec
from protocols.tensor import Frame


class Config(msgspec.Struct):
    load_s: float = 0.0
    step_s: float = 0.0


class FakeEngine:
    loaded = ShardLoaded(1000, "fake", True)
    batch_rows = BatchRows(4, 2)

    def __init__(self, spec: ShardSpec, config: Config) -> None:
        self.layers = spec.shard.range.layers
        self.config = config
        self.held: dict[CacheKey, int] = {}

    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        self.held[key] = 0
        return spec.rows_max

    def rows(self, key: CacheKey) -> int:
        return self.held[key]

    def close_cache(self, key: CacheKey) -> None:
        del self.held[key]

    def close(self) -> None:
        pass

    def step_together(
        self, work: Sequence[tuple[CacheKey, Frame]], on_layer: Callable[[], None]
    ) -> list[StepOutput | WeftError]:
        for _ in range(self.layers):
            if self.config.step_s:
                time.sleep(self.config.step_s / self.layers)
            on_layer()
        return [self._outcome(key, frame) for key, frame in work]

    def _outcome(self, key: CacheKey, frame: Frame) -> StepOutput | WeftError:
        if frame.header.position != self.held[key]:
            return Malformed("rows do not follow on")
        self.held[key] += frame.header.rows
        items = struct.unpack(f"<{len(frame.body) // 4}f", frame.body)
        out = struct.pack(f"<{len(items)}f", *(item + self.layers for item in items))
        return out, os.getpid() if frame.header.sample else None


class FakeEngines:
    prefix_bytes = 0

    def drop_prefixes(self) -> None:
        pass

    def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> FakeEngine:
        try:
            config = msgspec.json.decode(spec.config, type=Config)
        except msgspec.DecodeError as error:
            raise UserError("no such model") from error
        for done in range(100):
            on_progress(done, 100)
            time.sleep(config.load_s / 100)
        on_progress(100, 100)
        return FakeEngine(spec, config)

    def measure_layer(self, shape: LayerShape) -> float:
        return 1.0


if __name__ == "__main__":
    worker.prepare(1)
    *card, end = sys.argv[1:]
    worker.serve(int(end), FakeEngines(), Ready(card[0], int(card[1])) if card else Ready())
