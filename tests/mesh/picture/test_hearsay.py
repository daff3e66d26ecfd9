"""Hearsay: nothing until proven, little after, and one voice per family."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.picture.evidence import Ledger
from mesh.picture.hearsay import MASS_MAX, TRUST_S, Hearsay, Trust
from mesh.picture.reputation import BAD_HALF_LIFE_S, lower_bound
from protocols import limits
from protocols.observations import BAD_MAX, NO_EVIDENCE, Evidence, Facet
from tests.mesh.picture.words import BAD, GOOD, OWN, observed, peer, told

FRIEND, OTHER, LIAR, SUBJECT = peer(1), peer(2), peer(3), peer(9)
SEEN_GOOD, SEEN_BAD = peer(20), peer(21)
TRUTH = {SEEN_GOOD: GOOD, SEEN_BAD: BAD}
LIES = {SEEN_GOOD: BAD, SEEN_BAD: GOOD}


def known() -> Ledger:
    """This node has seen one good peer and one bad, often enough to judge what others say of them."""
    return observed({SEEN_GOOD: 10}, {SEEN_BAD: 20})


@pytest.mark.parametrize(
    ("agreed", "contradicted", "weight"),
    [(0, 0, 0), (1, 0, 1 / 3), (2, 0, 0.5), (8, 0, 0.8), (1, 1, 0), (0, 5, 0), (3, 1, 1 / 3)],
)
def test_trust_is_twice_the_expected_share_of_agreement_less_one(agreed, contradicted, weight):
    assert Trust(agreed, contradicted).weight == pytest.approx(weight)


def test_a_strangers_word_counts_for_nothing():
    ledger, hearsay = known(), Hearsay(OWN)
    for number in range(100, 140):
        told(hearsay, ledger, peer(number), {SUBJECT: BAD})
    assert hearsay.combined(SUBJECT, ledger, 0) == ledger.facets(SUBJECT, 0)
    assert all(each.counted == 0 < each.claimed for each in hearsay.weighed(SUBJECT, ledger, 0))


def test_who_agreed_with_what_this_node_saw_is_heard():
    ledger, hearsay = known(), Hearsay(OWN)
    told(hearsay, ledger, FRIEND, TRUTH | {SUBJECT: BAD})
    assert hearsay.trust(FRIEND, ledger, 0) == Trust(agreed=2)
    # Half trusted, and of no more than ten observations.
    assert hearsay.combined(SUBJECT, ledger, 0)[Facet.LIVENESS] == Evidence(0, 5)
    (weighed,) = hearsay.weighed(SUBJECT, ledger, 0)
    assert (weighed.reporter, weighed.counted) == (FRIEND, pytest.approx(4 * 5))


def test_who_contradicts_what_this_node_saw_is_not():
    ledger, hearsay = known(), Hearsay(OWN)
    told(hearsay, ledger, LIAR, LIES | {SUBJECT: BAD})
    told(hearsay, ledger, OTHER, {SEEN_GOOD: GOOD, SEEN_BAD: GOOD, SUBJECT: BAD})
    assert hearsay.trust(LIAR, ledger, 0) == Trust(contradicted=2)
    assert hearsay.trust(OTHER, ledger, 0) == Trust(1, 1)
    assert hearsay.combined(SUBJECT, ledger, 0)[Facet.LIVENESS] == NO_EVIDENCE


@pytest.mark.parametrize(
    ("own", "said"),
    [(2, GOOD), (10, Evidence(4, 0)), (10, NO_EVIDENCE)],  # too little was seen here, or there
)
def test_too_little_evidence_neither_agrees_nor_contradicts(own, said):
    ledger, hearsay = observed({SEEN_GOOD: own}, {}), Hearsay(OWN)
    told(hearsay, ledger, FRIEND, {SEEN_GOOD: said})
    assert hearsay.trust(FRIEND, ledger, 0) == Trust()


@pytest.mark.parametrize(
    ("good", "bad", "agrees"), [(10, 0, True), (8, 2, True), (6, 4, False), (0, 10, False)]
)
def test_a_quarter_is_too_far_apart(good, bad, agrees):
    ledger, hearsay = observed({SEEN_GOOD: 10}, {}), Hearsay(OWN)  # a mean of 11/13
    told(hearsay, ledger, FRIEND, {SEEN_GOOD: Evidence(good, bad)})
    assert hearsay.trust(FRIEND, ledger, 0) == (Trust(agreed=1) if agrees else Trust(contradicted=1))


def test_a_word_about_oneself_or_about_this_node_is_not_heard():
    ledger, hearsay = known(), Hearsay(OWN)
    told(hearsay, ledger, FRIEND, {FRIEND: GOOD, OWN: BAD})
    told(hearsay, ledger, OWN, {SUBJECT: BAD})
    for subject in (FRIEND, OWN, SUBJECT):
        assert hearsay.weighed(subject, ledger, 0) == ()


def test_a_family_speaks_with_one_voice():
    sponsors = {peer(30): peer(1000)} | {peer(number): peer(30) for number in range(31, 41)}
    ledger, family = known(), Hearsay(OWN, sponsors.get)
    alone = Hearsay(OWN)
    for number in range(30, 41):
        told(family, ledger, peer(number), TRUTH | {SUBJECT: Evidence(0, 4)})
    told(alone, ledger, peer(30), TRUTH | {SUBJECT: Evidence(0, 4)})
    expected = alone.combined(SUBJECT, ledger, 0)[Facet.LIVENESS]
    found = family.combined(SUBJECT, ledger, 0)[Facet.LIVENESS]
    assert (found.good, found.bad) == (pytest.approx(expected.good), pytest.approx(expected.bad))
    assert {each.group for each in family.weighed(SUBJECT, ledger, 0)} == {peer(30)}
    strangers_to_each_other = Hearsay(OWN)
    for number in range(30, 41):
        told(strangers_to_each_other, ledger, peer(number), TRUTH | {SUBJECT: Evidence(0, 4)})
    assert strangers_to_each_other.combined(SUBJECT, ledger, 0)[Facet.LIVENESS].bad > 2 * found.bad


def test_members_that_this_node_sponsored_are_each_their_own():
    sponsors = {peer(30): OWN, peer(31): OWN, OWN: peer(1000)}
    ledger, hearsay = known(), Hearsay(OWN, sponsors.get)
    for number in (30, 31):
        told(hearsay, ledger, peer(number), TRUTH | {SUBJECT: BAD})
    assert {each.group for each in hearsay.weighed(SUBJECT, ledger, 0)} == {peer(30), peer(31)}


def test_sponsors_in_a_circle_end():
    ledger, hearsay = known(), Hearsay(OWN, {peer(30): peer(31), peer(31): peer(30)}.get)
    told(hearsay, ledger, peer(30), TRUTH | {SUBJECT: BAD})
    assert hearsay.combined(SUBJECT, ledger, 0)[Facet.LIVENESS].bad == 5


@pytest.mark.parametrize(("own_good", "mass"), [(0, 10), (10, 5), (30, 2.5)])
def test_the_more_this_node_saw_the_less_all_others_together_count(own_good, mass):
    ledger, hearsay = observed({SEEN_GOOD: 10, SUBJECT: own_good}, {SEEN_BAD: 20}), Hearsay(OWN)
    for number in range(30, 60):
        told(hearsay, ledger, peer(number), TRUTH | {SUBJECT: Evidence(0, BAD_MAX)})
    own, found = (
        each[Facet.LIVENESS] for each in (ledger.facets(SUBJECT, 0), hearsay.combined(SUBJECT, ledger, 0))
    )
    assert found.bad - own.bad == pytest.approx(mass)
    assert sum(each.counted for each in hearsay.weighed(SUBJECT, ledger, 0)) == pytest.approx(
        4 * mass, rel=0.6
    )


words = st.dictionaries(
    st.sampled_from([SEEN_GOOD, SEEN_BAD, SUBJECT, FRIEND]),
    st.builds(Evidence, st.floats(0, 60), st.floats(0, 1000)),
)


@given(st.lists(words, max_size=12), st.integers(0, 30), st.integers(0, 30), st.booleans())
def test_whatever_is_said_moves_a_bound_by_no_more_than_its_cap(said, good, bad, has_sponsor):
    ledger = observed({SEEN_GOOD: 10, SUBJECT: good}, {SEEN_BAD: 20, SUBJECT: bad})
    hearsay = Hearsay(OWN, lambda each: peer(50) if has_sponsor and each != peer(50) else None)
    for number, each in enumerate(said):
        told(hearsay, ledger, peer(50 + number), each)
    for own, found in zip(ledger.facets(SUBJECT, 0), hearsay.combined(SUBJECT, ledger, 0), strict=True):
        mass = MASS_MAX / (1 + own.mass / 10) + 1e-9
        assert found.mass - own.mass <= mass
        lowest, highest = Evidence(own.good, own.bad + mass), Evidence(own.good + mass, own.bad)
        assert lower_bound(lowest) <= lower_bound(found) <= lower_bound(highest)


@given(st.lists(words, max_size=8), st.randoms(use_true_random=False))
def test_who_speaks_first_makes_no_difference(said, random):
    ledger = known()
    both = []
    order = list(enumerate(said))
    for _ in range(2):
        hearsay = Hearsay(OWN)
        for number, each in order:
            told(hearsay, ledger, peer(50 + number), each)
        both.append([hearsay.combined(subject, ledger, 0) for subject in (SUBJECT, SEEN_GOOD)])
        random.shuffle(order)
    assert both[0] == both[1]


def test_a_report_fades_from_when_it_was_heard_and_is_replaced_by_the_next():
    ledger, hearsay = known(), Hearsay(OWN)
    told(hearsay, ledger, FRIEND, TRUTH | {SUBJECT: Evidence(0, 8)})
    assert hearsay.combined(SUBJECT, ledger, 0)[Facet.SPEED].bad == 4
    (weighed,) = hearsay.weighed(SUBJECT, ledger, 40_000)
    assert weighed.claimed == pytest.approx(4 * 8 * 2 ** (-40_000 / BAD_HALF_LIFE_S))
    told(hearsay, ledger, FRIEND, {SUBJECT: Evidence(8, 0)}, 1)
    assert hearsay.combined(SUBJECT, ledger, 1)[Facet.SPEED].bad == 0


def test_a_report_that_is_not_repeated_in_time_counts_no_more():
    ledger, hearsay = known(), Hearsay(OWN)
    told(hearsay, ledger, FRIEND, TRUTH | {SUBJECT: BAD})
    assert hearsay.combined(SUBJECT, ledger, limits.OBSERVATIONS_TTL_S)[Facet.LIVENESS].bad > 4
    later_s = limits.OBSERVATIONS_TTL_S + 1
    assert hearsay.combined(SUBJECT, ledger, later_s) == (NO_EVIDENCE,) * len(Facet)
    assert hearsay.weighed(SUBJECT, ledger, later_s) == ()
    assert hearsay.trust(FRIEND, ledger, later_s + TRUST_S) == Trust()


def test_what_is_taken_back_counts_no_more():
    ledger, hearsay = known(), Hearsay(OWN)
    told(hearsay, ledger, FRIEND, TRUTH | {SUBJECT: BAD})
    hearsay.forget(FRIEND, SUBJECT)
    hearsay.forget(FRIEND, SUBJECT)
    assert hearsay.combined(SUBJECT, ledger, 0) == (NO_EVIDENCE,) * len(Facet)


def test_trust_is_worked_out_again_after_a_moment():
    ledger, hearsay = known(), Hearsay(OWN)
    told(hearsay, ledger, FRIEND, TRUTH)
    assert hearsay.trust(FRIEND, ledger, 0).agreed == 2
    told(hearsay, ledger, FRIEND, LIES, 1)
    assert hearsay.trust(FRIEND, ledger, TRUST_S).contradicted == 2


def test_sybils_in_any_number_do_not_drive_out_who_has_proved_itself():
    ledger, hearsay = known(), Hearsay(OWN)
    told(hearsay, ledger, FRIEND, TRUTH | {SUBJECT: BAD})
    for number in range(100, 100 + 3 * limits.REPORTERS_PER_PEER_MAX):
        told(hearsay, ledger, peer(number), {SUBJECT: GOOD})
    reports = hearsay.weighed(SUBJECT, ledger, 0)
    assert len(reports) == limits.REPORTERS_PER_PEER_MAX
    assert reports[0].reporter == FRIEND
    assert hearsay.combined(SUBJECT, ledger, 0)[Facet.LIVENESS] == Evidence(0, 5)


def test_reports_on_invented_subjects_fill_a_bounded_table_and_make_room_for_members():
    ledger = known()
    for members, kept in (([SUBJECT], 1), ([], 1), (range(100, 2000), 0)):
        hearsay = Hearsay(
            OWN, is_member={peer(each) if isinstance(each, int) else each for each in members}.__contains__
        )
        for number in range(100, 100 + limits.MEMBERS_MAX):
            told(hearsay, ledger, LIAR, {peer(number): BAD})
        told(hearsay, ledger, LIAR, {SUBJECT: BAD})
        assert len(hearsay.weighed(SUBJECT, ledger, 0)) == kept
        assert (
            sum(bool(hearsay.weighed(peer(number), ledger, 0)) for number in range(100, 3000))
            == limits.MEMBERS_MAX - kept
        )
        hearsay.forget(LIAR, peer(101))
        told(hearsay, ledger, LIAR, {SUBJECT: BAD})
        assert len(hearsay.weighed(SUBJECT, ledger, 0)) == 1
