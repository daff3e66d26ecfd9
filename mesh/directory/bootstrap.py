"""Bootstrap addresses and other hints: where a peer may be, on nobody's word.

A bootstrap entry is one line of the configuration, in one of two forms; so is every TXT record of a dnsaddr name:

    /ip4/192.0.2.1/tcp/4747/p2p/12D3KooW...#static=BASE64URL     one peer's control address
    /dnsaddr/bootstrap.example.org                               all that the TXT records of _dnsaddr.<name> give

XK needs the static of whoever is dialled. Behind `#` it stands unpadded, 43 letters; without it the entry is an address more
for a peer whose static is known from an invite or the address book, and is of no use for others. `/p2p/ID` behind a dnsaddr
name leaves those of that peer alone.

A hint is never believed: the handshake proves who is there, so a wrong one costs a dial. It adds addresses behind those that a
peer signed itself and replaces none; a static that was learnt from the peer's own record is never changed by a hint.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from protocols import limits
from protocols.addresses import parse_address
from protocols.errors import Malformed, Unavailable
from protocols.ids import PeerId
from protocols.membership import Contact

PEER_PATTERN: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,64}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_ENTRY_LENGTH_MAX: Final = 400
_TXT_PREFIX: Final = "dnsaddr="


class Names(Protocol):
    """Questions to the DNS, answered within `DNS_S`."""

    async def texts(self, name: str) -> tuple[str, ...]:
        """TXT records, `DNS_ANSWERS_MAX` of them at most. Raises `Unavailable`."""


@dataclass(frozen=True, slots=True)
class Hint:
    """`control` and `data` are multiaddrs of TCP; `static` None where nobody said it."""

    peer: PeerId
    control: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    static: bytes | None = None


@dataclass(frozen=True, slots=True)
class DnsName:
    """A dnsaddr entry; `peer` if only that one is meant."""

    name: str
    peer: PeerId | None = None


def parse_entry(text: str) -> Hint | DnsName:
    """Raises `Malformed`."""
    path, _, fragment = text.strip().partition("#")
    if len(text) > _ENTRY_LENGTH_MAX:
        raise Malformed(f"a bootstrap address of {len(text)} letters")
    head, has_peer, peer = path.partition("/p2p/")
    if has_peer and PEER_PATTERN.fullmatch(peer) is None:
        raise Malformed(f"{peer!r} is no peer id")
    if head.startswith("/dnsaddr/"):
        name = head.removeprefix("/dnsaddr/")
        if _NAME.fullmatch(name) is None or len(name) > 240 or fragment:
            raise Malformed(f"{text!r} is no dnsaddr name")
        return DnsName(name, PeerId(peer) if has_peer else None)
    if not has_peer:
        raise Malformed(f"{text!r} names no peer: it has to end in /p2p/ and the peer id")
    return Hint(PeerId(peer), (str(parse_address(head)),), (), _parse_static(fragment))


def _parse_static(fragment: str) -> bytes | None:
    if not fragment:
        return None
    key, _, value = fragment.partition("=")
    try:
        static = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"{fragment!r} is no static key") from error
    if key != "static" or len(static) != 32:
        raise Malformed(f"{fragment!r} is no static key: expected is static= and 43 letters")
    return static


def entry_text(peer: PeerId, address: str, static: bytes | None) -> str:
    """The line that an operator puts into a configuration or a TXT record, here without its "dnsaddr="."""
    fragment = "" if static is None else "#static=" + base64.urlsafe_b64encode(static).decode().rstrip("=")
    return f"{address}/p2p/{peer}{fragment}"


async def resolve_entries(entries: Iterable[str], names: Names) -> tuple[Hint, ...]:
    """All hints behind entries that were checked, one per peer, in order; what does not answer or parse is left out."""
    hints: dict[PeerId, Hint] = {}
    asked: set[str] = set()
    for entry in entries:
        for hint in await _resolve(parse_entry(entry), names, asked, limits.DNS_DEPTH_MAX):
            if hint.peer in hints or len(hints) < limits.BOOTSTRAP_MAX:
                hints[hint.peer] = _joined(hints.get(hint.peer), hint)
    return tuple(hints.values())


async def _resolve(entry: Hint | DnsName, names: Names, asked: set[str], depth: int) -> list[Hint]:
    if isinstance(entry, Hint):
        return [entry]
    name = entry.name.lower().rstrip(".")
    if depth == 0 or name in asked or len(asked) >= limits.BOOTSTRAP_MAX:
        return []
    asked.add(name)
    try:
        texts = await names.texts(f"_dnsaddr.{name}")
    except Unavailable:
        return []
    found: list[Hint] = []
    for text in texts[: limits.DNS_ANSWERS_MAX]:
        if not text.startswith(_TXT_PREFIX):
            continue
        try:
            behind = parse_entry(text.removeprefix(_TXT_PREFIX))
        except Malformed:
            continue  # for others: dnsaddr names are shared with peers that speak QUIC or WebSockets
        found += await _resolve(behind, names, asked, depth - 1)
    return [hint for hint in found if entry.peer in (None, hint.peer)]


def _joined(first: Hint | None, second: Hint) -> Hint:
    if first is None:
        return second
    return Hint(
        first.peer,
        _union(first.control, second.control),
        _union(first.data, second.data),
        second.static if first.static is None else first.static,
    )


def _union(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))[: limits.ADDRESSES_MAX]


def take_hint(hint: Hint, known: Contact | None, *, is_wanted: bool) -> Contact | None:
    """What `Network.learn` should be told, or None if the hint brings nothing new or is not for this node.

    A hint for a peer that is not known counts only if `is_wanted`, because this node is joining or is alone, and if it comes with
    a static. One for a known peer adds its addresses behind the signed ones, in room that those leave.
    """
    if known is None:
        if not is_wanted or hint.static is None or not hint.control:
            return None
        return Contact(hint.peer, hint.static, hint.control, hint.data)
    control, data = _union(known.control, hint.control), _union(known.data, hint.data)
    if (control, data) == (known.control, known.data):
        return None
    return msgspec.structs.replace(known, control=control, data=data)
