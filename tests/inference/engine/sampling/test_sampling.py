"""Drawing tokens: filters, ties, and draws that depend on seed and position alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from inference.engine.sampling.adjusting import adjusted
from inference.engine.sampling.noise import make_noise
from inference.engine.sampling.sampling import Draw, Drawn, draw_all
from inference.engine.sampling.tally import Tally
from protocols.errors import Malformed
from protocols.logprobs import decode_logprobs
from protocols.session import LogitBias, Sampling

GREEDY = Sampling()
PINNED = [30, 746, 159, 826, 473, 694]
PINNED_NOISE = [
    0.04415266926602593,
    0.05374827945997153,
    0.9495225464820941,
    1.288559984204789,
    0.2098058414268741,
]


def logits(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def draw(values: NDArray[np.float32], sampling: Sampling, position: int) -> int:
    """One token. Raises what is wrong with the row."""
    (found,) = draw_all(values[None], [Draw(sampling, position)])
    if isinstance(found, Malformed):
        raise found
    return found.token


def drawn(values: NDArray[np.float32], sampling: Sampling, count: int = 400) -> list[int]:
    rows = np.repeat(values[None], count, axis=0)
    found = draw_all(rows, [Draw(sampling, position) for position in range(count)])
    return [each.token for each in found if isinstance(each, Drawn)]


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
    assert found == PINNED
    noise = make_noise([(7, 100)], 1000)
    ids = np.array([0, 1, 255, 256, 999])
    assert noise.of(np.zeros(5, dtype=np.int64), ids) == pytest.approx(PINNED_NOISE, rel=1e-14)


def test_noise_is_exponential_and_each_token_has_its_own() -> None:
    draws = [(seed, position) for seed in range(20) for position in range(20)]
    noise = make_noise(draws, 1000)
    ids = np.arange(1000)
    found = np.stack([noise.of(np.full(1000, row), ids) for row in range(len(draws))])
    assert found.mean() == pytest.approx(1, abs=0.01)
    assert found.var() == pytest.approx(1, abs=0.03)
    assert np.abs(found.mean(axis=0) - 1).max() < 0.25  # no token is favoured
    assert np.quantile(found, [0.1, 0.5, 0.9]) == pytest.approx(-np.log([0.9, 0.5, 0.1]), rel=0.02)
    assert len(np.unique(found)) == found.size


def plainly(row: NDArray[np.float32], sampling: Sampling, position: int) -> int:
    """As `draw`, with a sort of everything and noise for all that is left."""
    scaled = (row.astype(np.float64) - row.max()) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")[: sampling.top_k or len(row)]
    if sampling.top_p < 1:
        weights = np.exp(scaled[order])
        order = order[: np.searchsorted(np.cumsum(weights), sampling.top_p * weights.sum()) + 1]
    if sampling.min_p:
        order = order[scaled[order] >= np.log(sampling.min_p)]
    order = np.sort(order)
    noise = make_noise([(sampling.seed, position)], len(row))
    return int(order[(scaled[order] - np.log(noise.of(np.zeros_like(order), order))).argmax()])


@settings(max_examples=300, deadline=None)
@given(
    size=st.sampled_from([1, 2, 97, 255, 256, 257, 1000, 3001]),
    spread=st.sampled_from([0, 0.5, 3, 20]),
    is_rounded=st.booleans(),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.01, 0.5, 1, 3, 100]),
        top_k=st.sampled_from([0, 1, 3, 40, 200, 5000]),
        top_p=st.sampled_from([1, 0.9, 0.3]),
        seed=st.integers(0, 2**62),
        min_p=st.sampled_from([0, 0.05, 0.5]),
    ),
    position=st.integers(0, 5000),
)
def test_looking_only_at_what_can_win_draws_what_looking_at_everything_does(
    size: int, spread: float, sampling: Sampling, position: int, *, is_rounded: bool
) -> None:
    generator = np.random.default_rng(position)
    row = (generator.standard_normal(size) * spread + 50).astype(np.float32)
    row = np.round(row) if is_rounded else row
    others = [Draw(Sampling(), 1), Draw(Sampling(temperature=2.0), 9)]
    drawn = draw_all(np.stack([row[::-1], row, row]), [others[0], Draw(sampling, position), others[1]])
    assert isinstance(drawn[1], Drawn)
    assert drawn[1].token == plainly(row, sampling, position)


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
        (Sampling(temperature=1.0, min_p=0.3), {0, 1, 3}),
        (Sampling(temperature=1.0, min_p=1.0), {1}),
        (Sampling(temperature=2.0, min_p=0.7), {1, 3}),
        (Sampling(temperature=1.0, top_k=3, min_p=0.5), {1, 3}),
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


# What changes logits -------------------------------------------------------------------------------------------------


def tally(prompt: list[int], answer: list[int]) -> Tally:
    made = Tally(len(prompt))
    made.write(0, [*prompt, *answer])
    return made


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    values = np.linspace(-3, 3, 50, dtype=np.float32)
    prompt, answer = [1, 2, 48, 48], [49, 3, 49]
    found = adjusted(values, Sampling(repetition_penalty=1.7), tally(prompt, answer))
    ids, scores = torch.tensor([prompt + answer]), torch.from_numpy(values)[None].clone()
    expected = RepetitionPenaltyLogitsProcessor(1.7)(ids, scores)[0]
    assert found.tolist() == expected.tolist()


def test_frequency_and_presence_penalties_count_the_answer_alone() -> None:
    sampling = Sampling(frequency_penalty=0.5, presence_penalty=0.25)
    found = adjusted(np.zeros(6, dtype=np.float32), sampling, tally([0, 1, 1], [1, 2, 2, 2]))
    assert found.tolist() == [0, -0.75, -1.75, 0, 0, 0]


def test_penalties_apply_in_their_order_and_leave_the_row_itself_alone() -> None:
    sampling = Sampling(repetition_penalty=2.0, presence_penalty=1.0, logit_bias=(LogitBias(1, 4.0),))
    values = logits(1.0, 2.0)
    assert adjusted(values, sampling, tally([0], [1])).tolist() == [0.5, 2.0]
    assert values.tolist() == [1.0, 2.0]


def test_a_penalty_of_huge_logits_leaves_them_finite() -> None:
    values = logits(-3e38, 3e38)
    found = adjusted(values, Sampling(repetition_penalty=100.0), tally([0], [1]))
    assert np.isfinite(found).all()


def test_a_bias_forbids_and_compels() -> None:
    values = logits(2.0, 1.0, 0.0)
    assert draw(values, Sampling(logit_bias=(LogitBias(0, -100.0),)), 3) == 1
    biased = Sampling(temperature=1.0, logit_bias=(LogitBias(2, 100.0),))
    assert set(drawn(values, biased, 50)) == {2}
    with pytest.raises(Malformed, match="token 3 of 3"):
        draw(values, Sampling(logit_bias=(LogitBias(3, 1.0),)), 3)


class Only:
    """A constraint that allows these."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        return np.isin(np.arange(vocabulary), self.tokens)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=1.0),
        Sampling(temperature=1.0, top_k=300),
        Sampling(temperature=1.0, top_p=0.999999, min_p=1e-9),
        Sampling(temperature=100.0, top_k=4),
    ],
)
def test_what_a_constraint_forbids_is_never_drawn(sampling: Sampling) -> None:
    values = np.arange(600, dtype=np.float32) / 100
    draws = [Draw(sampling, position, constraint=Only(3, 300)) for position in range(60)]
    found = draw_all(np.stack([values] * 60), draws)
    assert {each.token for each in found if isinstance(each, Drawn)} <= {3, 300}
    assert all(isinstance(each, Drawn) for each in found)


# Log-probabilities ---------------------------------------------------------------------------------------------------


def test_logprobs_are_those_of_the_raw_logits_however_the_token_was_drawn() -> None:
    probabilities = np.array([0.15, 0.45, 0.1, 0.3])
    values = np.log(probabilities).astype(np.float32) + 7
    sampling = Sampling(temperature=3.0, top_k=1, logprobs=3, logit_bias=(LogitBias(2, 50.0),))
    (found,) = draw_all(values[None], [Draw(sampling, 1)])
    assert isinstance(found, Drawn)
    told = decode_logprobs(found.logprobs, 3, 4)
    assert (found.token, told.chosen) == (2, pytest.approx(np.log(0.1), abs=1e-6))
    assert [token for token, _ in told.likeliest] == [1, 3, 0]
    assert [value for _, value in told.likeliest] == pytest.approx(np.log([0.45, 0.3, 0.15]), abs=1e-6)


def test_logprobs_come_only_if_they_are_asked_for_and_no_more_than_there_are_tokens() -> None:
    rows = np.zeros((3, 2), dtype=np.float32)
    draws = [Draw(Sampling(logprobs=count), 1) for count in (None, 0, 20)]
    found = [each.logprobs for each in draw_all(rows, draws) if isinstance(each, Drawn)]
    assert [len(each) for each in found] == [0, 4, 20]
    assert [token for token, _ in decode_logprobs(found[2], 20, 2).likeliest] == [0, 1]
