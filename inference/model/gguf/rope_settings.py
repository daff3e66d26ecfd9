"""The rotary settings of a GGUF file, as a `config.json` has them.

Llama 3's scaling is stored as what it does to each frequency (`rope_freqs`), and the settings that it came from are not. They
are looked for among those that models have; where none fits, the factors themselves are written down, in the one form of
config.json that holds a factor per dimension.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from gguf import GGMLQuantizationType

from inference.model.gguf.file import GgufFile
from protocols.errors import Malformed, UserError

_FREQUENCIES: Final = "rope_freqs.weight"
_SHORT: Final = "rope_factors_short.weight"
_LONG: Final = "rope_factors_long.weight"
FACTORS: Final = (_FREQUENCIES, _SHORT, _LONG)
_THETA: Final = 10_000.0
_THETA_MAX: Final = 1e12
_LOW, _HIGH = 1.0, 4.0  # of Llama 3.1, 3.2 and 3.3
_ORIGINAL_CONTEXTS: Final = tuple(1 << power for power in range(8, 21))
_LIKENESS: Final = 1e-4


def rope_settings(file: GgufFile, name: str, head_dim: int) -> dict[str, Any]:
    """Raises `Malformed` and `UserError`."""
    theta = file.metadata.find(f"{name}.rope.freq_base", float) or _THETA
    if not 0 < theta < _THETA_MAX:
        raise Malformed(f"its {name}.rope.freq_base is {theta}")
    turned = file.metadata.find(f"{name}.rope.dimension_count", int) or head_dim
    settings: dict[str, Any] = {"rope_theta": theta}
    if turned != head_dim:
        settings["partial_rotary_factor"] = turned / head_dim
    scaling = _scaling(file, name, theta, turned)
    if scaling is not None:
        settings["rope_scaling"] = scaling
    if scaling is not None and "original_max_position_embeddings" in scaling:
        # Of Phi-3, transformers reads it here.
        settings["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    return settings


def _scaling(file: GgufFile, name: str, theta: float, turned: int) -> dict[str, Any] | None:
    metadata = file.metadata
    if _FREQUENCIES in file.tensors:
        return _by_frequency(_factors(file, _FREQUENCIES, turned), theta, _context(file, name))
    if _LONG in file.tensors or _SHORT in file.tensors:
        return _long(file, name, turned)
    kind = metadata.find(f"{name}.rope.scaling.type", str)
    factor = metadata.find(f"{name}.rope.scaling.factor", float)
    if kind is None:
        factor = factor or metadata.find(f"{name}.rope.scale_linear", float)
        kind = "linear" if factor else "none"
    match kind:
        case "none":
            return None
        case "linear":
            return {"rope_type": "linear", "factor": factor or 1.0}
        case "yarn":
            return _yarn(file, name, factor)
        case _:
            raise UserError(
                f"{file.path} has rope scaling {kind[:64]!r}, and weft imports linear and yarn: choose another model"
            )


def _yarn(file: GgufFile, name: str, factor: float | None) -> dict[str, Any]:
    metadata = file.metadata
    if (metadata.find(f"{name}.rope.scaling.attn_factor", float) or 1.0) != 1.0:
        raise UserError(f"{file.path} scales its attention beside yarn: choose another model")
    betas = {
        f"beta_{end}": value
        for end in ("fast", "slow")
        if (value := metadata.find(f"{name}.rope.scaling.yarn_beta_{end}", float)) is not None
    }
    original = metadata.find(f"{name}.rope.scaling.original_context_length", int) or _context(file, name)
    return {
        "rope_type": "yarn",
        "factor": factor or 1.0,
        "original_max_position_embeddings": original,
        **betas,
    }


def _long(file: GgufFile, name: str, turned: int) -> dict[str, Any]:
    amplitude = file.metadata.find(f"{name}.rope.scaling.attn_factor", float)
    return {
        "rope_type": "longrope",
        "short_factor": _factors(file, _SHORT, turned),
        "long_factor": _factors(file, _LONG, turned),
        "original_max_position_embeddings": file.metadata.need(
            f"{name}.rope.scaling.original_context_length", int
        ),
        **({} if amplitude is None else {"attention_factor": amplitude}),
    }


def _by_frequency(factors: list[float], theta: float, context: int) -> dict[str, Any] | None:
    """What slows each frequency, as Llama 3's settings if there are such."""
    stretch = max(factors)
    if stretch == min(factors) == 1.0:
        return None
    for original in _ORIGINAL_CONTEXTS:
        made = _llama3_factors(stretch, original, theta, len(factors))
        if np.allclose(made, factors, rtol=_LIKENESS, atol=0):
            return {
                "rope_type": "llama3",
                "factor": stretch,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": original,
            }
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }


def _llama3_factors(stretch: float, original: int, theta: float, pairs: int) -> list[float]:
    factors = []
    for pair in range(pairs):
        turns = original / (2 * math.pi * theta ** (pair / pairs))  # within the original context
        share = min(max((turns - _LOW) / (_HIGH - _LOW), 0.0), 1.0)  # of the frequency that is kept
        factors.append(1 / ((1 - share) / stretch + share))
    return factors


def _factors(file: GgufFile, name: str, turned: int) -> list[float]:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise Malformed(f"it has no tensor {name}")
    if tensor.type is not GGMLQuantizationType.F32 or tensor.shape != (turned // 2,):
        raise Malformed(f"its {name} is no list of {turned // 2} numbers")
    factors = file.read(tensor, 0, 1).view("<f4").ravel()
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise Malformed(f"its {name} holds what is no factor")
    return [float(str(factor)) for factor in factors]


def _context(file: GgufFile, name: str) -> int:
    return file.metadata.need(f"{name}.context_length", int)
