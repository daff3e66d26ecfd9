"""What daemons log while they are simulated: into the trace file if there is one, else nowhere.

Logs never count for the digest: a run is the same whether somebody reads them or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import structlog
from structlog.typing import EventDict, WrappedLogger

LogSink = Callable[[dict[str, object]], None]
_CRITICAL: Final = 50
_ALL: Final = 0


@contextmanager
def kept_logs(sink: LogSink | None) -> Iterator[None]:
    """Daemons log to `sink`, as dicts with `event` and `level`, or not at all; afterwards everything is as it was."""
    was_configured, before = structlog.is_configured(), structlog.get_config()

    def hand_on(logger: WrappedLogger, level: str, event: EventDict) -> NoReturn:
        if sink is not None:
            sink({"level": level, **event})
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, hand_on],
        wrapper_class=structlog.make_filtering_bound_logger(_CRITICAL if sink is None else _ALL),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        if was_configured:
            structlog.configure(**before)
        else:
            structlog.reset_defaults()
