"""What a scenario promises beyond the invariants, held against what a run has shown.

The rule of the file: pure. A miss is "name: sentence"; the name is that of the field of `Expectations`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simulations.running.outcome import Detection, RequestOutcome
from simulations.scenarios.script import Script


def missed(
    script: Script, requests: tuple[RequestOutcome, ...], detections: tuple[Detection, ...]
) -> tuple[str, ...]:
    """The promises that did not hold, in the order of the fields. Empty for a run that kept them all."""
    return (
        *_finished(script, requests),
        *_failovers(script, requests),
        *_detections(script, detections),
        *_false_deaths(script, detections),
        *_text(script, requests),
        *_failures(script, requests),
    )


def name_of(miss: str) -> str:
    """The field of `Expectations` that a miss is about."""
    return miss.partition(":")[0]


def _finished(script: Script, requests: tuple[RequestOutcome, ...]) -> Iterator[str]:
    promised = script.expect.finished_share
    counted = [request for request in requests if request.status not in {"lost", "cancelled"}]
    if promised is None or not counted:
        return
    finished = sum(request.status == "finished" for request in counted)
    if finished / len(counted) < promised:
        yield (
            f"finished_share: {finished} of {len(counted)} requests finished ({finished / len(counted):.1%}), "
            f"and {promised:.1%} were promised"
        )


def _failovers(script: Script, requests: tuple[RequestOutcome, ...]) -> Iterator[str]:
    bound_s = script.expect.failover_max_s
    pauses_s = [(each.pause_s, str(request.index)) for request in requests for each in request.failovers]
    for longest_s, index in _too_long(bound_s, pauses_s):
        yield (
            f"failover_max_s: request {index} paused for {longest_s:.2f} s, and at most {bound_s:g} s were promised"
        )


def _detections(script: Script, detections: tuple[Detection, ...]) -> Iterator[str]:
    bound_s = script.expect.detection_max_s
    took_s = [(each.first_s - each.down_at_s, each.node) for each in detections if each.down_at_s is not None]
    for longest_s, node in _too_long(bound_s, took_s):
        yield (
            f"detection_max_s: {node} was called dead after {longest_s:.2f} s, and {bound_s:g} s were promised"
        )


def _false_deaths(script: Script, detections: tuple[Detection, ...]) -> Iterator[str]:
    bound = script.expect.false_deaths
    false = [each.node for each in detections if each.down_at_s is None]
    if bound is not None and len(false) > bound:
        yield (
            f"false_deaths: {len(false)} deaths were false ({', '.join(sorted(set(false)))}), and at most {bound} were promised"
        )


def _text(script: Script, requests: tuple[RequestOutcome, ...]) -> Iterator[str]:
    wrong = [str(request.index) for request in requests if not request.is_exact]
    if script.expect.exact_text and wrong:
        yield f"exact_text: other text than an unbroken run was given to request {', '.join(wrong)}"


def _failures(script: Script, requests: tuple[RequestOutcome, ...]) -> Iterator[str]:
    bound_s = script.expect.failed_max_s
    waited_s = [
        (request.ended_s - max((request.began_s, *request.token_at_s)), str(request.index))
        for request in requests
        if request.status == "failed"
    ]
    for longest_s, index in _too_long(bound_s, waited_s):
        yield (
            f"failed_max_s: request {index} had waited for {longest_s:.2f} s when it failed, and at most {bound_s:g} s were promised"
        )


def _too_long(bound_s: float | None, took_s: Sequence[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    """The one that took longest, and whose that was, if it is beyond what was promised."""
    if bound_s is not None and took_s:
        longest = max(took_s)
        if longest[0] > bound_s:
            yield longest
