"""What each dtype promises under each kind of numerics.

    is_batch_invariant   a row has the bits that it has alone, whatever rows are computed with it
    replays_as_decoded   a row has them also in a prefill or in the replay of a lost cache, and over any split into shards
    product_tolerance    how far a product may be from the one of the unquantised weights and rows, as relative L2 norm
    logit_tolerance      how far the logits of a small random model may be from those in f32
    kv8_tolerance        how far they may be, over caches in 8 bit, from those over caches as they are

The first two hold where the self-test finds arithmetic that keeps them (inference/engine/numerics/selftest.py): shards whose machine
has none say so in their numerics class, and are served as `fast`. They hold as well where a shard is computed by several processes, however
many: each of them has the self-test's arithmetic for its slice, and their parts are added in a fixed order, row by row
(inference/engine/parallel/ranks.py). What comes out is rounded otherwise than in one process, so that it is a class of its own, with
`tp2` in its name where there are two; within the same tolerances. And they hold over caches in 8 bit, a class with `kv8` in its
name (inference/model/kv_form.py): rows are rounded one by one, and seen rounded from the first time on. Tolerances are of random weights that make
rows larger from layer to layer, where they are worst.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Contract:
    is_batch_invariant: bool
    replays_as_decoded: bool
    product_tolerance: float
    logit_tolerance: float
    kv8_tolerance: float


def _contracts(dtype: str, product: float, logit: float, kv8: float) -> dict[tuple[str, str], Contract]:
    return {
        (dtype, "exact"): Contract(True, True, product, logit, kv8),
        (dtype, "fast"): Contract(False, False, product, logit, kv8),
    }


CONTRACTS: Final = {
    **_contracts("f32", 2e-6, 1e-5, 0.03),
    **_contracts("bf16", 5e-3, 0.05, 0.04),
    **_contracts("int8", 0.02, 0.15, 0.1),
    **_contracts("int4", 0.13, 0.8, 0.05),
}
"""By dtype and numerics."""
