"""Logs: JSON lines for programs, shortened ids for people, one formatter for everybody's loggers."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from node.telemetry import configure_logging

PEER = "12D3KooWFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeAAAA"


@pytest.fixture(autouse=True)
def _as_it_was():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_programs_get_one_object_a_line_with_whole_ids():
    stream = io.StringIO()
    configure_logging("info", stream)
    structlog.get_logger("node.x").info("peer up", peer=PEER, rtt_ms=3)
    structlog.get_logger("node.x").debug("unseen")
    logging.getLogger("hypercorn.y").warning("theirs %s", 1)
    logging.getLogger("hypercorn.y").info("unseen")
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["event"], ours["peer"], ours["level"], ours["logger"]) == ("peer up", PEER, "info", "node.x")
    assert (theirs["event"], theirs["logger"]) == ("theirs 1", "hypercorn.y")


def test_a_traceback_stays_on_its_line():
    stream = io.StringIO()
    configure_logging("info", stream)
    try:
        int("odd")
    except ValueError:
        structlog.get_logger("node.x").exception("failed")
    [line] = stream.getvalue().splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_people_get_short_ids():
    stream = Terminal()
    configure_logging("debug", stream)
    structlog.get_logger("node.x").debug("peer up", peer=PEER)
    assert "FakeAAAA" in stream.getvalue()
    assert PEER not in stream.getvalue()
