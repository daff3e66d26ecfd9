"""What each `dtype` of a shard stores and sends, in one place; no torch here.

Products take most of a model and are what a precision is named after. Embeddings, norms, routers of experts, activations, keys and
values stay in 16 bit where products are quantised: they are small, and errors there are repeated in every layer. Keys and values of long
sessions are not small, and a node may keep them in 8 bit (inference/model/kv_form.py).

    dtype  a product's weights                                                     rows, keys and values
    f32    32 bit                                                                  32 bit
    bf16   16 bit                                                                  16 bit
    int8   8 bit with a 32-bit scale for every output                              16 bit
    int4   4 bit with a 16-bit scale and offset for every 64 inputs of an output   16 bit
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocols.errors import UserError
from protocols.tensor import DType


@dataclass(frozen=True, slots=True)
class Precision:
    """`group` weights of an output share `scale_bytes` of scale; 0 for all of its weights. Sizes are padded to whole tiles."""

    name: str
    weight_bits: int
    row_bytes: int  # an item of a row, a key, a value, an embedding or a norm
    wire: DType
    scale_bytes: int = 0
    group: int = 0
    output_tile: int = 1

    @property
    def is_quantised(self) -> bool:
        return self.scale_bytes > 0

    def padded(self, outputs: int, inputs: int) -> tuple[int, int]:
        """The sizes with which a product is stored."""
        return _whole(outputs, self.output_tile), _whole(inputs, self.group or 1)

    def product_bytes(self, outputs: int, inputs: int) -> int:
        """What a product's weights and their scales take in memory."""
        rows, columns = self.padded(outputs, inputs)
        scales = rows * (columns // self.group if self.group else 1)
        return rows * columns * self.weight_bits // 8 + scales * self.scale_bytes


KV_KINDS: Final = ("model", "int8")
"""What keys and values are kept in: as the dtype of the model has them, or in 8 bit with a scale for every head of a row."""

INT4_GROUP: Final = 64
INT4_OUTPUT_TILE: Final = 16  # torch packs 4-bit weights by that many outputs

PRECISIONS: Final = {
    precision.name: precision
    for precision in (
        Precision("bf16", weight_bits=16, row_bytes=2, wire=DType.BF16),
        Precision("f32", weight_bits=32, row_bytes=4, wire=DType.F32),
        Precision("int8", weight_bits=8, row_bytes=2, wire=DType.BF16, scale_bytes=4),
        Precision(
            "int4", weight_bits=4, row_bytes=2, wire=DType.BF16,
            scale_bytes=4, group=INT4_GROUP, output_tile=INT4_OUTPUT_TILE,
        ),
    )
}  # fmt: skip


def precision_of(dtype: str) -> Precision:
    """Raises `UserError` for a dtype that weft does not run."""
    precision = PRECISIONS.get(dtype)
    if precision is None:
        raise UserError(f"weft does not run dtype {dtype!r}: choose one of {', '.join(PRECISIONS)}")
    return precision


def kv_head_bytes(head_dim: int, dtype: str, kv: str = "model") -> int:
    """What a key head of one row takes in a cache, and a value head as well."""
    row_bytes = precision_of(dtype).row_bytes
    return head_dim + row_bytes if kv == "int8" else head_dim * row_bytes


def wire_of(dtype: str) -> DType:
    """How rows of such a shard are sent, one of another release included, whose dtype may be news: most send 16 bit."""
    return PRECISIONS[dtype].wire if dtype in PRECISIONS else DType.BF16


def _whole(size: int, tile: int) -> int:
    return -(-size // tile) * tile
