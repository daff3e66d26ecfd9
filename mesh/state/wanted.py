"""What a fetch still wants, and from whom it may still come: the rules by which several holders share the work.

Every blob is fetched from one holder at a time. What a holder lacks is not asked of it again; what one left unfinished goes on
at another, from where it stopped. If bytes of several holders together have the wrong hash, nobody knows who lied: the blob
is begun anew and comes from one alone, who then is to blame if it is wrong again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from protocols.ids import PeerId, TensorDigest


@dataclass(eq=False, slots=True)
class Want:
    """A blob that is to come.

    `lacking` are the holders that do not have it, `givers` those that sent a part of it; None among them is an earlier run.
    """

    name: str
    sha256: TensorDigest
    size_bytes: int
    have_bytes: int = 0
    lacking: set[PeerId] = field(default_factory=set)
    givers: set[PeerId | None] = field(default_factory=set)


class Wanted:
    """`on_progress(done_bytes, total_bytes)` is called whenever the bytes that are here change, and they never shrink in it."""

    def __init__(self, wants: Iterable[Want], on_progress: Callable[[int, int], None]) -> None:
        self._waiting = list(wants)
        self._coming: set[Want] = set()
        self._on_progress = on_progress
        self._done_bytes = self._told_bytes = 0
        self._total_bytes = sum(want.size_bytes for want in self._waiting)

    @property
    def is_complete(self) -> bool:
        return not self._waiting and not self._coming

    @property
    def first_missing(self) -> Want:
        """One that nobody gave; there must be one."""
        return self._waiting[0]

    def take(self, holder: PeerId) -> Want | None:
        """The next one to ask this holder for; give it back with `came` or `stopped`."""
        for place, want in enumerate(self._waiting):
            if holder not in want.lacking:
                del self._waiting[place]
                self._coming.add(want)
                return want
        return None

    def may_come_back(self) -> bool:
        """Whether what others are fetching at present may yet have to come from somebody else."""
        return bool(self._coming)

    def resumed(self, want: Want, have_bytes: int) -> None:
        """So much of it lies here already."""
        if have_bytes > want.have_bytes:
            want.givers.add(None)
        self._done_bytes += have_bytes - want.have_bytes
        want.have_bytes = have_bytes
        self._tell()

    def advanced(self, want: Want, giver: PeerId, count: int) -> None:
        want.givers.add(giver)
        want.have_bytes += count
        self._done_bytes += count
        self._tell()

    def came(self, want: Want) -> None:
        """It is here, whole and verified."""
        self._coming.discard(want)
        self._done_bytes += want.size_bytes - want.have_bytes
        self._tell()

    def stopped(self, want: Want, holder: PeerId, *, is_lacking: bool = False) -> None:
        """This holder gives no more of it; what came of it stays. Changes nothing unless it was still coming.

        `is_lacking` if this holder is not to be asked for it again.
        """
        if want not in self._coming:
            return
        self._coming.discard(want)
        if is_lacking:
            want.lacking.add(holder)
        self._waiting.insert(0, want)

    def spoilt(self, want: Want, holder: PeerId) -> bool:
        """It came whole and wrong, and is begun anew. Whether `holder` alone is to blame."""
        is_to_blame = want.givers <= {holder}
        self._done_bytes -= want.have_bytes
        want.have_bytes = 0
        want.givers.clear()
        self.stopped(want, holder, is_lacking=is_to_blame)
        return is_to_blame

    def _tell(self) -> None:
        if self._done_bytes > self._told_bytes:
            self._told_bytes = self._done_bytes
            self._on_progress(self._done_bytes, self._total_bytes)
