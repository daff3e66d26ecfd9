"""Keeping this node's certificate good, renewed by whoever is up and may, long before it ends; and its Noise key young."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio

from mesh.admission.credentials import Credentials
from mesh.members.errands import Errands
from protocols import limits
from protocols.errors import LocalFault, RemoteFault
from protocols.ids import PeerId, shortened
from protocols.membership import Renew, Renewed
from protocols.seams import Network

log = structlog.get_logger()

FIRST_CHECK_S: Final = 30.0  # by then whoever is there is up
ASKED_MAX: Final = 3


class Upkeep:
    """Of one node's papers. `ups` tells which members are up; `replace_static` is called now and then, `renewed` after it
    got a new certificate."""

    def __init__(
        self,
        network: Network,
        papers: Credentials,
        errands: Errands,
        ups: Callable[[], list[PeerId]],
        replace_static: Callable[[], None],
        renewed: Callable[[], None],
    ) -> None:
        self._network = network
        self._papers = papers
        self._errands = errands
        self._ups = ups
        self._replace_static = replace_static
        self._renewed = renewed

    async def run(self) -> None:
        """Until cancelled."""
        await trio.sleep(FIRST_CHECK_S)
        while True:
            try:
                self._replace_static()
            except LocalFault:
                log.exception("the Noise key can't be replaced")
            if self._papers.chain and self._papers.wants_renewal:
                await self._renew()
            self._network.guard(self._papers.door)  # some certificates may have ended
            await trio.sleep(limits.RENEW_CHECK_S)

    async def _renew(self) -> None:
        for peer in self._papers.sponsors(self._ups())[:ASKED_MAX]:
            match await self._errands.ask(peer, Renew()):
                case Renewed(chain) if chain and self._take(peer, chain):
                    self._renewed()
                    return
        if 0 < self._papers.left_s < limits.RENEW_WARN_S:
            days = self._papers.left_s / 86_400
            log.warning(
                "this node's certificate ends soon: start the member that invited it, or get a new invite",
                days=round(days),
                sponsor=shortened(self._papers.chain[0].sponsor),
            )

    def _take(self, peer: PeerId, chain: bytes) -> bool:
        try:
            return self._papers.take_renewed(chain)
        except (RemoteFault, LocalFault) as error:
            log.warning("a renewed certificate is not taken", peer=shortened(peer), reason=str(error))
            return False
