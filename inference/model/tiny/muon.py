"""Muon: momentum whose matrices are made orthogonal before each step (Jordan et al., 2024), for the decoder's matrices.

Rule of the file: float32, and matrices of one shape go through Newton-Schulz as one stack. `torch.optim.Muon` takes
them singly in bfloat16, which on a CPU costs seconds per step where this costs hundredths.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# The quintic that pulls every singular value towards 1 in five rounds (coefficients of the paper).
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


def orthogonalised(stack: Tensor) -> Tensor:
    """The nearest half-orthogonal matrices, roughly: singular values end between about 0.7 and 1.2."""
    tall = stack.shape[1] > stack.shape[2]
    x: Tensor = stack.mT if tall else stack  # [matrices, short side, long side]
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = _LINEAR * x + (_CUBIC * gram + _QUINTIC * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Steps of equal root-mean-square size for all matrices, so that one learning rate serves every shape."""

    def __init__(self, matrices: Iterable[nn.Parameter], momentum: float = 0.95) -> None:
        self._momentum = momentum
        self._stacks: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for matrix in matrices:
            self._stacks.setdefault(tuple(matrix.shape), []).append(matrix)
        self._velocity = {shape: torch.zeros(len(stack), *shape) for shape, stack in self._stacks.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for shape, matrices in self._stacks.items():
            gradient = torch.stack([_gradient(matrix) for matrix in matrices])
            velocity = self._velocity[shape].lerp_(gradient, 1 - self._momentum)
            update = orthogonalised(gradient.lerp_(velocity, self._momentum))
            # 0.2 matches the step size of AdamW, which lets both share a schedule.
            scale = 0.2 * max(shape) ** 0.5
            for matrix, change in zip(matrices, update, strict=True):
                matrix.add_(change, alpha=-rate * scale)


def _gradient(matrix: nn.Parameter) -> Tensor:
    assert matrix.grad is not None
    return matrix.grad
