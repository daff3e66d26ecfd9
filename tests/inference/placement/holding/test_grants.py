"""The holder's promises: terms, leases, memory, the operator's word."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference.placement.holding.grants import Grant, GrantPolicy, Grants
from protocols import limits
from protocols.errors import Malformed
from protocols.ids import ModelDigest, PeerId
from protocols.placement import (
    Capacity,
    Declined,
    Granted,
    LayerRange,
    LayerShape,
    Offer,
    Release,
    StandbyKind,
)

A, B = (PeerId(f"12D3KooW{letter * 44}") for letter in "AB")
MODEL, OTHER = ModelDigest("ab" * 32), ModelDigest("cd" * 32)
MAPPED = StandbyKind.MAPPED


def lies_there(_grant: Grant) -> bool:
    return True


def an_offer(
    start=0,
    end=4,
    *,
    term=1,
    proposer=A,
    bytes_needed=40,
    model=MODEL,
    standby=False,
    dtype="f32",
    kind=StandbyKind.HOT,
):
    held = LayerRange(start, end)
    return Offer(term, proposer, model, held, standby, dtype, "fast", bytes_needed, 100.0, (proposer,), kind)


def test_memory_promised_is_not_promised_twice():
    grants = Grants()
    assert grants.offer(an_offer(), 100, 0, lies_there).reply == Granted(1)
    assert grants.offer(an_offer(4, 8), 100, 0, lies_there).reply == Granted(1)
    declined = grants.offer(an_offer(8, 12), 100, 0, lies_there).reply
    assert isinstance(declined, Declined)
    assert declined.layers_max == 2, "20 bytes are left, and 4 layers take 40"
    assert grants.available_bytes(100, 0) == 20


def test_after_the_claim_only_what_the_worker_does_not_count_stays_promised():
    grants = Grants()
    grant = grants.offer(an_offer(bytes_needed=40), 100, 0, lies_there).grant
    assert grants.claim(grant, 30, 1) == ()
    assert grants.available_bytes(70, 1) == 60, "10 bytes of KV"
    grants.unloaded()
    assert grants.available_bytes(100, 1) == 60, "to be loaded again"


def test_a_lease_that_ends_frees_the_grant_and_a_late_load_is_in_vain():
    grants = Grants()
    grant = grants.offer(an_offer(), 100, 0, lies_there).grant
    assert grants.available_bytes(100, 99.9) == 60
    assert grants.available_bytes(100, 100) == 100
    assert grants.claim(grant, 40, 100) is None


def test_a_claim_outlives_its_lease():
    grants = Grants()
    grants.claim(grants.offer(an_offer(), 100, 0, lies_there).grant, 40, 1)
    assert grants.expire(1000) == ()
    assert len(list(grants)) == 1


@pytest.mark.parametrize(
    ("first", "second", "granted"),
    [
        ((1, A), (2, A), True),
        ((2, A), (1, A), False),
        ((1, A), (1, B), True),
        ((1, B), (1, A), False),
        ((1, B), (2, A), True),
        ((1, A), (1, A), True),
    ],
)
def test_the_higher_term_wins_and_of_equal_terms_the_higher_proposer(first, second, granted):
    grants = Grants()
    grants.offer(an_offer(0, 4, term=first[0], proposer=first[1]), 100, 0, lies_there)
    reply = grants.offer(an_offer(4, 8, term=second[0], proposer=second[1]), 100, 0, lies_there).reply
    assert isinstance(reply, Granted) is granted
    if isinstance(reply, Declined):
        assert reply.term == first[0]


def test_a_higher_plan_takes_the_place_of_what_another_proposer_has_not_claimed():
    grants = Grants()
    pending = grants.offer(an_offer(0, 4), 100, 0, lies_there).grant
    claimed = grants.offer(an_offer(4, 6), 100, 0, lies_there).grant
    grants.claim(claimed, 40, 0)
    verdict = grants.offer(an_offer(0, 8, term=2, proposer=B, bytes_needed=60), 60, 1, lies_there)
    assert verdict.reply == Granted(2)
    assert verdict.superseded == (pending,)
    assert list(grants) == [claimed, verdict.grant]
    assert grants.claim(pending, 40, 2) is None


def test_a_higher_plan_that_is_declined_takes_nothing():
    grants = Grants()
    pending = grants.offer(an_offer(0, 4), 100, 0, lies_there).grant
    assert isinstance(
        grants.offer(an_offer(term=2, proposer=B, bytes_needed=101), 100, 1, lies_there).reply, Declined
    )
    assert grants.claim(pending, 40, 2) == ()


def test_the_range_that_is_held_is_granted_again_without_a_load():
    grants = Grants()
    grant = grants.offer(an_offer(), 40, 0, lies_there).grant
    assert isinstance(grants.offer(an_offer(), 40, 0, lies_there).reply, Declined), "it is being loaded"
    grants.claim(grant, 40, 0)
    verdict = grants.offer(an_offer(term=2, standby=True), 0, 1, lies_there)
    assert (verdict.reply, verdict.is_held, verdict.grant) == (Granted(2), True, grant)
    assert grant.offer.standby


def test_an_offer_of_a_range_that_is_loading_again_changes_nothing():
    grants = Grants()
    kept = grants.offer(an_offer(), 100, 0, lies_there).grant
    grants.claim(kept, 40, 0)
    adopted = grants.adopt(an_offer(4, 8, term=0), 100, 0)
    for grant in (kept, adopted):
        offer, held = grant.offer, grant.offer.range
        again = an_offer(held.start, held.end, term=2, proposer=B)
        assert isinstance(grants.offer(again, 100, 1, lambda _grant: False).reply, Declined)
        assert (grant.offer, grant.earlier) == (offer, ())
    assert (kept.is_adopted, adopted.is_adopted) == (False, True)
    assert grants.highest(MODEL) == (1, A)


def test_the_same_range_in_another_dtype_replaces_it_when_loaded():
    grants = Grants()
    old = grants.offer(an_offer(), 100, 0, lies_there).grant
    grants.claim(old, 40, 0)
    new = grants.offer(an_offer(dtype="bf16"), 100, 1, lies_there).grant
    assert grants.claim(new, 20, 2) == (old,)
    assert list(grants) == [new]


@pytest.mark.parametrize(
    ("policy", "reason", "layers_max"),
    [
        (GrantPolicy(refuses=True), "lets it hold no layers", 0),
        (GrantPolicy(layers_max=3), "allows 3 layers and it holds 0", 3),
    ],
)
def test_the_operator_has_the_last_word(policy, reason, layers_max):
    declined = Grants(policy).offer(an_offer(), 1000, 0, lies_there).reply
    assert isinstance(declined, Declined)
    assert reason in declined.reason
    assert declined.layers_max == layers_max


def test_the_survey_tells_of_the_operators_word():
    refusing = Grants(GrantPolicy(refuses=True)).capacity(MODEL, 1.5, 100, True, 0)
    assert refusing == Capacity(1.5, 0, 0, True)
    grants = Grants(GrantPolicy(layers_max=6))
    assert grants.capacity(MODEL, 1.5, 100, False, 0) == Capacity(1.5, 100, 6)
    grants.offer(an_offer(), 100, 0, lies_there)
    assert grants.capacity(OTHER, 1.5, 100, False, 0) == Capacity(1.5, 60, 2), (
        "another model has what is left"
    )
    grants.offer(an_offer(0, 2, model=OTHER, bytes_needed=10), 60, 0, lies_there)
    assert grants.capacity(ModelDigest("ef" * 32), 1.5, 60, False, 0).free_bytes == 0, "the cap is reached"


def test_the_survey_tells_what_is_held_of_that_model_beside_what_is_free():
    grants = Grants(GrantPolicy(layers_max=20))
    for offer in (an_offer(), an_offer(4, 6, standby=True, kind=MAPPED), an_offer(0, 3, model=OTHER)):
        grants.claim(grants.offer(offer, 200, 0, lies_there).grant, 0, 0)
    told = grants.capacity(MODEL, 1.0, 200, True, 1)
    assert told == Capacity(1.0, 120, 17, True, (LayerRange(0, 4),), 40, 6)


def test_the_survey_tells_what_a_row_takes_only_where_it_is_not_what_the_dtype_says():
    for dtype, row_bytes in (("bf16", 2 * 4 * 66), ("int4", 2 * 4 * 66), ("f32", 2 * 4 * 68)):
        shape = LayerShape(512, 1024, 8, 4, 64, dtype)
        assert GrantPolicy(kv="int8").kv_row_bytes(shape) == row_bytes
        assert GrantPolicy().kv_row_bytes(shape) == 0


# Mapped and adopted --------------------------------------------------------------------------------------------------


def test_a_mapped_range_needs_its_memory_only_once_it_is_promoted():
    grants = Grants()
    grant = grants.offer(an_offer(standby=True, kind=MAPPED, bytes_needed=400), 100, 0, lies_there).grant
    grants.claim(grant, 0, 0)
    assert grants.available_bytes(100, 1) == 100
    assert "400 bytes do not fit into 100" in grants.promote(grant, 100, 1).reason
    assert grants.promote(grant, 500, 1) is None
    assert grants.available_bytes(500, 1) == 100
    assert grants.claim(grant, 300, 2) == ()
    assert grants.available_bytes(200, 2) == 100, "what the worker does not count is KV"
    grants.demote(grant)
    assert grants.available_bytes(500, 3) == 500
    grants.promote(grant, 500, 3)
    grants.unloaded()
    assert grant.is_mapped, "a worker that died had it loaded, and the disk has it still"


def test_the_same_range_mapped_and_loaded_are_different_grants():
    grants = Grants(GrantPolicy(layers_max=4))
    loaded = grants.offer(an_offer(), 100, 0, lies_there).grant
    grants.claim(loaded, 40, 0)
    mapped = grants.offer(an_offer(term=2, standby=True, kind=MAPPED), 60, 1, lies_there)
    assert not mapped.is_held
    assert grants.claim(mapped.grant, 0, 2) == (loaded,)
    again = grants.offer(an_offer(term=3), 100, 3, lies_there)
    assert isinstance(again.reply, Granted)
    assert not again.is_held
    assert grants.claim(again.grant, 40, 4) == (mapped.grant,)


@pytest.mark.parametrize("offer", [{"kind": StandbyKind.COLD, "standby": True}, {"kind": StandbyKind.MAPPED}])
def test_what_nobody_can_hold_is_malformed(offer):
    with pytest.raises(Malformed):
        Grants().offer(an_offer(**offer), 100, 0, lies_there)


def test_an_adopted_range_is_of_no_plan_and_gives_way_to_any():
    grants = Grants()
    adopted = grants.adopt(an_offer(term=7, proposer=B), 100, 0)
    assert grants.available_bytes(60, 0) == 60 - 40
    assert grants.highest(MODEL) == (0, "")
    assert isinstance(grants.adopt(an_offer(4, 8, bytes_needed=90), 100, 0), Declined)
    verdict = grants.offer(an_offer(term=1), 60, 1, lies_there)
    assert (verdict.is_held, verdict.grant, adopted.is_adopted) == (True, adopted, False)


# Plans that fail -----------------------------------------------------------------------------------------------------


def test_a_plan_that_fails_gives_a_range_back_to_the_plan_that_has_it_too():
    grants = Grants()
    grant = grants.offer(an_offer(), 100, 0, lies_there).grant
    grants.claim(grant, 40, 0)
    grants.offer(an_offer(term=2, proposer=B, standby=True), 60, 1, lies_there)
    assert grants.release(Release(2, MODEL, LayerRange(0, 4), exact=True), B) == ()
    assert (grant.rank, grant.offer.standby) == ((1, A), False)
    grants.offer(an_offer(term=2, proposer=B), 60, 2, lies_there)
    assert grants.release(Release(1, MODEL, LayerRange(0, 4), exact=True), A) == (), "it is B's as well"
    assert grants.release(Release(2, MODEL, LayerRange(0, 4), exact=True), B) == (grant,), "and nobody's now"


def test_a_plan_that_fails_gives_a_range_back_in_the_form_that_the_plan_before_has_it_in():
    grants = Grants()
    loaded = grants.offer(an_offer(), 100, 0, lies_there).grant
    grants.claim(loaded, 40, 0)
    mapped = grants.offer(an_offer(term=2, proposer=B, standby=True, kind=MAPPED), 60, 1, lies_there).grant
    grants.claim(mapped, 0, 2)
    assert grants.release(Release(2, MODEL, LayerRange(0, 4), exact=True), B) == ()
    assert (mapped.offer, mapped.is_mapped) == (loaded.offer, False)


def test_a_plan_that_fails_takes_no_rivals_grant_with_it():
    grants = Grants()
    rivals = grants.offer(an_offer(proposer=B), 100, 0, lies_there).grant
    assert grants.release(Release(2, MODEL, LayerRange(0, 4), exact=True), A) == ()
    assert list(grants) == [rivals]


def test_a_declined_proposer_is_told_of_a_rival_only_while_that_one_is_at_it():
    grants = Grants()
    pending = grants.offer(an_offer(term=2, proposer=B), 100, 0, lies_there).grant
    assert grants.offer(an_offer(4, 6), 60, 0, lies_there).reply.rival == B
    grants.claim(pending, 40, 1)
    assert grants.offer(an_offer(4, 6), 60, 1, lies_there).reply.rival is None


def test_release_is_idempotent_and_only_for_this_plan_or_a_higher():
    grants = Grants()
    grant = grants.offer(an_offer(term=3, proposer=B), 100, 0, lies_there).grant
    held = LayerRange(0, 4)
    assert grants.release(Release(2, MODEL, held), B) == ()
    assert grants.release(Release(3, MODEL, held), A) == (), "a lower proposer of the same term"
    assert grants.release(Release(3, MODEL, LayerRange(0, 3)), B) == ()
    assert grants.release(Release(3, MODEL, held), B) == (grant,)
    assert grants.release(Release(3, MODEL, held), B) == ()
    assert grants.available_bytes(100, 0) == 100


def test_what_was_restored_counts_and_keeps_its_term():
    grants = Grants()
    grants.restore(an_offer(term=5, proposer=B))
    assert grants.available_bytes(100, 0) == 60
    assert isinstance(grants.offer(an_offer(4, 8, term=4), 100, 0, lies_there).reply, Declined)


def test_an_empty_range_is_malformed():
    with pytest.raises(Malformed):
        Grants().offer(an_offer(4, 4), 100, 0, lies_there)


def test_terms_of_models_that_are_not_held_are_forgotten_past_the_bound(monkeypatch):
    monkeypatch.setattr(limits, "MODELS_MAX", 2)
    grants = Grants()
    for digit in "abc":
        model = ModelDigest(digit * 64)
        grants.drop(grants.offer(an_offer(model=model, term=9), 100, 0, lies_there).grant)
    assert isinstance(
        grants.offer(an_offer(model=ModelDigest("a" * 64), term=1), 100, 0, lies_there).reply, Granted
    )
    assert isinstance(
        grants.offer(an_offer(model=ModelDigest("c" * 64), term=1), 100, 0, lies_there).reply, Declined
    )


def test_the_number_of_ranges_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "STAGES_MAX", 1)
    grants = Grants()
    grants.offer(an_offer(), 1000, 0, lies_there)
    assert isinstance(grants.offer(an_offer(4, 8), 1000, 0, lies_there).reply, Declined)


class GrantsStayWithinMemory(RuleBasedStateMachine):
    """Whatever is offered, claimed, released and expires: memory and cap are never exceeded."""

    MEMORY = 1000

    def __init__(self):
        super().__init__()
        self.grants = Grants(GrantPolicy(layers_max=20))
        self.now = 0.0
        self.resident = {}

    @property
    def free_bytes(self):
        return self.MEMORY - sum(self.resident.values())

    @rule(
        start=st.integers(0, 6),
        layers=st.integers(1, 8),
        term=st.integers(0, 5),
        proposer=st.sampled_from((A, B)),
        needed=st.integers(0, 600),
    )
    def offer(self, start, layers, term, proposer, needed):
        offer = an_offer(start, start + layers, term=term, proposer=proposer, bytes_needed=needed)
        self.grants.offer(offer, self.free_bytes, self.now, lies_there)

    @rule(data=st.data())
    def claim(self, data):
        pending = [grant for grant in self.grants if not grant.is_claimed]
        if pending:
            grant = data.draw(st.sampled_from(pending))
            resident = data.draw(st.integers(0, grant.offer.bytes_needed))
            replaced = self.grants.claim(grant, resident, self.now)
            if replaced is not None:
                self.resident[grant] = resident
                for old in replaced:
                    self.resident.pop(old, None)

    @rule(start=st.integers(0, 6), layers=st.integers(1, 8), term=st.integers(0, 5))
    def release(self, start, layers, term):
        for grant in self.grants.release(Release(term, MODEL, LayerRange(start, start + layers)), B):
            self.resident.pop(grant, None)

    @rule(seconds=st.floats(0, 60))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def promises_can_be_kept(self):
        self.grants.expire(self.now)
        promised = sum(grant.promised_bytes for grant in self.grants)
        assert promised + sum(self.resident.values()) <= self.MEMORY
        assert sum(grant.offer.range.layers for grant in self.grants) <= 20


TestGrantsStayWithinMemory = GrantsStayWithinMemory.TestCase
