"""Rotary settings come back out of what llama.cpp makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter, RopeScalingType
from numpy.typing import NDArray

from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from inference.model.families import LinearScaling, Llama3Scaling, LongScaling, YarnScaling
from inference.model.gguf.importing import import_gguf
from protocols.errors import UserError
from tests.inference.model.gguf.gguf_files import add_byte_tokenizer, random_model, write_gguf

PAIRS = 16


def config_of(
    path: Path,
    name: str = "llama",
    describe: Callable[[GGUFWriter], Any] = lambda _: None,
    changes: dict[str, Any] | None = None,
    **tensors: NDArray[np.float32],
) -> ModelConfig:
    def both(writer: GGUFWriter) -> None:
        add_byte_tokenizer(writer)
        describe(writer)

    model = random_model(name, **(changes or {}))
    write_gguf(path / "m.gguf", model, describe=both, **tensors)
    import_gguf(path / "m.gguf", path / "m", lambda *_: None)
    return parse_config((path / "m/config.json").read_bytes())


def scaled(kind: RopeScalingType, factor: float) -> Callable[[GGUFWriter], None]:
    def describe(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(32)

    return describe


def llama3(factor: float, original: int, low: float, high: float, theta: float) -> NDArray[np.float32]:
    """As llama.cpp's converter has them, by wavelength."""
    factors = []
    for pair in range(PAIRS):
        wavelength = 2 * math.pi * theta ** (pair / PAIRS)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (4.0, 512)])
def test_the_settings_of_llama_3_are_found_by_their_factors(
    tmp_path: Path, factor: float, original: int
) -> None:
    factors = llama3(factor, original, 1, 4, 500_000.0)
    config = config_of(tmp_path, changes={"rope_theta": 500_000.0}, rope_freqs=factors)
    assert [kind.rope.scaling for kind in config.kinds] == [Llama3Scaling(factor, 1.0, 4.0, original)]


def test_factors_of_no_known_settings_are_kept_as_they_are(tmp_path: Path) -> None:
    factors = llama3(8.0, 700, 1.5, 3, 10_000.0)
    (kind,) = config_of(tmp_path, rope_freqs=factors).kinds
    assert isinstance(kind.rope.scaling, LongScaling)
    assert kind.rope.amplitude == 1.0
    for kept in (kind.rope.scaling.short, kind.rope.scaling.long):
        assert np.array_equal(np.array(kept, np.float32), factors)


def test_factors_of_one_are_no_scaling(tmp_path: Path) -> None:
    (kind,) = config_of(tmp_path, rope_freqs=np.ones(PAIRS, np.float32)).kinds
    assert kind.rope.scaling is None


@pytest.mark.parametrize("factors", [np.ones(7), np.full(PAIRS, np.nan), np.zeros(PAIRS)])
def test_factors_that_are_none_are_refused(tmp_path: Path, factors: NDArray[np.float64]) -> None:
    with pytest.raises(UserError, match=r"its rope_freqs.weight"):
        config_of(tmp_path, rope_freqs=factors.astype(np.float32))


def test_linear_and_yarn_scaling_come_along(tmp_path: Path) -> None:
    for kind, expected in (
        (RopeScalingType.LINEAR, LinearScaling(4.0)),
        (RopeScalingType.YARN, YarnScaling(4.0, 32.0, 1.0, 32, is_rounded=True)),
    ):
        (tmp_path / kind.value).mkdir()
        config = config_of(tmp_path / kind.value, "qwen2", scaled(kind, 4.0))
        assert {each.rope.scaling for each in config.kinds} == {expected}


def test_the_scaling_of_gemma_3_is_of_the_layers_without_a_window(tmp_path: Path) -> None:
    config = config_of(tmp_path, "gemma3", scaled(RopeScalingType.LINEAR, 8.0), {"num_hidden_layers": 6})
    by_window = {kind.window: kind.rope for kind in config.kinds}
    assert (by_window[0].theta, by_window[0].scaling) == (1e6, LinearScaling(8.0))
    assert (by_window[12].theta, by_window[12].scaling) == (1e4, None)
    assert config.kind_of_layer == (0, 0, 0, 0, 0, 1)


def test_the_two_sets_of_phi_3_come_along(tmp_path: Path) -> None:
    short, long = (np.linspace(1, most, 6, dtype=np.float32) for most in (1.5, 8))

    def describe(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_orig_ctx_len(32)
        writer.add_rope_scaling_attn_factors(1.25)

    factors = {"rope_factors_short": short, "rope_factors_long": long}
    (kind,) = config_of(tmp_path, "phi3", describe, **factors).kinds
    assert (kind.window, kind.rope.turned, kind.rope.amplitude) == (12, 12, 1.25)
    assert isinstance(kind.rope.scaling, LongScaling)
    assert kind.rope.scaling.original_context == 32
    assert np.array_equal(np.array(kind.rope.scaling.long, np.float32), long)
    assert np.array_equal(np.array(kind.rope.scaling.short, np.float32), short)


def test_unknown_scaling_and_bases_are_refused(tmp_path: Path) -> None:
    def unknown(writer: GGUFWriter) -> None:
        writer.add_string("llama.rope.scaling.type", "spiral")

    with pytest.raises(UserError, match="rope scaling 'spiral', and weft imports linear and yarn"):
        config_of(tmp_path, describe=unknown)
    for theta in (-1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="freq_base"):
            config_of(tmp_path, changes=None, describe=lambda writer, base=theta: _rebase(writer, base))


def _rebase(writer: GGUFWriter, theta: float) -> None:
    del writer.kv_data[0]["llama.rope.freq_base"]
    writer.add_rope_freq_base(theta)


@pytest.mark.parametrize(
    ("name", "layers", "scalar"),
    [("gemma2", 46, 24), ("gemma2", 26, 32), ("gemma3", 62, 24), ("gemma3", 6, 32)],
)
def test_the_widest_gemmas_divide_scores_by_other_roots(
    tmp_path: Path, name: str, layers: int, scalar: int
) -> None:
    changes = {"num_hidden_layers": layers, "hidden_size": 96, "intermediate_size": 32, "vocab_size": 259}
    assert config_of(tmp_path, name, changes=changes).design.query_scalar == scalar
