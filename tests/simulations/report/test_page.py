from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from protocols.errors import NotFound
from simulations.report.page import page
from simulations.report.seeds import SHOWN, seeds_table, worst_first
from simulations.report.timeline import tokens_plot
from simulations.running.outcome import Mark, Outcome
from simulations.running.store import Broken, Header, Result, Store
from tests.simulations.running.outcomes import HEADER, TWICE, eventful, outcome, request

HOSTILE = "</style></title><script>alert('x')</script><img src=x onerror=alert(1)>&\"'"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Every tag that opens, checked to be closed; ids; and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def made(*results: Result, header: Header = HEADER, note: str = "", seed: int | None = None) -> Outline:
    return Outline(page(Store(header, {result.seed: result for result in results}, note, -1), seed))


def test_an_eventful_sweep_shows_everything() -> None:
    shown = made(*(eventful(seed) for seed in range(6)), outcome(6), Broken(7, "it hung"))
    captions = [attributes.get("id") for tag, attributes in shown.tags if tag == "title" and attributes]
    assert captions == [
        f"{name}-title"
        for name in (
            "failover-histogram",
            "failover-cdf",
            "detection-histogram",
            "detection-cdf",
            "availability",
            "tokens",
        )
    ]
    for said in (
        "Violations: 6. Promises not kept: 6. Seeds without an outcome: 1.",
        "18 failovers; half of them took at most 1.25 s, the longest 2.00 s.",
        "weft sim run churn --seed 0 --nodes 5 --minutes 2",
        "weft sim run churn --seed 7 --nodes 5 --minutes 2",
        "1 of 7 seeds served every request; the least available one served 66.67%.",
        "The worst seed, 0.",
        "half <b>and</b> half",
        HEADER.text,
    ):
        assert said in shown.text


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    text = page(Store(HEADER, {n: eventful(n) for n in range(4)}, "", -1))
    shown = Outline(text)
    assert {tag for tag, _ in shown.tags} & {"script", "link", "img", "iframe", "object"} == set()
    assert not re.search(r"https?:|url\(|@import|@font-face", text)
    assert not [
        name for _, found in shown.tags for name in found if name in {"src", "href"} or name[:2] == "on"
    ]
    assert "prefers-color-scheme: dark" in text


def test_pictures_have_words_and_tables_for_who_can_not_see_them() -> None:
    shown = made(*(eventful(seed) for seed in range(4)))
    ids = [found["id"] for _, found in shown.tags if "id" in found]
    assert len(ids) == len(set(ids)) == 2 * shown.count("svg")
    for tag, found in shown.tags:
        if tag == "svg":
            assert found["role"] == "img"
            assert set((found["aria-labelledby"] or "").split()) <= set(ids)
    assert shown.count("details") == shown.count("svg") + 1  # and the table of seeds
    assert shown.count("caption") == shown.count("table")


def test_nothing_of_a_sweep_becomes_markup() -> None:
    header = replace(HEADER, scenario=HOSTILE, source=HOSTILE, text=HOSTILE)
    violation = replace(TWICE, invariant=HOSTILE, sentence=HOSTILE, detail=HOSTILE)
    bad = outcome(
        1, violations=(violation,), missed=(f"{HOSTILE}: {HOSTILE}",), marks=(Mark(5.0, 9.0, HOSTILE),)
    )
    bad = replace(bad, digest=HOSTILE)
    shown = made(bad, Broken(2, HOSTILE), header=header, note=HOSTILE)
    assert {tag for tag, _ in shown.tags} & {"script", "img"} == set()
    assert shown.count("style") == 1
    assert shown.text.count("alert('x')") >= 10


def test_a_sweep_without_outcomes_says_so() -> None:
    shown = made(note="the last line was cut short (9 bytes) and is dropped")
    assert "No run has ended yet" in shown.text
    assert "The file of this sweep ends in the middle" in shown.text
    assert shown.count("svg") == 0
    broken = made(Broken(3, "it hung"))
    assert "Seeds without an outcome: 1." in broken.text
    assert broken.count("svg") == 0


def test_where_nothing_happened_there_are_words_and_no_empty_axes() -> None:
    shown = made(outcome(1, request(0)))
    assert "Every invariant and every promise held, with every seed." in shown.text
    assert "No session lost a stage, so there was no failover." in shown.text
    assert "No node that had ended was called dead." in shown.text
    assert "Every request was served, with 1 seed." in shown.text
    assert shown.count("svg") == 1  # tokens over time
    silent = made(outcome(1, requests=()))
    assert "No request was answered" in silent.text
    assert "Seed 1 gave no token" in silent.text
    assert silent.count("svg") == 0


def test_too_few_to_draw_are_said() -> None:
    shown = made(outcome(1, request(0, "finished", (2.0, 0.5))))
    assert "Too few to draw: 0.50 s and 2.00 s." in shown.text


def test_one_seed_can_be_asked_for_and_an_unknown_one_is_refused() -> None:
    assert "Seed 2." in made(eventful(1), outcome(2), seed=2).text
    with pytest.raises(NotFound, match="no outcome of seed 9"):
        made(eventful(1), seed=9)


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (outcome(2, violations=(TWICE,)), outcome(1, missed=("a: b", "c: d"))),
        (outcome(2, missed=("a: b",)), outcome(1, request(0, "failed"))),
        (outcome(2, request(0, "failed")), outcome(1, request(0, "finished", (9.0,)))),
        (outcome(2, request(0, "finished", (2.0,))), outcome(1, request(0, "finished", (1.0, 1.0, 1.0)))),
        (outcome(1), outcome(2)),
    ],
)
def test_the_worst_comes_first(worse: Outcome, better: Outcome) -> None:
    assert worst_first([better, worse]) == worst_first([worse, better]) == [worse, better]


def test_a_table_of_many_seeds_holds_the_worst() -> None:
    table = seeds_table([*(outcome(seed) for seed in range(SHOWN)), eventful(9999)])
    assert len(table.rows) == SHOWN
    assert table.rows[0][0] == "9999"
    assert f"the {SHOWN} worst of {SHOWN + 1}" in table.caption


def test_tokens_are_counted_by_the_second_and_faults_marked_in_order() -> None:
    plot = tokens_plot(eventful(1))
    assert plot is not None
    assert "at most 16.0 per second" in plot.says  # four clients with a token every quarter of a second
    assert [(band.number, band.tip) for band in plot.bands] == [
        (1, "1: crash of n1, 10.00 s to 10.00 s"),
        (2, "2: half <b>and</b> half, 30.00 s to 55.00 s"),
    ]
    assert plot.bands[0].width > 0
    assert plot.bands[1].width / (1060 - 58 - 20) == pytest.approx(25 / 120, abs=0.001)
    assert len(plot.dots) == 3
    assert [(rule.text, rule.kind) for rule in plot.rules] == [("S1", "bad")]
