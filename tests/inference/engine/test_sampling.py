"""Drawing tokens: filters, ties, and draws that depend on seed and position alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.engine.sampling import draw
from protocols.errors import Malformed
from protocols.session import Sampling

GREEDY = Sampling()


def logits(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def drawn(values: NDArray[np.float32], sampling: Sampling, count: int = 400) -> list[int]:
    return [draw(values, sampling, position) for position in range(count)]


@pytest.mark.parametrize(
    ("values", "token"),
    [((0.0, 2.0, 1.0), 1), ((3.0, 3.0, 3.0), 0), ((-1.0, 5.0, 5.0), 1), ((-3.0,), 0)],
)
def test_greedy_takes_the_highest_and_of_equals_the_lowest_id(values: tuple[float, ...], token: int) -> None:
    assert draw(logits(*values), GREEDY, 7) == token


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40))
def test_a_draw_is_repeated_from_seed_and_position(seed: int, position: int) -> None:
    values = np.linspace(-1, 1, 50, dtype=np.float32)
    sampling = Sampling(temperature=1.0, seed=seed)
    assert draw(values, sampling, position) == draw(values, sampling, position)


def test_draws_are_pinned_because_nodes_of_different_releases_must_agree() -> None:
    values = np.zeros(1000, dtype=np.float32)
    found = [
        draw(values, Sampling(temperature=1.0, seed=seed), position)
        for seed in (0, 1)
        for position in (0, 1, 2)
    ]
    assert found == [998, 338, 300, 404, 778, 349]


def test_frequencies_are_those_of_the_softmax() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    found = drawn(np.log(probabilities).astype(np.float32), Sampling(temperature=1.0, seed=5), 8000)
    assert np.bincount(found, minlength=4) / 8000 == pytest.approx(probabilities, abs=0.02)


def test_temperature_sharpens() -> None:
    values = logits(1.0, 0.0)
    cold, hot = (drawn(values, Sampling(temperature=t, seed=1)).count(0) for t in (0.2, 5.0))
    assert cold > 380 > 280 > hot > 180


def test_a_minute_temperature_is_greedy() -> None:
    assert set(drawn(logits(1.0, 9.0, 8.0), Sampling(temperature=1e-308, seed=1), 20)) == {1}


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=1.0, top_k=1), {1}),
        (Sampling(temperature=1.0, top_k=2), {1, 3}),
        (Sampling(temperature=1.0, top_k=1 << 20), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, top_p=0.4), {1}),
        (Sampling(temperature=1.0, top_p=0.6), {1, 3}),
        (Sampling(temperature=1.0, top_p=1e-9), {1}),
        (Sampling(temperature=1.0, top_k=2, top_p=0.5), {1}),
        (Sampling(temperature=1.0, top_p=1.0), {0, 1, 2, 3}),
    ],
)
def test_filters_keep_the_likeliest(sampling: Sampling, allowed: set[int]) -> None:
    values = np.log(np.array([0.15, 0.45, 0.1, 0.3])).astype(np.float32)
    assert set(drawn(values, sampling)) == allowed


def test_of_equal_logits_top_k_keeps_the_lowest_ids() -> None:
    assert set(drawn(logits(1.0, 1.0, 1.0, 1.0), Sampling(temperature=1.0, top_k=2))) == {0, 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_malformed(value: float) -> None:
    with pytest.raises(Malformed, match="not finite"):
        draw(logits(0.0, value), GREEDY, 3)
