"""What each method of the control socket takes, does and gives back.

The rule of the file: parameters are checked by a struct, work is the node's, results are JSON objects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from node.api import Finished, GenerateRequest, Goal, Offered
from node.lifecycle import Lifecycle
from protocols import limits
from protocols.control import ControlError
from protocols.errors import LocalFault, Refused, TimedOut, Unavailable, WeftError
from protocols.exit_codes import ExitCode

Emit = Callable[[dict[str, Any]], Awaitable[None]]

_DAY_S: Final = 86_400.0


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class InviteParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uses: Annotated[int, msgspec.Meta(ge=1, le=limits.INVITE_USES_MAX)] = 1
    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=365 * _DAY_S)] = _DAY_S


class PeerParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peer: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class OfferParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    on: Annotated[tuple[str, ...], msgspec.Meta(max_length=limits.MEMBERS_MAX)] = ()
    goal: Goal = Goal()


class WhyPeerParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peer: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class PingParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    count: Annotated[int, msgspec.Meta(ge=1, le=limits.FOREIGN_PINGS_MAX)] = 4


class PlanParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    on: Annotated[tuple[str, ...], msgspec.Meta(max_length=limits.MEMBERS_MAX)] = ()
    goal: Goal = Goal()


class WithdrawParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


async def _status(lifecycle: Lifecycle, params: NoParams, emit: Emit) -> dict[str, Any]:
    return lifecycle.status()


async def _version(lifecycle: Lifecycle, params: NoParams, emit: Emit) -> dict[str, Any]:
    return {"version": lifecycle.version}


async def _down(lifecycle: Lifecycle, params: NoParams, emit: Emit) -> dict[str, Any]:
    lifecycle.stop()
    return {"state": lifecycle.state.value}


async def _invite(lifecycle: Lifecycle, params: InviteParams, emit: Emit) -> dict[str, Any]:
    invite = await lifecycle.api.invite(params.uses, params.ttl_s)
    return {"invite": invite, "uses": params.uses, "ttl_s": params.ttl_s}


async def _revoke(lifecycle: Lifecycle, params: PeerParams, emit: Emit) -> dict[str, Any]:
    return _object(await lifecycle.api.revoke(params.peer))


async def _models(lifecycle: Lifecycle, params: NoParams, emit: Emit) -> dict[str, Any]:
    return {"models": msgspec.to_builtins(lifecycle.api.models())}


async def _ps(lifecycle: Lifecycle, params: NoParams, emit: Emit) -> dict[str, Any]:
    return {"sessions": msgspec.to_builtins(lifecycle.api.sessions())}


async def _memory(lifecycle: Lifecycle, params: NoParams, emit: Emit) -> dict[str, Any]:
    return _object(lifecycle.api.memory())


async def _peers(lifecycle: Lifecycle, params: NoParams, emit: Emit) -> dict[str, Any]:
    return {"peers": msgspec.to_builtins(lifecycle.api.peers())}


async def _why_peer(lifecycle: Lifecycle, params: WhyPeerParams, emit: Emit) -> dict[str, Any]:
    return _object(lifecycle.api.why_peer(params.peer))


async def _ping(lifecycle: Lifecycle, params: PingParams, emit: Emit) -> dict[str, Any]:
    return _object(await lifecycle.api.ping(params.address, params.count))


async def _plan(lifecycle: Lifecycle, params: PlanParams, emit: Emit) -> dict[str, Any]:
    return _object(await lifecycle.api.plan(params.model, params.on, params.goal))


async def _withdraw(lifecycle: Lifecycle, params: WithdrawParams, emit: Emit) -> dict[str, Any]:
    return _object(await lifecycle.api.withdraw(params.model))


async def _offer(lifecycle: Lifecycle, params: OfferParams, emit: Emit) -> dict[str, Any]:
    async with lifecycle.api.offer(params.path, params.name, params.on, params.goal) as events:
        async for event in events:
            if isinstance(event, Offered):
                return _object(event)
            await emit(_object(event))
    raise LocalFault("the offer ended without a plan")


async def _run(lifecycle: Lifecycle, params: GenerateRequest, emit: Emit) -> dict[str, Any]:
    async with lifecycle.api.generate(params) as events:
        async for event in events:
            if isinstance(event, Finished):
                return _object(event)
            await emit(_object(event))
    raise LocalFault("the generation ended without its last event")


def _object(struct: msgspec.Struct) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(struct)
    return built


@dataclass(frozen=True, slots=True)
class Method:
    """`params` is the struct that its parameters must convert to."""

    params: type[msgspec.Struct]
    call: Callable[[Lifecycle, Any, Emit], Awaitable[dict[str, Any]]]


METHODS: Final = {
    "status": Method(NoParams, _status),
    "version": Method(NoParams, _version),
    "down": Method(NoParams, _down),
    "invite": Method(InviteParams, _invite),
    "revoke": Method(PeerParams, _revoke),
    "models": Method(NoParams, _models),
    "ps": Method(NoParams, _ps),
    "memory": Method(NoParams, _memory),
    "peers": Method(NoParams, _peers),
    "why_peer": Method(WhyPeerParams, _why_peer),
    "ping": Method(PingParams, _ping),
    "plan": Method(PlanParams, _plan),
    "offer": Method(OfferParams, _offer),
    "withdraw": Method(WithdrawParams, _withdraw),
    "run": Method(GenerateRequest, _run),
}


def describe(error: WeftError) -> ControlError:
    """The error as the client gets it, with what its process should exit with."""
    match error:
        case Refused():
            code = ExitCode.REFUSED
        case TimedOut():
            code = ExitCode.TIMED_OUT
        case _:
            code = ExitCode.FAILED
    return ControlError(str(error) or type(error).__name__, code)


CANCELLED: Final = ControlError("cancelled", ExitCode.INTERRUPTED)
GOING_DOWN: Final = describe(Unavailable("The node is going down: start it again with 'weft up'."))
