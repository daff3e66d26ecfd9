"""libp2p's logs stop at the door: what matters is raised to us."""

from __future__ import annotations

import logging

from libp2p.network.connection import swarm_connection


def silence_libp2p() -> None:
    """Nothing of libp2p reaches the log or stderr. Idempotent.

    A few of its loggers set a level of their own, hence the handler that drops what they still say. One of its modules logs through the `logging` module itself, whose functions install a handler that writes to stderr
    when the root logger has none; it gets libp2p's own logger in its place.
    """
    logger = logging.getLogger("libp2p")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    logger.handlers = [logging.NullHandler()]
    vars(swarm_connection)["logging"] = logger
