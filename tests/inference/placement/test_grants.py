"""The holder's promises: terms, leases, memory, the operator's word."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference.placement.grants import GrantPolicy, Grants
from protocols import limits
from protocols.errors import Malformed
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Declined, Granted, LayerRange, Offer, Release

A, B = (PeerId(f"12D3KooW{letter * 44}") for letter in "AB")
MODEL = ModelDigest("ab" * 32)


def an_offer(start=0, end=4, *, term=1, proposer=A, bytes_needed=40, model=MODEL, standby=False, dtype="f32"):
    held = LayerRange(start, end)
    return Offer(term, proposer, model, held, standby, dtype, "fast", bytes_needed, 100.0, (proposer,))


def test_memory_promised_is_not_promised_twice():
    grants = Grants()
    assert grants.offer(an_offer(), 100, 0).reply == Granted(1)
    assert grants.offer(an_offer(4, 8), 100, 0).reply == Granted(1)
    declined = grants.offer(an_offer(8, 12), 100, 0).reply
    assert isinstance(declined, Declined)
    assert declined.layers_max == 2, "20 bytes are left, and 4 layers take 40"
    assert grants.available_bytes(100, 0) == 20


def test_after_the_claim_only_what_the_worker_does_not_count_stays_promised():
    grants = Grants()
    grant = grants.offer(an_offer(bytes_needed=40), 100, 0).grant
    assert grants.claim(grant, 30, 1) == ()
    assert grants.available_bytes(70, 1) == 60, "10 bytes of KV"
    grants.unloaded()
    assert grants.available_bytes(100, 1) == 60, "to be loaded again"


def test_a_lease_that_ends_frees_the_grant_and_a_late_load_is_in_vain():
    grants = Grants()
    grant = grants.offer(an_offer(), 100, 0).grant
    assert grants.available_bytes(100, 99.9) == 60
    assert grants.available_bytes(100, 100) == 100
    assert grants.claim(grant, 40, 100) is None


def test_a_claim_outlives_its_lease():
    grants = Grants()
    grants.claim(grants.offer(an_offer(), 100, 0).grant, 40, 1)
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
    grants.offer(an_offer(0, 4, term=first[0], proposer=first[1]), 100, 0)
    reply = grants.offer(an_offer(4, 8, term=second[0], proposer=second[1]), 100, 0).reply
    assert isinstance(reply, Granted) is granted
    if isinstance(reply, Declined):
        assert reply.term == first[0]


def test_a_higher_plan_takes_the_place_of_what_another_proposer_has_not_claimed():
    grants = Grants()
    pending = grants.offer(an_offer(0, 4), 100, 0).grant
    claimed = grants.offer(an_offer(4, 6), 100, 0).grant
    grants.claim(claimed, 40, 0)
    verdict = grants.offer(an_offer(0, 8, term=2, proposer=B, bytes_needed=60), 60, 1)
    assert verdict.reply == Granted(2)
    assert verdict.superseded == (pending,)
    assert list(grants) == [claimed, verdict.grant]
    assert grants.claim(pending, 40, 2) is None


def test_a_higher_plan_that_is_declined_takes_nothing():
    grants = Grants()
    pending = grants.offer(an_offer(0, 4), 100, 0).grant
    assert isinstance(grants.offer(an_offer(term=2, proposer=B, bytes_needed=101), 100, 1).reply, Declined)
    assert grants.claim(pending, 40, 2) == ()


def test_the_range_that_is_held_is_granted_again_without_a_load():
    grants = Grants()
    grant = grants.offer(an_offer(), 40, 0).grant
    assert isinstance(grants.offer(an_offer(), 40, 0).reply, Declined), "it is being loaded"
    grants.claim(grant, 40, 0)
    verdict = grants.offer(an_offer(term=2, standby=True), 0, 1)
    assert (verdict.reply, verdict.is_held, verdict.grant) == (Granted(2), True, grant)
    assert grant.offer.standby


def test_the_same_range_in_another_dtype_replaces_it_when_loaded():
    grants = Grants()
    old = grants.offer(an_offer(), 100, 0).grant
    grants.claim(old, 40, 0)
    new = grants.offer(an_offer(dtype="bf16"), 100, 1).grant
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
    declined = Grants(policy).offer(an_offer(), 1000, 0).reply
    assert isinstance(declined, Declined)
    assert reason in declined.reason
    assert declined.layers_max == layers_max


def test_the_survey_tells_of_the_operators_word():
    assert Grants(GrantPolicy(refuses=True)).available_bytes(100, 0) == 0
    grants = Grants(GrantPolicy(layers_max=6))
    assert grants.layers_left() == 6
    grants.offer(an_offer(), 100, 0)
    assert grants.layers_left() == 2
    assert Grants().layers_left() is None


def test_release_is_idempotent_and_only_for_this_plan_or_a_higher():
    grants = Grants()
    grant = grants.offer(an_offer(term=3, proposer=B), 100, 0).grant
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
    assert isinstance(grants.offer(an_offer(4, 8, term=4), 100, 0).reply, Declined)


def test_an_empty_range_is_malformed():
    with pytest.raises(Malformed):
        Grants().offer(an_offer(4, 4), 100, 0)


def test_terms_of_models_that_are_not_held_are_forgotten_past_the_bound(monkeypatch):
    monkeypatch.setattr(limits, "MODELS_MAX", 2)
    grants = Grants()
    for digit in "abc":
        model = ModelDigest(digit * 64)
        grants.drop(grants.offer(an_offer(model=model, term=9), 100, 0).grant)
    assert isinstance(grants.offer(an_offer(model=ModelDigest("a" * 64), term=1), 100, 0).reply, Granted)
    assert isinstance(grants.offer(an_offer(model=ModelDigest("c" * 64), term=1), 100, 0).reply, Declined)


def test_the_number_of_ranges_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "STAGES_MAX", 1)
    grants = Grants()
    grants.offer(an_offer(), 1000, 0)
    assert isinstance(grants.offer(an_offer(4, 8), 1000, 0).reply, Declined)


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
        self.grants.offer(offer, self.free_bytes, self.now)

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
