"""A trace as lines of JSON: every event that people would want to read about, and what the daemons logged between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
import trio

from protocols.errors import UserError
from simulations.running.logs import LogSink
from simulations.trace import Trace, TraceEvent


class TraceFile:
    """Lines of `at_s`, `node` and either `what` or `log`; the node is empty where nobody knows who logged."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def take(self, event: TraceEvent) -> None:
        self._write({"at_s": round(event.at_s, 6), "node": event.node, "what": event.what})

    def take_log(self, fields: dict[str, object]) -> None:
        node = fields.pop("node", "")
        self._write({"at_s": round(trio.current_time(), 6), "node": node, "log": fields})

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(self._encoder.encode(line) + b"\n")


@contextmanager
def traced_to(path: Path | None) -> Iterator[tuple[Trace, LogSink | None]]:
    """A trace for one run, and where its daemons log to: both into `path` as it goes, or nowhere.

    Raises `UserError` if that can't be written.
    """
    if path is None:
        yield Trace(), None
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}. Give --trace another path.") from None
    with file:
        writer = TraceFile(file)
        yield Trace(writer.take), writer.take_log
