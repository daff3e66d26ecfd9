"""What can go wrong, told apart by who is at fault and so by what to do next.

WeftError
├── LocalFault       our bug or our disk: the operation fails, the log has the trace
├── RemoteFault      a peer broke a rule: blame it, close, re-route
│   ├── Malformed        bytes that do not decode, or messages out of order
│   ├── Oversized        more than the limit of that protocol
│   ├── Unauthenticated  not who it says, or not a member
│   ├── Dishonest        well-formed but untrue, such as a tensor with another hash
│   ├── Stale            true once: expired, or older than what is known; no reason to blame who handed it on
│   └── Premature        from a clock that is ahead
├── Unavailable      nobody's fault: retry elsewhere or later
│   ├── NoRoute          no peer, range or standby is left for it
│   ├── Overloaded       a quota is used up
│   ├── Disconnected     the stream or connection ended
│   ├── TimedOut         a deadline passed
│   └── WorkerDied       the torch process ended
└── UserError        says what to do next; the CLI prints it alone
    ├── NotFound         nothing has that name
    └── Refused          policy or authorisation says no
"""

from __future__ import annotations

from protocols.ids import PeerId


class WeftError(Exception):
    """The root: anything weft raises on purpose."""


class LocalFault(WeftError):
    """Our bug or our disk."""


class RemoteFault(WeftError):
    """A peer broke a rule. `peer` is whom to blame, where it is known."""

    def __init__(self, message: str, peer: PeerId | None = None) -> None:
        super().__init__(message)
        self.peer = peer


class Malformed(RemoteFault):
    """Bytes that do not decode, or a message that does not belong there."""


class Oversized(RemoteFault):
    """More bytes than that protocol allows; nothing of it was kept."""


class Unauthenticated(RemoteFault):
    """Not who it claims to be, or not a member of this network."""


class Dishonest(RemoteFault):
    """Well-formed and untrue."""


class Stale(RemoteFault):
    """True once: expired, or older than what is known already. Whoever hands it on need not know."""


class Premature(RemoteFault):
    """Dated so far ahead that a clock must be wrong, here or there; the message says by how much."""


class Unavailable(WeftError):
    """Nobody's fault: try elsewhere or later."""


class NoRoute(Unavailable):
    """No peer, range or standby is left that could do it."""


class Overloaded(Unavailable):
    """A quota is used up."""


class Disconnected(Unavailable):
    """The stream or the connection under it has ended."""


class TimedOut(Unavailable):
    """A deadline passed."""


class WorkerDied(Unavailable):
    """The torch process of this node ended; its shards and caches are gone."""


class UserError(WeftError):
    """The message is one line and names the next step."""


class NotFound(UserError):
    """Nothing has the name that was given."""


class Refused(UserError):
    """Policy or authorisation says no."""
