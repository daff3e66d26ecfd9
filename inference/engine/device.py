"""Where a shard computes: the processor, or an accelerator with memory of its own.

    HOST         kernels that the self-test chooses, caches in slots of their own, exact numerics where the test shows them
    accelerator  torch's own products, caches in pages of one pool, all rows of a step in one call of attention; never exact

Rows lie in pinned memory on their way, in one copy for a whole step: the card fetches and writes them by itself. All else that a
step sends are the numbers of rows and pages. An accelerator's way of computing runs on the processor as well, which is how it is
tested where there is no card.

A card waits for the processor to ask for every product of a short step. What it has recorded once it does at one request, with the
addresses that it was recorded with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from protocols.errors import UserError

WANTED: Final = ("auto", "cpu", "cuda")
_SHARE: Final = (
    2  # weft is a guest on a card as it is in a machine: it takes one part in so many of what is free
)

# The memory that recordings compute in is that of all of them, for no two run at a time. torch keeps it as long as one of them lives,
# and takes it for no other afterwards.
_RECORDED: Final[WeakKeyDictionary[torch.cuda.CUDAGraph, torch.device]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Device:
    """`model` is what the maker calls it, empty for a processor; `records` says whether decode steps are recorded on it."""

    place: torch.device
    is_accelerator: bool = True
    model: str = ""
    records: bool = True

    @property
    def kind(self) -> str:
        """Such as "cpu" or "cuda"."""
        return self.place.type

    @property
    def label(self) -> str:
        """As it stands in the numerics class of a shard."""
        return "/".join((self.kind, *self.model.split())) if self.is_accelerator else self.kind

    def placed(self, weight: Tensor) -> Tensor:
        """The same numbers where they are computed with; itself if it lies there."""
        return weight.to(self.place)

    def sent(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        """Rows of the processor, [.., width] each, in one copy for all of them; themselves where there is none to make."""
        if not self.is_accelerator:
            return parts
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        whole = torch.empty(shape, dtype=parts[0].dtype, pin_memory=self._pins)
        torch.cat(tuple(parts), out=whole)
        return (whole.to(self.place, non_blocking=True),)

    def fetched(self, rows: Tensor) -> Tensor:
        """The same rows for the processor, once they are computed."""
        if not self.is_accelerator:
            return rows
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=self._pins)
        host.copy_(rows, non_blocking=True)
        self.settle()
        return host

    def recorded(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The same work over the same memory, time and again; what it comes to lies where it lay the time before. Raises
        `RuntimeError`, as torch does, if it can't be recorded."""
        return _recorded(run, self.place) if self._pins else run

    def settle(self) -> None:
        """Wait until everything that was asked of it is done."""
        if self._pins:
            torch.cuda.synchronize(self.place)

    def release(self) -> None:
        """Give memory that is not in use back to the card, for others."""
        if self._pins:
            torch.cuda.empty_cache()

    @property
    def free_bytes(self) -> int:
        """What shards and caches may take on it unless the operator says otherwise."""
        return torch.cuda.mem_get_info(self.place)[0] // _SHARE

    @property
    def _pins(self) -> bool:
        return self.place.type == "cuda" and torch.cuda.is_available()


HOST: Final = Device(torch.device("cpu"), is_accelerator=False)


def find_device(wanted: str, rank: int = 0, of: int = 1) -> Device:
    """The one that the operator wants for one process of so many: `auto` is a card for each where torch finds as many. Raises
    `UserError` if there are none to be had."""
    assert wanted in WANTED
    lack = "" if wanted == "cpu" else cuda_lack(of)
    if wanted == "cuda" and lack:
        raise UserError(f"worker.device is cuda, and {lack}; or set worker.device to auto")
    return HOST if wanted == "cpu" or lack else _card(rank)


def cuda_lack(of: int = 1) -> str:
    """Why there are no cards for so many processes, with what to do about it; empty if there are."""
    if torch.cuda.is_available():
        return _few_cards(torch.cuda.device_count(), of)
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"torch {torch.__version__} is built without CUDA: install its CUDA build into this environment"
        )
    return f"torch {torch.__version__} finds no card: see whether nvidia-smi shows one"


def _few_cards(count: int, of: int) -> str:
    if count >= of:
        return ""
    cards = "1 card" if count == 1 else f"{count} cards"
    return f"{of} processes need a card each where there is {cards}: set worker.tensor_parallel to {count}"


def _card(number: int) -> Device:
    # Sums of 32 bit stay so: a product of bf16 is rounded once, and one of f32 not to 19 bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return Device(torch.device("cuda", number), model=torch.cuda.get_device_name(number))


def _recorded(run: Callable[[], Tensor], place: torch.device) -> Callable[[], Tensor]:
    graph, aside, here = torch.cuda.CUDAGraph(), _stream_aside(place), torch.cuda.current_stream(place)
    pool = next((each.pool() for each, where in _RECORDED.items() if where == place), None)
    aside.wait_stream(here)
    try:
        # Torch's own change of streams is not undone where a recording fails.
        with torch.cuda.stream(aside):
            run()  # what libraries set up at their first call can't be recorded
            with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                out = run()
    finally:
        here.wait_stream(aside)
    _RECORDED[graph] = place

    def again() -> Tensor:
        graph.replay()
        return out

    return again


@cache
def _stream_aside(place: torch.device) -> torch.cuda.Stream:
    """One for all recordings, for libraries keep memory for every stream that they have worked on."""
    return torch.cuda.Stream(place)  # type: ignore[no-untyped-call]
