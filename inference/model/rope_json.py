"""The rotary settings of a `config.json`, which older files have in `rope_theta` and `rope_scaling`, newer ones in
`rope_parameters`, and Gemma 3 once for the layers with a window and once for the others.
"""

from __future__ import annotations

import math
from typing import Any, Final

from inference.model.config_fields import ConfigFields, number
from inference.model.families import (
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from protocols.errors import UserError

_THETA: Final = 10_000.0
_KINDS: Final = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def read_rope(raw: ConfigFields, head_dim: int, *, is_local: bool) -> Rope:
    """How the layers turn their heads; `is_local` for layers with a window in a family where those have a base of their own.

    Raises `UserError` for what is no rotary embedding that weft runs.
    """
    settings, theta = _settings(raw, is_local=is_local)
    theta = number("rope_theta", settings.get("rope_theta", theta))
    share = number(
        "partial_rotary_factor", settings.get("partial_rotary_factor", raw.partial_rotary_factor or 1.0)
    )
    turned = int(head_dim * min(share, 2.0))
    if share > 1 or turned < 2 or turned % 2:
        raise UserError(
            f"config.json turns {turned} of {head_dim} dimensions of a head, which are no pairs: download the model again"
        )
    scaling, amplitude = _scaling(raw, settings, theta, turned)
    return Rope(theta, turned, scaling, amplitude)


def _settings(raw: ConfigFields, *, is_local: bool) -> tuple[dict[str, Any], float]:
    """The settings, and the base where they have none."""
    settings = raw.rope_parameters or raw.rope_scaling or {}
    theta = _THETA if raw.rope_theta is None else raw.rope_theta
    if is_local and raw.rope_local_base_freq is not None:
        theta = raw.rope_local_base_freq
    kinds = ("sliding_attention", "full_attention")
    if any(kind in settings for kind in kinds):
        chosen = settings.get(kinds[0] if is_local else kinds[1]) or {}
        if not isinstance(chosen, dict):
            raise UserError(f"config.json has rope_parameters {chosen!r}: download the model again")
        return chosen, theta
    # Older files of Gemma 3 stretch the layers without a window only.
    return ({} if is_local else settings), theta


def _scaling(
    raw: ConfigFields, settings: dict[str, Any], theta: float, turned: int
) -> tuple[Scaling | None, float]:
    """With what cosines and sines are multiplied."""
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind in ("su", "yarn") and "short_factor" in settings:
        kind = "longrope"  # as older files of Phi-3 call it
    match kind:
        # `dynamic` stretches what lies past max_position_embeddings, where weft ends every session.
        case "default" | "dynamic":
            return None, 1.0
        case "linear":
            return LinearScaling(number("factor", settings.get("factor"))), 1.0
        case "llama3":
            return _llama3(raw, settings), 1.0
        case "yarn":
            return _yarn(raw, settings, theta)
        case "longrope":
            return _long(raw, settings, turned)
        case _:
            raise UserError(
                f"config.json asks for rope scaling {kind!r}, and weft runs {', '.join(_KINDS)}: choose another model"
            )


def _llama3(raw: ConfigFields, settings: dict[str, Any]) -> Llama3Scaling:
    scaling = Llama3Scaling(
        number("factor", settings.get("factor")),
        number("low_freq_factor", settings.get("low_freq_factor")),
        number("high_freq_factor", settings.get("high_freq_factor")),
        _original_context(raw, settings),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise _contradiction()
    return scaling


def _yarn(raw: ConfigFields, settings: dict[str, Any], theta: float) -> tuple[YarnScaling, float]:
    original = _original_context(raw, settings)
    factor = _factor(raw, settings, original)
    scaling = YarnScaling(
        factor,
        number("beta_fast", settings.get("beta_fast") or 32),
        number("beta_slow", settings.get("beta_slow") or 1),
        original,
        settings.get("truncate", True) is not False,
    )
    if scaling.beta_fast <= scaling.beta_slow or theta <= 1:
        raise _contradiction()

    def amplitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if settings.get("attention_factor") is not None:
        return scaling, number("attention_factor", settings["attention_factor"])
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        above, below = (number(name, settings[name]) for name in ("mscale", "mscale_all_dim"))
        return scaling, amplitude(above) / amplitude(below)
    return scaling, amplitude(1.0)


def _long(raw: ConfigFields, settings: dict[str, Any], turned: int) -> tuple[LongScaling, float]:
    original = _original_context(raw, settings)
    short, long = (
        _factors(name, settings.get(name), turned // 2) for name in ("short_factor", "long_factor")
    )
    factor = _factor(raw, settings, original)
    if settings.get("attention_factor") is not None:
        return LongScaling(short, long, original), number("attention_factor", settings["attention_factor"])
    if original < 2:
        raise _contradiction()
    amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongScaling(short, long, original), amplitude


def _factor(raw: ConfigFields, settings: dict[str, Any], original: int) -> float:
    stated = settings.get("factor")
    return number("factor", raw.max_position_embeddings / original if stated is None else stated)


def _original_context(raw: ConfigFields, settings: dict[str, Any]) -> int:
    name = "original_max_position_embeddings"
    stated = raw.original_max_position_embeddings or settings.get(name) or raw.max_position_embeddings
    return max(1, int(number(name, stated)))


def _factors(name: str, value: object, count: int) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise UserError(
            f"config.json has a {name} that is no list of {count} numbers: download the model again"
        )
    return tuple(number(name, each) for each in value)


def _contradiction() -> UserError:
    return UserError("config.json has a rope scaling that contradicts itself: download the model again")
