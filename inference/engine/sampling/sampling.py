"""Drawing tokens from logits, counter-based: keyed by the session's seed and the token's position, and nothing else.

The token with the least `noise / weight` is taken (inference/engine/sampling/noise.py: that is a draw from the softmax). A retry, a
standby or another batch therefore draws the same token, and logits that differ in their last bits nearly always do so too.

What changes logits comes first (inference/engine/sampling/adjusting.py); then temperature, and the filters in the order that
transformers has: `top_k`, `top_p` over what is left, `min_p`. Among equal logits the lowest token id comes first, in greedy
choice as well. All filters keep the likeliest, so that they are one bound on the logits (`_Floor`), and only the tokens above
it whose noise could win are looked at. The weights are not normalised anywhere, and nothing is sorted but the head of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inference.engine.sampling.adjusting import Constraint, adjusted
from inference.engine.sampling.noise import LANES, Ids, Reals, make_noise
from inference.engine.sampling.tally import Tally
from protocols.errors import Malformed
from protocols.logprobs import Logprobs, encode_logprobs
from protocols.session import Sampling

Logits = NDArray[np.float32]

HEAD: Final = LANES // 2  # of the likeliest tokens are found without a pass over all but one of comparing


@dataclass(frozen=True, slots=True)
class Draw:
    """What is to be drawn from a row. `tally` where tokens are penalised, `constraint` where a grammar forbids some."""

    sampling: Sampling
    position: int
    tally: Tally | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """`logprobs` as protocols/logprobs.py encodes them; empty if they were not asked for."""

    token: int
    logprobs: bytes = b""


@dataclass(frozen=True, slots=True)
class _Floor:
    """Tokens below `logit` are out, and of those at it the ones with an id past `last`."""

    logit: float
    last: int

    def allows(self, tokens: Ids, logits: Reals) -> NDArray[np.bool_]:
        allowed: NDArray[np.bool_] = (logits > self.logit) | ((logits == self.logit) & (tokens <= self.last))
        return allowed


def draw_all(rows: Logits, draws: Sequence[Draw]) -> list[Drawn | Malformed]:
    """One token for each row of [rows, vocabulary] logits, or what is wrong with the row."""
    likeliest = rows.argmax(axis=1)
    # A NaN or an infinite logit is the highest or the lowest of its row.
    is_finite = np.isfinite(rows[np.arange(len(rows)), likeliest]) & np.isfinite(rows.min(axis=1))
    found: dict[int, Drawn | Malformed] = {}
    races: dict[int, _Race] = {}
    for at, asked in enumerate(draws):
        try:
            races[at] = _race(rows[at], int(likeliest[at]), asked, is_finite=bool(is_finite[at]))
        except Malformed as error:
            found[at] = error
    by_chance = [at for at, race in races.items() if race.draw.sampling.temperature > 0]
    winners = _winners([races[at] for at in by_chance]) if by_chance else []
    tokens = {at: race.top for at, race in races.items()} | dict(zip(by_chance, winners, strict=True))
    found |= {at: _drawn(rows[at], token, draws[at].sampling) for at, token in tokens.items()}
    return [found[at] for at in range(len(rows))]


def _drawn(raw: Logits, token: int, sampling: Sampling) -> Drawn:
    if sampling.logprobs is None:
        return Drawn(token)
    return Drawn(token, encode_logprobs(_logprobs(raw, token, sampling.logprobs)))


# Chance ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Race:
    """A row of logits from which a token is to be drawn: its likeliest, and what the filters leave."""

    row: Logits
    top: int
    floor: _Floor
    draw: Draw


def _race(raw: Logits, likeliest: int, asked: Draw, *, is_finite: bool) -> _Race:
    """Raises `Malformed` if nothing can be drawn."""
    if not is_finite:
        raise Malformed(f"the rows before position {asked.position} lead to logits that are not finite")
    row = adjusted(raw, asked.sampling, asked.tally, asked.constraint)
    top = likeliest if row is raw else int(row.argmax())
    return _Race(row, top, _floor(row, float(row[top]), asked.sampling), asked)


def _winners(races: Sequence[_Race]) -> list[int]:
    """The token with the highest score of each row, which is `logit / temperature - log(variate)`."""
    noise = make_noise([(race.draw.sampling.seed, race.draw.position) for race in races], len(races[0].row))
    temperatures = np.array([race.draw.sampling.temperature for race in races])
    tops = np.array([race.top for race in races])
    highest = np.array([race.row[race.top] for race in races], dtype=np.float64)
    all_rows = np.arange(len(races))
    with np.errstate(over="ignore"):  # a minute temperature may leave the highest logit alone
        # Some scores that are known; a lane whose own bound is below the best of them can be left out.
        bests = np.stack([_least_logits(race, least) for race, least in zip(races, noise.least, strict=True)])
        bests = (bests - highest[:, None]) / temperatures[:, None] - np.log(noise.minima)
        best = np.maximum(bests.max(axis=1), -np.log(noise.of(all_rows, tops)))
        slack = 1e-9 * (100 * temperatures + np.abs(highest))  # for what all of this rounds
        bounds = (best[:, None] + np.log(noise.minima)) * temperatures[:, None] + (highest - slack)[:, None]
        left = [_left(race, lanes) for race, lanes in zip(races, bounds, strict=True)]
        at, tokens = np.repeat(all_rows, [len(each) for each in left]), np.concatenate(left)
        logits = np.concatenate([race.row[each] for race, each in zip(races, left, strict=True)])
        scores = (logits.astype(np.float64) - highest[at]) / temperatures[at] - np.log(noise.of(at, tokens))
    ends = np.cumsum([len(each) for each in left])[:-1]
    return [int(each[part.argmax()]) for each, part in zip(left, np.split(scores, ends), strict=True)]


def _least_logits(race: _Race, least: Ids) -> Reals:
    """[LANES]: of the token with the least variate of each lane, if it is in the race."""
    tokens = np.minimum(least, len(race.row) - 1)
    logits = race.row[tokens].astype(np.float64)
    logits[~race.floor.allows(tokens, logits) | (least >= len(race.row))] = -np.inf
    return logits


def _left(race: _Race, lanes: Reals) -> Ids:
    """The tokens that may still win, by id: at or above the bound of their lane, and not filtered out."""
    row = race.row
    bounds = np.maximum(lanes, race.floor.logit).astype(np.float32)
    bounds = np.nextafter(bounds, np.float32(-np.inf))  # never above what it was rounded from
    whole = len(row) // LANES * LANES
    above = np.empty(len(row), dtype=np.bool_)
    np.greater_equal(row[:whole].reshape(-1, LANES), bounds, out=above[:whole].reshape(-1, LANES))
    np.greater_equal(row[whole:], bounds[: len(row) - whole], out=above[whole:])
    tokens = np.flatnonzero(above)
    return tokens[race.floor.allows(tokens, row[tokens].astype(np.float64))]


# Filters --------------------------------------------------------------------------------------------------------------


def _floor(row: Logits, highest: float, sampling: Sampling) -> _Floor:
    floor = _Floor(-np.inf, -1)  # what a grammar forbids is at minus infinity, and never drawn
    if sampling.temperature == 0:
        return floor  # the likeliest stays whatever is left out
    if 0 < sampling.top_k < len(row) or sampling.top_p < 1:
        floor = _floor_of_ranks(row, highest, sampling)
    if sampling.min_p > 0:
        least = highest + sampling.temperature * float(np.log(sampling.min_p))
        floor = _Floor(least, len(row)) if least > floor.logit else floor
    return floor


def _floor_of_ranks(row: Logits, highest: float, sampling: Sampling) -> _Floor:
    """Of `top_k` and `top_p`."""
    count, temperature = min(sampling.top_k or len(row), len(row)), sampling.temperature
    head = _descending(row, count if count < len(row) else HEAD)
    if sampling.top_p < 1:
        weights = _weights(head[:count], highest, temperature)
        total = (weights if count < len(row) else _weights(row, highest, temperature)).sum()
        if weights.sum() < sampling.top_p * total:  # the head is not enough of the whole
            head = _descending(row, len(row))
            weights = _weights(head, highest, temperature)
        count = min(int(np.searchsorted(np.cumsum(weights), sampling.top_p * total)) + 1, len(weights))
    logit = head[count - 1]
    higher, level = np.searchsorted(-head, -logit), np.searchsorted(-head, -logit, side="right")
    if level == count:
        return _Floor(float(logit), len(row))
    return _Floor(float(logit), int(np.flatnonzero(row == logit)[count - higher - 1]))


def _weights(logits: Logits, highest: float, temperature: float) -> Reals:
    with np.errstate(over="ignore"):
        weights: Reals = np.exp((logits.astype(np.float64) - highest) / temperature)
    return weights


def _descending(row: Logits, count: int) -> Logits:
    """The `count` highest logits, and those equal to the last of them, from the highest down."""
    if count >= len(row):
        return np.sort(row)[::-1]
    whole = len(row) // LANES * LANES
    if count <= HEAD and whole:
        # So many lanes have a token at least as high: a bound that is low enough.
        heads = row[:whole].reshape(-1, LANES).max(axis=0)
        bound = np.partition(heads, LANES - count)[LANES - count]
    else:
        bound = np.partition(row, len(row) - count)[len(row) - count]
    return np.sort(row[row >= bound])[::-1]


# Log-probabilities ----------------------------------------------------------------------------------------------------


def _logprobs(raw: Logits, token: int, count: int) -> Logprobs:
    """Of the raw logits; see protocols/logprobs.py."""
    highest = float(raw.max())
    norm = highest + float(np.log(_weights(raw, highest, 1.0).sum()))
    likeliest: tuple[tuple[int, float], ...] = ()
    if count:
        among = np.flatnonzero(raw >= _descending(raw, count)[min(count, len(raw)) - 1])
        order = among[np.argsort(-raw[among], kind="stable")][:count]
        likeliest = tuple((int(each), float(raw[each]) - norm) for each in order)
    return Logprobs(float(raw[token]) - norm, likeliest)
