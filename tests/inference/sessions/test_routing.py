"""Routes over claims: shortest chain, primaries first, one arithmetic, and a sentence for the hole."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.placement.planning.planner import HOP_MS
from inference.sessions.routing import find_replacement, find_route
from protocols.errors import NoRoute
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Claim, LayerRange

A, B, C, D = (PeerId(f"12D3KooW{letter * 44}") for letter in "ABCD")
MODEL, OTHER = ModelDigest("ab" * 32), ModelDigest("cd" * 32)


def claim(
    holder,
    start,
    end,
    *,
    standby=False,
    ms=1.0,
    dtype="bf16",
    numerics_class="x",
    model=MODEL,
    numerics="exact",
):
    return Claim(holder, model, LayerRange(start, end), standby, dtype, numerics, numerics_class, ms, 1)


CHAIN = (claim(A, 0, 3), claim(B, 3, 6), claim(C, 6, 8))
STANDBYS = (claim(B, 0, 3, standby=True), claim(C, 3, 6, standby=True), claim(A, 6, 8, standby=True))


def holders(route):
    return "".join(peer[-1] for peer in route.peers)


def test_primaries_form_the_chain_from_the_first_layer_to_the_last():
    route = find_route(CHAIN + STANDBYS, MODEL, 8, A)
    assert route.stages == CHAIN
    assert route.token_ms == pytest.approx(8 + 3 * HOP_MS)
    assert route.is_uniform


def test_the_entrys_own_claims_cost_no_hop():
    whole = [claim(A, 0, 8), claim(B, 0, 8)]
    for entry, token_ms in ((A, 8), (B, 8), (C, 8 + 2 * HOP_MS)):
        route = find_route(whole, MODEL, 8, entry)
        assert route.peers == ((entry,) if entry in (A, B) else (A,))
        assert route.token_ms == pytest.approx(token_ms)


def test_an_excluded_peer_is_out_at_once_and_its_standby_in():
    assert holders(find_route(CHAIN + STANDBYS, MODEL, 8, A, exclude={B})) == "ACC"


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([claim(A, 0, 8, ms=9), claim(B, 0, 8, ms=1)], "B"),
        ([claim(A, 0, 8, ms=1.2), claim(B, 0, 8, ms=1)], "A"),
        ([claim(A, 0, 4), claim(A, 4, 8), claim(B, 4, 8, ms=0.9)], "AA"),
        ([claim(A, 0, 4), claim(A, 4, 8, ms=9), claim(B, 4, 8)], "AB"),
        ([claim(A, 0, 4), claim(A, 4, 8, standby=True), claim(B, 4, 8, ms=99)], "AB"),
        ([claim(A, 0, 4), claim(B, 3, 8), claim(C, 4, 8, ms=99)], "AC"),
        ([claim(A, 0, 4), claim(B, 4, 12), claim(C, 4, 8)], "AC"),
        ([claim(A, 0, 8, dtype="f32", ms=9), claim(B, 0, 4), claim(C, 4, 8)], "BC"),
        ([claim(A, 0, 8, dtype="f32"), claim(B, 0, 4)], "A"),
        ([claim(C, 0, 8), claim(B, 0, 8)], "B"),
    ],
)
def test_the_cheapest_chain_is_chosen(claims, expected):
    assert holders(find_route(claims, MODEL, 8, A)) == expected


def test_a_chain_of_one_arithmetic_is_preferred_to_a_quicker_mixed_one():
    claims = [claim(A, 0, 4), claim(B, 4, 8, ms=50), claim(C, 4, 8, numerics_class="y")]
    assert holders(find_route(claims, MODEL, 8, A)) == "AB"
    mixed = find_route(claims, MODEL, 8, A, exclude={B})
    assert holders(mixed) == "AC"
    assert not mixed.is_uniform


@pytest.mark.parametrize(
    ("claims", "pattern"),
    [
        ((), r"no live node holds layers 0-7 of model abababab"),
        ((CHAIN[0], CHAIN[2]), r"no live node holds layers 3-5 of"),
        ((claim(B, 1, 3), claim(C, 4, 7)), r"holds layers 0, 3, 7 of"),
        ((claim(A, 0, 8, model=OTHER),), r"holds layers 0-7 of"),
        ((claim(A, 0, 5), claim(B, 4, 8)), r"no chain leads past layer 5: layers 5-7 are not covered"),
        ((claim(A, 0, 4), claim(B, 4, 8, dtype="f32")), r"no chain leads past layer 4.*in one dtype"),
    ],
)
def test_without_a_chain_the_uncovered_layers_are_named(claims, pattern):
    with pytest.raises(NoRoute, match=pattern):
        find_route(claims, MODEL, 8, A)


@st.composite
def tables(draw):
    claims = st.builds(
        lambda holder, start, length, standby, ms, numerics_class: claim(
            holder, start, start + length, standby=standby, ms=ms, numerics_class=numerics_class
        ),
        st.sampled_from((A, B, C, D)),
        st.integers(0, 4),
        st.integers(1, 3),
        st.booleans(),
        st.floats(0, 10),
        st.sampled_from("xy"),
    )
    return draw(st.lists(claims, max_size=9, unique_by=lambda each: (each.holder, each.range)))


def cost_of(chain, entry):
    ring = [entry, *(each.holder for each in chain), entry]
    hops = sum(a != b for a, b in itertools.pairwise(ring))
    mixed = len({each.numerics_class for each in chain}) > 1
    ms = sum(each.range.layers * each.layer_ms for each in chain) + hops * HOP_MS
    return mixed, sum(each.standby for each in chain), pytest.approx(ms), ms


@given(tables())
def test_no_chain_is_cheaper_than_the_route(claims):
    def chains(at):
        if at == 5:
            yield ()
        for each in claims:
            if each.range.start == at and each.range.end <= 5:
                yield from ((each, *rest) for rest in chains(each.range.end))

    costs = [cost_of(chain, A) for chain in chains(0)]
    try:
        route = find_route(claims, MODEL, 5, A)
    except NoRoute:
        assert not costs
        return
    *kind, _, ms = cost_of(route.stages, A)
    best = min(costs, key=lambda cost: (cost[0], cost[1], cost[3]))
    assert kind == list(best[:2])
    assert ms == best[2] == pytest.approx(route.token_ms)


@given(tables(), st.randoms(use_true_random=False))
def test_equal_tables_give_equal_routes_in_any_order(claims, random):
    def outcome(listed):
        try:
            return find_route(listed, MODEL, 5, A)
        except NoRoute as none:
            return str(none)

    shuffled = list(claims)
    random.shuffle(shuffled)
    assert outcome(claims) == outcome(shuffled)


# Replacements --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([claim(B, 3, 6), claim(C, 3, 6, standby=True)], C),
        ([claim(C, 3, 6, ms=5), claim(D, 3, 6)], D),
        ([claim(C, 3, 6, ms=5), claim(D, 3, 6, numerics_class="y")], C),
        ([claim(C, 3, 6, standby=True), claim(D, 3, 6)], D),
        ([claim(D, 3, 6, numerics_class="y")], D),
        ([claim(D, 3, 6), claim(C, 3, 6)], C),
    ],
)
def test_a_lost_range_goes_to_the_same_arithmetic_then_the_quickest(claims, expected):
    assert find_replacement(claims, claim(B, 3, 6)).holder == expected


@pytest.mark.parametrize(
    ("claims", "exclude"),
    [
        ([], set()),
        ([claim(B, 3, 6)], set()),
        ([claim(C, 3, 6)], {C}),
        ([claim(C, 3, 5), claim(C, 5, 6)], set()),
        ([claim(C, 3, 6, dtype="f32")], set()),
        ([claim(C, 3, 6, model=OTHER)], set()),
    ],
)
def test_without_another_holder_of_the_range_the_loss_is_named(claims, exclude):
    with pytest.raises(NoRoute, match=r"no standby is left for layers 3-5 of model abababab"):
        find_replacement(claims, claim(B, 3, 6), exclude)


# Scores --------------------------------------------------------------------------------------------------------------


def scored(**scores):
    by_peer = {peer: scores.get(letter, 1.0) for peer, letter in ((A, "a"), (B, "b"), (C, "c"), (D, "d"))}
    return by_peer.__getitem__


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({}, "B"),  # the quicker one
        ({"b": 0.5}, "B"),  # still the cheaper of the two
        ({"b": 0.2}, "C"),
        ({"b": 0.0}, "C"),
        ({"b": 0.0, "c": 0.0}, "B"),
        ({"b": 0.001, "c": 0.05}, "B"),  # past the floor only the pace tells them apart
    ],
)
def test_a_bad_score_makes_a_holder_dearer(scores, expected):
    whole = [claim(B, 0, 8, ms=2), claim(C, 0, 8, ms=6)]
    route = find_route(whole, MODEL, 8, A, score=scored(**scores))
    assert holders(route) == expected
    # What is predicted is time, whatever the score.
    assert route.token_ms == pytest.approx(8 * (2 if expected == "B" else 6) + 2 * HOP_MS)


def test_who_computed_wrongly_is_in_no_chain_while_there_is_another():
    wrong_a = scored(a=0.0)
    assert holders(find_route([claim(A, 0, 8), claim(B, 0, 8, ms=99)], MODEL, 8, A, score=wrong_a)) == "B"
    standby = [claim(A, 0, 8), claim(B, 0, 8, standby=True)]
    assert holders(find_route(standby, MODEL, 8, A, score=wrong_a)) == "B"
    mixed = [claim(A, 0, 8), claim(B, 0, 4), claim(C, 4, 8, numerics_class="y")]
    assert holders(find_route(mixed, MODEL, 8, A, score=wrong_a)) == "BC"
    assert holders(find_route([claim(A, 0, 4), claim(B, 4, 8)], MODEL, 8, B, score=wrong_a)) == "AB"


@pytest.mark.parametrize(
    ("scores", "expected"), [({}, C), ({"c": 0.1}, D), ({"c": 0.0}, D), ({"c": 0.0, "d": 0.0}, C)]
)
def test_a_lost_range_goes_to_the_better_score(scores, expected):
    claims = [claim(C, 3, 6, ms=1), claim(D, 3, 6, ms=3)]
    assert find_replacement(claims, claim(B, 3, 6), score=scored(**scores)).holder == expected


def test_a_range_leaves_its_arithmetic_rather_than_go_to_one_that_computed_wrongly():
    claims = [claim(C, 3, 6), claim(D, 3, 6, numerics_class="y")]
    assert find_replacement(claims, claim(B, 3, 6), score=scored(c=0.0)).holder == D
    assert find_replacement(claims, claim(B, 3, 6), score=scored(c=0.1)).holder == C
