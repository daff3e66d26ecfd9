"""The table of claims: holders replace their own, nobody else's; the down are hidden at once."""

from __future__ import annotations

import pytest

from inference.placement.claims import ClaimTable, term_of
from protocols import limits
from protocols.errors import Dishonest, Malformed, NotFound, UserError
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Claim, Claims, LayerRange, ModelNote

A, B = (PeerId(f"12D3KooW{letter * 44}") for letter in "AB")
MODEL, OTHER = ModelDigest("ab" * 32), ModelDigest("ac" * 32)


def claim(holder=A, start=0, end=4, model=MODEL, standby=False, term=1):
    return Claim(holder, model, LayerRange(start, end), standby, "bf16", "exact", "here", 1.0, term)


def test_what_a_holder_tells_replaces_what_it_told():
    table = ClaimTable()
    assert table.tell(A, Claims((claim(), claim(start=4, end=8))))
    assert table.tell(A, Claims((claim(start=4, end=8),)))
    assert not table.tell(A, Claims((claim(start=4, end=8),))), "nothing new"
    assert table.claims(MODEL) == (claim(start=4, end=8),)
    assert table.claims(OTHER) == ()


@pytest.mark.parametrize(
    ("claims", "fault"),
    [
        ((claim(B),), Dishonest),
        ((claim(start=4, end=4),), Malformed),
        ((claim(start=4, end=2),), Malformed),
        ((claim(), claim(standby=True)), Malformed),
    ],
)
def test_claims_that_break_the_rules_are_refused_whole_and_blamed(claims, fault):
    table = ClaimTable()
    with pytest.raises(fault) as raised:
        table.tell(A, Claims((claim(start=4, end=8), *claims)))
    assert raised.value.peer == A
    assert table.claims() == ()


def test_a_peer_that_went_down_counts_again_once_it_has_told_anew():
    table = ClaimTable()
    told = Claims((claim(),), (ModelNote(MODEL, "m", 8),))
    table.tell(A, told)
    table.down(A)
    assert (table.claims(), table.models()) == ((), ())
    assert table.tell(A, told), "the same words, but they count again"
    assert table.claims() == (claim(),)


def test_claims_come_in_one_order_whoever_told_first():
    one, other = ClaimTable(), ClaimTable()
    for table, holders in ((one, (A, B)), (other, (B, A))):
        for holder in holders:
            table.tell(holder, Claims((claim(holder, 4, 8), claim(holder, 0, 4))))
    assert one.claims() == other.claims()
    assert [(each.range.start, each.holder) for each in one.claims()] == [(0, A), (0, B), (4, A), (4, B)]


def test_a_model_is_found_by_name_or_unique_beginning_of_its_digest():
    table = ClaimTable()
    notes = (ModelNote(MODEL, "llama", 8), ModelNote(OTHER, "qwen", 4))
    table.tell(A, Claims((), notes))
    table.tell(B, Claims((), (ModelNote(MODEL, "another name", 8),)))
    assert table.models() == notes
    assert table.lookup("llama") == table.lookup("ABAB") == notes[0]
    assert table.note_of(OTHER) == notes[1]
    for unknown in ("gemma", "ab", "abcd"):
        with pytest.raises(NotFound, match="weft models"):
            table.lookup(unknown)


def test_a_name_of_two_models_asks_for_the_digest():
    table = ClaimTable()
    table.tell(A, Claims((), (ModelNote(MODEL, "llama", 8), ModelNote(OTHER, "llama", 8))))
    with pytest.raises(UserError, match=r"several models.*abababababab, acacacacacac"):
        table.lookup("llama")


def test_the_table_is_bounded_and_forgets_the_down_first(monkeypatch):
    monkeypatch.setattr(limits, "MEMBERS_MAX", 2)
    table = ClaimTable()
    third = PeerId(f"12D3KooW{'C' * 44}")
    table.tell(A, Claims(()))
    table.tell(B, Claims((claim(B),)))
    with pytest.raises(Malformed):
        table.tell(third, Claims(()))
    table.down(A)
    assert table.tell(third, Claims((claim(third),)))
    assert [each.holder for each in table.claims()] == [B, third]


def test_the_term_of_claims_is_the_highest():
    assert term_of([]) == 0
    assert term_of([claim(term=3), claim(term=7), claim(term=1)]) == 7


def test_who_serves_layers_of_a_model_is_told_primaries_first():
    table = ClaimTable()
    third = PeerId(f"12D3KooW{'C' * 44}")
    table.tell(A, Claims((claim(A, 0, 4, standby=True), claim(A, 4, 8), claim(A, 0, 4, OTHER))))
    table.tell(B, Claims((claim(B, 0, 8),)))
    table.tell(third, Claims((claim(third, 0, 4),)))
    assert [each.holder for each in table.serving(MODEL, LayerRange(1, 4))] == [third, B, A]
    assert [each.holder for each in table.serving(MODEL, LayerRange(3, 5))] == [B]
    assert table.serving(OTHER, LayerRange(0, 5)) == ()
    table.down(B)
    assert table.serving(MODEL, LayerRange(3, 5)) == ()
