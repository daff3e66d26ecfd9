"""Progress of an offer on stderr: bars that are redrawn on a terminal, a line per new phase otherwise."""

from __future__ import annotations

import shutil
from typing import Any, Final, TextIO

from node.cli.tables import node_text, size_text

_BAR_CELLS: Final = 24


class Progress:
    """One row for each node and range."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._drawn_lines = 0

    def show(self, event: dict[str, Any]) -> None:
        """Take in one progress event."""
        key = (event["peer"], event["range"])
        before = self._rows.get(key)
        self._rows[key] = event
        if self._is_terminal:
            self._redraw()
        elif before is None or before["phase"] != event["phase"]:
            self._stream.write(_label(event) + "\n")
            self._stream.flush()

    def _redraw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        up = f"\x1b[{self._drawn_lines}A" if self._drawn_lines else ""
        # A line that wrapped would be two to the cursor, hence the cut.
        lines = "".join(f"\r\x1b[K{_bar(row)[:width]}\n" for row in self._rows.values())
        self._stream.write(up + lines)
        self._stream.flush()
        self._drawn_lines = len(self._rows)


def _label(event: dict[str, Any]) -> str:
    standby = " (standby)" if event["standby"] else ""
    layers = f"layers {event['range']}{standby}: " if event["range"] != "all" else ""
    total = f", {size_text(event['total_bytes'])}" if event["total_bytes"] else ""
    return f"{node_text(event['name'], event['peer'])}: {layers}{event['phase']}{total}"


def _bar(event: dict[str, Any]) -> str:
    total = event["total_bytes"]
    share = 1.0 if event["phase"] == "claimed" else min(event["done_bytes"] / total, 1.0) if total else 0.0
    full = int(share * _BAR_CELLS)
    return f"[{'#' * full}{'.' * (_BAR_CELLS - full)}] {share:4.0%}  {_label(event)}"
