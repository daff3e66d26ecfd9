"""The formulas: exact at half-lives, bounded, and moving the right way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.picture.evidence import Record
from mesh.picture.reputation import (
    BAD_HALF_LIFE_S,
    DAY_S,
    GOOD_HALF_LIFE_S,
    WEIGHTS,
    added,
    all_decayed,
    decayed_tally,
    is_distrusted,
    lower_bound,
    mean,
    overall,
    standing,
    tallied,
)
from protocols.observations import GOOD_MAX, NO_EVIDENCE, Evidence, Facet, Outcome, Tally

evidences = st.builds(Evidence, st.floats(0, GOOD_MAX), st.floats(0, 500))
facets = st.tuples(*[evidences] * len(Facet))
more = st.floats(0.01, 50)


@pytest.mark.parametrize(
    ("elapsed_s", "good", "bad"),
    [
        (0, 32, 32),
        (GOOD_HALF_LIFE_S, 16, 32 * 2**-0.25),
        (BAD_HALF_LIFE_S, 2, 16),
        (2 * BAD_HALF_LIFE_S, 0.125, 8),
        (-5, 32, 32),
    ],
)
def test_evidence_halves_with_its_half_life_good_sooner_than_bad(elapsed_s, good, bad):
    (found,) = all_decayed([Evidence(32, 32)], elapsed_s)
    assert (found.good, found.bad) == (pytest.approx(good), pytest.approx(bad))


def test_the_half_lives_are_a_week_and_four():
    assert (GOOD_HALF_LIFE_S, BAD_HALF_LIFE_S) == (7 * DAY_S, 28 * DAY_S)


@given(evidences, st.floats(0, 1e8), st.floats(0, 1e8))
def test_to_decay_twice_is_to_decay_once_for_as_long(evidence, first_s, second_s):
    (twice,) = all_decayed(all_decayed([evidence], first_s), second_s)
    (once,) = all_decayed([evidence], first_s + second_s)
    assert (twice.good, twice.bad) == (pytest.approx(once.good), pytest.approx(once.bad))


@pytest.mark.parametrize(
    ("evidence", "expected", "bound"),
    [
        (NO_EVIDENCE, 1 / 3, 1 / 3 - 0.6 * math.sqrt(2 / 9 / 4)),
        (Evidence(60, 0), 61 / 63, 61 / 63 - 0.6 * math.sqrt(61 * 2 / 63**2 / 64)),
        (Evidence(0, 12), 1 / 15, 1 / 15 - 0.6 * math.sqrt(14 / 15**2 / 16)),
    ],
)
def test_the_bound_is_the_mean_less_six_tenths_of_a_deviation(evidence, expected, bound):
    assert mean(evidence) == pytest.approx(expected)
    assert lower_bound(evidence) == pytest.approx(bound)


@given(evidences, more)
def test_good_raises_and_bad_lowers_the_bound(evidence, amount):
    assert lower_bound(Evidence(evidence.good + amount, evidence.bad)) > lower_bound(evidence)
    assert lower_bound(Evidence(evidence.good, evidence.bad + amount)) < lower_bound(evidence)


@given(facets)
def test_every_score_lies_between_nothing_and_one(found):
    for value in (overall(found), standing(found), *map(lower_bound, found), *map(mean, found)):
        assert 0 <= value <= 1


@given(facets, st.sampled_from([Facet.CORRECTNESS, Facet.LIVENESS, Facet.SPEED]), more)
def test_good_raises_and_bad_lowers_what_a_choice_is_made_by(found, facet, amount):
    def changed(evidence):
        return (*found[:facet], evidence, *found[facet + 1 :])

    better = changed(Evidence(found[facet].good + amount, found[facet].bad))
    worse = changed(Evidence(found[facet].good, found[facet].bad + amount))
    assert overall(worse) < overall(found) < overall(better)
    assert standing(worse) < standing(found)
    assert standing(better) >= standing(found) * (1 - 1e-12)


@given(st.lists(st.floats(0, GOOD_MAX), min_size=4, max_size=4))
def test_without_bad_evidence_a_stranger_and_an_old_friend_stand_alike(good):
    assert standing([Evidence(each) for each in good]) == 1


def test_cooperation_decides_nothing():
    rude = (NO_EVIDENCE, NO_EVIDENCE, NO_EVIDENCE, Evidence(0, 100))
    assert overall(rude) == overall([NO_EVIDENCE] * 4)
    assert standing(rude) == 1


@pytest.mark.parametrize(
    ("outcome", "facet", "good", "bad"),
    [
        (Outcome.WRONG, Facet.CORRECTNESS, 0, 12),
        (Outcome.FAILED, Facet.LIVENESS, 0, 1),
        (Outcome.LATE, Facet.SPEED, 0, 0.3),
        (Outcome.AUDITED, Facet.CORRECTNESS, 1, 0),
        (Outcome.SERVED, Facet.CORRECTNESS, 0.2, 0),
        (Outcome.SERVED, Facet.LIVENESS, 0.2, 0),
        (Outcome.REFUSED, Facet.COOPERATION, 0, 1),
        (Outcome.DISPUTED, Facet.LIVENESS, 0, 0.3),
    ],
)
def test_each_outcome_has_its_weight(outcome, facet, good, bad):
    record = Record(0.0)
    record.add(outcome, 0.0)
    assert record.facets[facet] == Evidence(good, bad)


def test_every_outcome_weighs_something_and_none_both_ways():
    for outcome in Outcome:
        weights = WEIGHTS[outcome].values()
        assert weights
        assert not (any(each.good for each in weights) and any(each.bad for each in weights))


def test_good_is_capped_so_that_no_credit_is_built_up_for_later():
    record = Record(0.0)
    for _ in range(1000):
        record.add(Outcome.SERVED, 0.0)
    assert record.facets[Facet.LIVENESS].good == GOOD_MAX
    assert added(Evidence(59.9, 0), Evidence(0.2, 0)).good == GOOD_MAX


@given(st.lists(st.sampled_from(Outcome), max_size=40), st.randoms(use_true_random=False))
def test_what_happens_at_one_time_counts_alike_in_any_order(outcomes, random):
    shuffled = list(outcomes)
    random.shuffle(shuffled)
    records = []
    for order in (outcomes, shuffled):
        record = Record(0.0)
        for outcome in order:
            record.add(outcome, 0.0)
        records.append(record)
    first, second = records
    assert first.tally == second.tally
    for one, other in zip(first.facets, second.facets, strict=True):
        assert (one.good, one.bad) == (pytest.approx(other.good), pytest.approx(other.bad))


def test_behaving_well_and_badly_by_turns_earns_a_bad_name():
    record, day = Record(0.0), 0
    for _ in range(4):
        for outcome in (Outcome.AUDITED, Outcome.WRONG):
            for _ in range(30):
                day += 1
                record.add(outcome, day * DAY_S / 10)
        for _ in range(30):
            day += 1
            record.add(Outcome.AUDITED, day * DAY_S / 10)
        assert lower_bound(record.facets_at(day * DAY_S / 10)[Facet.CORRECTNESS]) < 0.2
        assert is_distrusted(record.tally_at(day * DAY_S / 10))


def test_tallies_count_by_outcome_and_fade_with_their_kind():
    tally = Tally()
    for outcome in Outcome:
        tally = tallied(tally, outcome)
    assert tally == Tally(1, 1, 1, 1, 1, 1, 1)
    faded = decayed_tally(tally, BAD_HALF_LIFE_S)
    assert faded == Tally(1 / 16, 0.5, 0.5, 0.5, 0.5, 0.5, 1 / 16)


def test_one_wrong_result_is_held_against_a_peer_for_four_weeks():
    tally = tallied(Tally(), Outcome.WRONG)
    assert is_distrusted(decayed_tally(tally, BAD_HALF_LIFE_S - 60))
    assert not is_distrusted(decayed_tally(tally, BAD_HALF_LIFE_S + 60))
    assert not is_distrusted(Tally(served=100, failed=100))
