"""Logs on stderr: for people on a terminal, one JSON object a line otherwise. No log file: that is the supervisor's work.

structlog and the standard library's loggers (libp2p, hypercorn) go through one formatter. Prompts and answers are never
logged.
"""

from __future__ import annotations

import logging
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from protocols.ids import shortened

_ID_KEYS: Final = ("peer", "session", "model", "network")
_QUIET: Final = ("libp2p", "hypercorn", "multiaddr", "asyncio", "trio")  # only their warnings
_SHARED: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
)


def configure_logging(level: str, stream: TextIO) -> None:
    """Send everything from `level` on to `stream`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(is_for_people=stream.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _renderers(*, is_for_people: bool) -> tuple[Processor, ...]:
    if is_for_people:
        return _shorten_ids, structlog.dev.ConsoleRenderer(timestamp_key="ts")
    return structlog.processors.format_exc_info, structlog.processors.JSONRenderer()


def _shorten_ids(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for key in _ID_KEYS:
        if isinstance(event.get(key), str):
            event[key] = shortened(event[key])
    return event
