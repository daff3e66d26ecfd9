"""Finding members on the same link: multicast DNS over zeroconf, on exactly the interfaces that are allowed.

A node announces `<tail of its peer id>._weft._tcp.local.` with its control port and, as TXT,

    t   a tag of its network: a MAC keyed with the network id, so that the link does not learn the id itself
    p   its peer id         s   its Noise static, base64url         d   its data port

What is heard is a hint on nobody's word: of the right tag, well-formed, at an address of the very link, or dropped.

zeroconf runs an asyncio loop in a thread of its own. That thread only leaves names in a bounded queue and wakes trio; each
name is then looked up from a worker thread, two at a time. A flood displaces the oldest names, and peers announce themselves
again. zeroconf bounds its own tables (10,000 records).
"""

from __future__ import annotations

import base64
import logging
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from mesh.directory.bootstrap import Hint
from mesh.host.addresses.announcement import Announcement, Reachable, announcement_of, hint_of
from mesh.host.addresses.interfaces import Interface
from protocols import limits
from protocols.ids import NetworkId

log = logging.getLogger("weft.host")

SERVICE: Final = "_weft._tcp.local."
_IP_MULTICAST_ALL: Final = 49  # of Linux; the socket module has no name for it
_CLOSE_S: Final = 2.0


class Mdns:
    """Announces this node and passes on what it hears. `dropped` counts, by reason, what it did not pass on."""

    def __init__(
        self,
        network: NetworkId,
        own: Callable[[], Reachable],
        interfaces: Callable[[], Sequence[Interface]],
        allowed: Sequence[str] = (),
    ) -> None:
        self._network = network
        self._own = own
        self._interfaces = interfaces
        self._allowed = tuple(allowed)
        self._lookups = trio.CapacityLimiter(limits.MDNS_LOOKUPS_AT_ONCE)
        self.dropped: Counter[str] = Counter()

    async def run(
        self,
        on_hint: Callable[[Hint], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled; where there is no allowed interface it waits for one. Ready at once."""
        task_status.started()
        while True:
            said = self._announcement()
            if said is None:
                await trio.sleep(limits.RECORD_CHECK_S)
                continue
            try:
                await self._be_on(said, on_hint)
            except (
                OSError,
                ZeroconfError,
            ) as error:  # such as an interface that has gone, or port 5353 taken
                self.dropped["no multicast"] += 1
                log.info("multicast DNS on %s does not work: %s", ", ".join(said.ips), error)
                await trio.sleep(limits.RECORD_CHECK_S)

    def _announcement(self) -> Announcement | None:
        return announcement_of(self._own(), self._network, self._interfaces(), self._allowed)

    async def _be_on(self, said: Announcement, on_hint: Callable[[Hint], None]) -> None:
        """Announce that, and listen on its links, for as long as it is what is to be said."""
        ears = _Ears(trio.lowlevel.current_trio_token(), self.dropped)
        with trio.CancelScope(shield=True):  # it takes milliseconds, and what it made has to be closed
            zeroconf = await trio.to_thread.run_sync(_open_on, said.ips)
        try:
            _ignore_other_links(zeroconf)
            await trio.to_thread.run_sync(_announce, zeroconf, said)
            browser = await trio.to_thread.run_sync(ServiceBrowser, zeroconf, SERVICE, None, ears)
            links = [each for each in self._interfaces() if str(each.ip) in said.ips]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_up_all, zeroconf, ears, said, links, on_hint)
                while True:
                    await trio.sleep(limits.RECORD_CHECK_S)
                    if self._announcement() != said:
                        break
                nursery.cancel_scope.cancel()
            await trio.to_thread.run_sync(browser.cancel)
        finally:
            with trio.move_on_after(_CLOSE_S, shield=True):
                await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)

    async def _look_up_all(
        self,
        zeroconf: Zeroconf,
        ears: _Ears,
        said: Announcement,
        links: Sequence[Interface],
        on_hint: Callable[[Hint], None],
    ) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await ears.heard.wait()
                ears.heard = trio.Event()
                while ears.names:
                    # Waits while both slots are in use, so that what is heard meanwhile piles up where it is bounded.
                    name, slot = ears.names.popleft(), object()
                    await self._lookups.acquire_on_behalf_of(slot)
                    nursery.start_soon(self._look_up, zeroconf, name, slot, said, links, on_hint)

    async def _look_up(
        self,
        zeroconf: Zeroconf,
        name: str,
        slot: object,
        said: Announcement,
        links: Sequence[Interface],
        on_hint: Callable[[Hint], None],
    ) -> None:
        info = ServiceInfo(SERVICE, name)
        try:
            asking = partial(info.request, zeroconf, limits.MDNS_LOOKUP_S * 1e3)
            found = await trio.to_thread.run_sync(asking, abandon_on_cancel=True)
        except ZeroconfError:
            found = False
        finally:
            self._lookups.release_on_behalf_of(slot)
        ips = info.parsed_addresses(IPVersion.V4Only) if found else []
        hint = hint_of(said.tag, info.properties, info.port, ips, links) if found else None
        if hint is None:
            self.dropped["no hint"] += 1
        elif hint.peer != said.peer:
            on_hint(hint)


class _Ears(ServiceListener):
    """Called in zeroconf's thread; `heard` is set in trio's."""

    def __init__(self, token: trio.lowlevel.TrioToken, dropped: Counter[str]) -> None:
        self.names: deque[str] = deque(maxlen=limits.MDNS_HINTS_MAX)
        self.heard = trio.Event()
        self._token = token
        self._dropped = dropped

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        if len(self.names) == limits.MDNS_HINTS_MAX:
            self._dropped["too many"] += 1
        self.names.append(name)
        with suppress(trio.RunFinishedError):  # the node is gone, and this thread soon will be
            self._token.run_sync_soon(self._wake, idempotent=True)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        pass  # whether a member is gone is for those to say who talk with it

    def _wake(self) -> None:
        self.heard.set()


def _open_on(ips: Sequence[str]) -> Zeroconf:
    """Raises `OSError` for an address that is not this machine's, on which zeroconf would leave a socket open."""
    for ip in ips:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    return Zeroconf(interfaces=list(ips), ip_version=IPVersion.V4Only)


def _announce(zeroconf: Zeroconf, said: Announcement) -> None:
    tail = said.peer[-16:]
    properties = {
        "t": said.tag,
        "p": said.peer,
        "s": base64.urlsafe_b64encode(said.static).decode().rstrip("="),
        "d": str(said.data_port),
    }
    info = ServiceInfo(
        SERVICE,
        f"{tail}.{SERVICE}",
        port=said.control_port,
        properties=properties,
        server=f"weft-{tail}.local.",
        parsed_addresses=list(said.ips),
    )
    # The name is this node's alone, so there is nobody to ask for it, as a restarted node would have to ask itself.
    zeroconf.register_service(info, cooperating_responders=True)


def _ignore_other_links(zeroconf: Zeroconf) -> None:
    """Linux hands a socket the multicast of every link that any program of the machine has joined, unless told not to."""
    for reader in zeroconf.engine.readers:
        if hasattr(socket, "SO_BINDTODEVICE"):  # that is, on Linux
            reader.sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
