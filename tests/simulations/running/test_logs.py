"""What daemons log while they are simulated."""

from __future__ import annotations

import json

import pytest
import structlog

from protocols.errors import UserError
from simulations.determinism import run_deterministically
from simulations.running.logs import kept_logs
from simulations.running.trace_file import traced_to

LOG = structlog.get_logger("at import, as in every module")


def test_nothing_is_said_and_afterwards_everything_is_as_it_was(capsys):
    before = structlog.get_config()
    with kept_logs(None):
        LOG.critical("not heard")
        LOG.bind(peer="p").info("not heard either")
    assert capsys.readouterr() == ("", "")
    assert structlog.get_config() == before
    assert not structlog.is_configured()


def test_what_was_configured_comes_back_even_after_an_error():
    heard = []

    def hear(logger, level, event):
        heard.append(event["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[hear])
    try:
        with pytest.raises(KeyError), kept_logs(None):
            LOG.info("within")
            raise KeyError
        LOG.info("after")
    finally:
        structlog.reset_defaults()
    assert heard == ["after"]


def test_a_sink_hears_levels_and_fields_but_nothing_of_an_outer_one():
    outer, inner = [], []
    with kept_logs(outer.append):
        with kept_logs(inner.append):
            LOG.warning("lost", peer="p1")
        LOG.debug("back")
    assert inner == [{"level": "warning", "event": "lost", "peer": "p1"}]
    assert outer == [{"level": "debug", "event": "back"}]


def test_a_trace_file_has_a_line_for_every_event_and_log(tmp_path):
    path = tmp_path / "trace.jsonl"

    async def happen(trace, take_log):
        trace.note("n1", "is up")
        take_log(
            {"event": "odd", "node": "n2", "what": {"a set", "of one"} & {"of one"}, "error": ValueError("x")}
        )

    with traced_to(path) as (trace, take_log):
        run_deterministically(happen, trace, take_log, seed=1)
    event, log = map(json.loads, path.read_text().splitlines())
    assert event == {"at_s": 0.0, "node": "n1", "what": "is up"}
    assert log == {"at_s": 0.0, "node": "n2", "log": {"event": "odd", "what": ["of one"], "error": "x"}}


def test_a_trace_that_goes_nowhere_costs_no_logs_and_one_that_can_not_be_written_is_told():
    with traced_to(None) as (trace, take_log):
        assert (trace.events, take_log) == (0, None)


def test_a_trace_file_that_can_not_be_written_is_told(tmp_path):
    with pytest.raises(UserError, match="can't be written"), traced_to(tmp_path / "missing" / "t.jsonl"):
        pass
