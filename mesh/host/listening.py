"""Listening on TCP for one plane: own sockets, each accepted connection in a task that ends with its handshake.

py-libp2p's listener shares its port with whoever asks the kernel for it, so that two daemons on one port take each other's
connections without a word; and its swarm keeps a slot and a task for every connection ever accepted.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import trio
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from protocols.errors import UserError


async def bind(addresses: Sequence[str], option: str) -> list[trio.SocketListener]:
    """Listening sockets for multiaddrs such as /ip4/0.0.0.0/tcp/4001. Raises `UserError`, which names `option`."""
    listeners: list[trio.SocketListener] = []
    is_bound = False
    try:
        for address in addresses:
            listeners += await _bind_one(address, option)
        is_bound = True
    finally:
        if not is_bound:
            await close_all(listeners)
    return listeners


async def _bind_one(address: str, option: str) -> Sequence[trio.SocketListener]:
    host, port = _parse(address, option)
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        if _errno(error) == errno.EADDRINUSE:
            raise UserError(
                f"Port {port} on {host} is taken by another program: stop it, or choose another port with {option}."
            ) from error
        raise UserError(
            f"Cannot listen on {address} ({error.strerror or error}): change {option}."
        ) from error


def _errno(error: OSError) -> int | None:
    """trio raises one error for several sockets, with what the first of them said as its cause."""
    cause = error.__cause__
    while error.errno is None and cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, OSError):
            return cause.errno
        cause = cause.__cause__
    return error.errno


def _parse(address: str, option: str) -> tuple[str, int]:
    try:
        multiaddr = Multiaddr(address)
        port = int(multiaddr.value_for_protocol("tcp") or 0)
        first = next(iter(multiaddr.items()))
    except (MultiaddrError, ValueError, StopIteration) as error:
        raise UserError(
            f"{address!r} is no address to listen on: set {option} to one like /ip4/0.0.0.0/tcp/4001."
        ) from error
    protocol, host = first
    if protocol.name not in ("ip4", "ip6") or host is None:
        raise UserError(f"{address!r} names no IP address: set {option} to one like /ip4/0.0.0.0/tcp/4001.")
    return str(host), port


def bound_at(listeners: Sequence[trio.SocketListener]) -> tuple[str, ...]:
    """Multiaddrs with the ports that were taken; a wildcard stays one."""
    names = [listener.socket.getsockname()[:2] for listener in listeners]
    return tuple(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}" for host, port in names)


async def close_all(listeners: Sequence[trio.SocketListener]) -> None:
    with trio.move_on_after(1, shield=True):
        for listener in listeners:
            await listener.aclose()
