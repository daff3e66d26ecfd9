"""What the people who use a mesh are promised: their text, once, whole, with one end."""

from __future__ import annotations

from collections.abc import Iterator

from node import api
from simulations.invariants.invariant import Breach, always, at_the_end
from simulations.invariants.mesh import Mesh, Reading


@always("S1", "What a client sees has dense positions: no token is lost, none comes twice.")
def positions_are_dense(mesh: Mesh) -> Iterator[Breach]:
    for reading in mesh.news:
        wrong = ""
        for _, event in reading.fresh:
            match event:
                case api.Started(prompt_tokens=prompt_tokens):
                    reading.next_position = prompt_tokens
                case api.Token(position=position):
                    if position != reading.next_position:
                        wrong = wrong or f"position {position} instead of {reading.next_position}"
                    reading.next_position = position + 1
                case _:
                    pass
        _note(mesh, "S1", reading, wrong)
    yield from _noted(mesh, "S1")


@always("S2", "What a client reads is what a run without faults would have given.")
def text_is_that_of_a_faultless_run(mesh: Mesh) -> Iterator[Breach]:
    if not mesh.script.expect.exact_text:
        return
    for reading in mesh.news:
        wrong = ""
        for index, token in enumerate(reading.fresh_tokens, reading.tokens):
            expected = reading.client.expected_at(index)
            if token.token != expected:
                right = "none" if expected is None else expected
                wrong = wrong or f"token {token.token} at place {index} instead of {right}"
        _note(mesh, "S2", reading, wrong)
    yield from _noted(mesh, "S2")


@always("S2", "A client is given the tokens that stand in the log of its session, and no others.")
def clients_read_the_log(mesh: Mesh) -> Iterator[Breach]:
    for reading in mesh.news:
        wrong = ""
        if reading.fresh and reading.session in mesh.entered:
            log = mesh.entered[reading.session][1].tokens
            for token in reading.fresh_tokens:
                if token.position >= len(log) or log[token.position] != token.token:
                    wrong = wrong or f"token {token.token} at {token.position} is not in the log"
        _note(mesh, "S2 log", reading, wrong)
    yield from _noted(mesh, "S2 log")


@always("S1", "The log of a session only grows.")
def logs_only_grow(mesh: Mesh) -> Iterator[Breach]:
    for id_, (sight, session) in mesh.entered.items():
        count, last = len(session.tokens), session.tokens[-1]
        before = mesh.before(("log", id_), (count, last))
        if before is None:
            continue
        known, token = before
        if known > count or session.tokens[known - 1] != token:
            yield Breach((sight.name,), f"session {id_[:8]} had {known} tokens and has {count}")


@always("S14", "Every request has one end, and nothing comes after it.")
def requests_end_once(mesh: Mesh) -> Iterator[Breach]:
    for reading in mesh.news:
        client, wrong = reading.client, ""
        if client.endings > 1:
            wrong = f"it was told {client.endings} ends"
        finished = [at_s for at_s, event in reading.fresh if isinstance(event, api.Finished)]
        if len(finished) > 1 or (finished and reading.fresh[-1][0:1] != (finished[-1],)):
            wrong = wrong or "something came after its end"
        if client.ended_s is not None and reading.moved_s > client.ended_s:
            wrong = wrong or "something came after its end"
        _note(mesh, "S14", reading, wrong)
    yield from _noted(mesh, "S14")


@always("S14", "A reader is told of each failover once.")
def failovers_are_told_once(mesh: Mesh) -> Iterator[Breach]:
    """A stage that was lost is never used again in its session, so it is lost in one place once."""
    for reading in mesh.news:
        wrong, place = "", reading.events - len(reading.fresh)
        for at, (_, event) in enumerate(reading.fresh, place):
            if isinstance(event, api.Rerouted):
                key = ("rerouted", reading.client.index, event.stage, event.lost)
                if mesh.first(key, at) != at:
                    wrong = wrong or f"stage {event.stage} is lost by {event.lost_name} a second time"
        _note(mesh, "S14 once", reading, wrong)
    yield from _noted(mesh, "S14 once")


@always("S14", "Who was told that it has all of its answer has all of it.")
def finished_is_whole(mesh: Mesh) -> Iterator[Breach]:
    for reading in mesh.news:
        ends = [event for _, event in reading.fresh if isinstance(event, api.Finished)]
        wrong, count = "", reading.tokens + len(reading.fresh_tokens)
        if ends and count != ends[0].completion_tokens:
            wrong = f"it was given {count} tokens and told of {ends[0].completion_tokens}"
        elif ends and ends[0].reason == "length" and count != reading.client.request.tokens:
            wrong = f"it was given {count} of {reading.client.request.tokens} tokens"
        _note(mesh, "S14 whole", reading, wrong)
    yield from _noted(mesh, "S14 whole")


@always("S14", "Who is told of a failure is told its cause.")
def failures_have_a_cause(mesh: Mesh) -> Iterator[Breach]:
    for reading in mesh.readings:
        if reading.client.status == "failed" and not reading.client.detail.strip():
            yield _of(reading, "it failed without a word")


@at_the_end("S14", "A request that has begun has its end, or is still under way at an entry node that is up.")
def nobody_is_forgotten(mesh: Mesh) -> Iterator[Breach]:
    for reading in mesh.readings:
        entry = reading.client.request.entry
        is_over_here = reading.session is not None and reading.session not in mesh.entered
        if reading.client.status is None and entry in mesh.sights and is_over_here:
            yield _of(reading, "its session has ended, and it was not told")


def _note(mesh: Mesh, what: str, reading: Reading, wrong: str) -> None:
    """What a client was told wrongly stays wrong, as it first was."""
    if wrong:
        _wrongs(mesh, what).setdefault(reading.client.index, _of(reading, wrong))


def _noted(mesh: Mesh, what: str) -> Iterator[Breach]:
    yield from _wrongs(mesh, what).values()


def _wrongs(mesh: Mesh, what: str) -> dict[int, Breach]:
    return mesh.first(("wrong", what), dict[int, Breach]())


def _of(reading: Reading, detail: str) -> Breach:
    index = reading.client.index
    return Breach((reading.client.request.entry,), f"request {index}: {detail}", key=index)
