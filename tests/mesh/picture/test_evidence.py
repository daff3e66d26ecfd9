"""The ledger: bounded in every direction, and the same after a restart."""

from __future__ import annotations

import pytest

from mesh.picture.evidence import Ledger
from mesh.picture.reputation import BAD_HALF_LIFE_S, GOOD_HALF_LIFE_S
from protocols import limits
from protocols.errors import LocalFault
from protocols.ids import PeerId
from protocols.observations import NO_EVIDENCE, Evidence, Facet, Outcome, Tally


def peer(number: int) -> PeerId:
    digits = f"{number:044d}".translate(str.maketrans("0123456789", "ABCDEFGHJK"))
    return PeerId(f"12D3KooW{digits}")


P = peer(1)


def test_of_a_stranger_nothing_is_known():
    ledger = Ledger()
    assert ledger.facets(P, 0) == (NO_EVIDENCE,) * len(Facet)
    assert (ledger.tally(P, 0), ledger.happenings(P), P in ledger) == (Tally(), (), False)


def test_what_was_seen_fades_between_two_looks():
    ledger = Ledger()
    ledger.observe(P, Outcome.AUDITED, "", 0, 0)
    ledger.observe(P, Outcome.FAILED, "", 0, 0)
    facets = ledger.facets(P, GOOD_HALF_LIFE_S)
    assert facets[Facet.CORRECTNESS].good == pytest.approx(0.5)
    assert facets[Facet.LIVENESS].bad == pytest.approx(2**-0.25)
    # Looking changes nothing.
    assert ledger.facets(P, 0)[Facet.LIVENESS] == Evidence(0, 1)


def test_the_newest_happenings_of_each_peer_are_kept_word_by_word():
    ledger = Ledger()
    for number in range(limits.EVIDENCE_PER_PEER_MAX + 10):
        ledger.observe(P, Outcome.SERVED, f"session {number}", number, 1000 + number)
    kept = ledger.happenings(P)
    assert len(kept) == limits.EVIDENCE_PER_PEER_MAX
    assert (kept[0].detail, kept[0].wall_s) == ("session 41", 1041)
    assert kept[-1].detail == "session 10"
    ledger.observe(P, Outcome.FAILED, "x" * 10_000, 50, 50)
    assert len(ledger.happenings(P)[0].detail) == limits.EVIDENCE_LENGTH_MAX


def test_a_full_ledger_lets_go_of_the_clean_record_that_is_oldest():
    ledger = Ledger()
    ledger.observe(peer(0), Outcome.FAILED, "", 0, 0)
    for number in range(1, limits.MEMBERS_MAX):
        ledger.observe(peer(number), Outcome.SERVED, "", 0, 0)
    ledger.observe(peer(1), Outcome.SERVED, "", 0, 0)  # seen again: now the newest
    ledger.observe(peer(5000), Outcome.SERVED, "", 0, 0)
    assert len(ledger) == limits.MEMBERS_MAX
    assert peer(2) not in ledger
    assert all(each in ledger for each in (peer(0), peer(1), peer(5000)))


def test_a_ledger_full_of_bad_records_still_takes_a_new_one():
    ledger = Ledger()
    for number in range(limits.MEMBERS_MAX + 1):
        ledger.observe(peer(number), Outcome.FAILED, "", 0, 0)
    assert len(ledger) == limits.MEMBERS_MAX
    assert peer(0) not in ledger


def test_a_restarted_node_remembers_and_the_time_it_was_down_has_passed():
    ledger = Ledger()
    for outcome in Outcome:
        ledger.observe(P, outcome, f"was {outcome.name}", 100, 5000)
    ledger.observe(peer(2), Outcome.SERVED, "", 100, 5000)
    data = ledger.encode(100, 5000)
    # Another boot: the monotonic clock begins elsewhere.
    again = Ledger.decode(data, 7, 5000 + BAD_HALF_LIFE_S)
    assert again.facets(P, 7)[Facet.CORRECTNESS].bad == pytest.approx(6)
    assert again.tally(P, 7).failed == pytest.approx(0.5)
    assert again.happenings(P) == ledger.happenings(P)
    assert list(again.newest_subjects()) == [peer(2), P]


def test_a_wall_clock_that_was_set_back_makes_nothing_younger():
    ledger = Ledger()
    ledger.observe(P, Outcome.FAILED, "", 0, 5000)
    again = Ledger.decode(ledger.encode(0, 5000), 0, 1000)
    assert again.facets(P, 0)[Facet.LIVENESS].bad == 1


def test_no_file_is_an_empty_ledger_and_a_damaged_one_a_fault():
    assert len(Ledger.decode(None, 0, 0)) == 0
    for damaged in (b"", b"\x90", b"nonsense", Ledger().encode(0, 0)[:-1]):
        with pytest.raises(LocalFault, match="damaged"):
            Ledger.decode(damaged, 0, 0)
