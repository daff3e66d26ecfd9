"""A recording on the processor that is as stubborn as a card's: the same operations on the same memory, whatever has become of it.

The rule of the file: nothing of Python is run again. What an operation makes lies where it lay when it was recorded, and an operation
that hands a number to the processor can't be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Call = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any], Any]


class Tape:
    """What was done in one run."""

    def __init__(self, calls: Sequence[Call], out: Tensor) -> None:
        self._calls = calls
        self._out = out
        self.replays = 0

    def again(self) -> Tensor:
        self.replays += 1
        for operation, given, named, made in self._calls:
            found = operation(*given, **named)
            for old, new in zip(tensors_of(made), tensors_of(found), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither a view nor written in its place
                    old.copy_(new)
        return self._out


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        made = operation(*given, **(named or {}))
        self.calls.append((operation, given, named or {}, made))
        return made


@dataclass
class Tapes:
    """All that were made in a test."""

    made: int = 0
    living: WeakSet[Tape] = field(default_factory=WeakSet)

    @property
    def replays(self) -> int:
        """Of those that there are."""
        return sum(tape.replays for tape in self.living)

    def recorded(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with Recorder() as recorder:
            out = run()
        self.made += 1
        tape = Tape(recorder.calls, out)
        self.living.add(tape)
        return tape.again


def tensors_of(made: Any) -> list[Tensor]:
    return [each for each in (made if isinstance(made, tuple | list) else [made]) if isinstance(each, Tensor)]
