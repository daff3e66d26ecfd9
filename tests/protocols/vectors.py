"""One example of every message: as weft's struct, as the plain value that it means, and as the bytes of release 1.0.

The bytes stand in tests/vectors/wire-1.0.txt and never change: a later minor adds a file of its own, and must still read and
write these. They were made from the plain values by the `msgpack` package, not by weft's encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from protocols.hello import Hello
from protocols.ids import ModelDigest, NetworkId, PeerId, SessionId, TensorDigest
from protocols.liveness import WATCH_CODEC, Ping, Pong
from protocols.membership import (
    JOIN_CODEC,
    MEMBERS_CODEC,
    Contact,
    Invite,
    JoinAccepted,
    JoinRefused,
    JoinRequest,
    Renew,
    Renewed,
    Revoked,
    Whereabouts,
    WhereIs,
)  # fmt: skip
from protocols.messages import Codec
from protocols.placement import (
    PLACEMENT_CODEC,
    Capacity,
    Claim,
    Declined,
    Granted,
    LayerRange,
    LayerShape,
    LoadFailed,
    LoadProgress,
    Offer,
    Release,
    StandbyKind,
    Survey,
)  # fmt: skip
from protocols.session import (
    CREDIT_CODEC,
    SESSION_CODEC,
    CloseStage,
    Credit,
    Downstream,
    LogitBias,
    OpenStage,
    Progress,
    Reroute,
    Rerouted,
    Sampled,
    Sampling,
    StageOpened,
    StageRefused,
    StageTrouble,
)  # fmt: skip
from protocols.weights import WEIGHTS_CODEC, Coming, FetchBlob, FetchManifest, Missing

FILE: Final = Path(__file__).parent.parent / "vectors" / "wire-1.0.txt"
HEX: Final = dict(line.split() for line in FILE.read_text().splitlines()) if FILE.exists() else {}
GROWN_HEX: Final = {
    minor: dict(line.split() for line in FILE.with_name(f"wire-1.{minor}.txt").read_text().splitlines())
    for minor in (1, 2, 3)
}

ADA, BOB = PeerId("12D3KooW" + "a" * 32), PeerId("12D3KooW" + "b" * 32)
NETWORK = NetworkId("5eed" * 8)
SESSION = SessionId("0123456789abcdef" * 2)
MODEL, BLOB = ModelDigest("ab" * 32), TensorDigest("cd" * 32)
STATIC, SECRET = b"\x11" * 32, b"\x22" * 16
CONTROL, DATA = "/ip4/10.0.0.1/tcp/4001", "/ip4/10.0.0.1/tcp/4002"

CONTACT = Contact(ADA, STATIC, (CONTROL,), (DATA,), 1_800_000_000_000, "ada")
CONTACT_MEANS = [ADA, STATIC, [CONTROL], [DATA], 1_800_000_000_000, "ada"]
CLAIM = Claim(ADA, MODEL, LayerRange(4, 8), True, "bf16", "exact", "cpu-avx512", 0.75, 3, 2)
CLAIM_MEANS = [ADA, MODEL, [4, 8], True, "bf16", "exact", "cpu-avx512", 0.75, 3, 2]
OPEN = OpenStage(SESSION, 1, MODEL, LayerRange(4, 8), 2, None, 17, 256, Sampling(0.5, 40, 0.9, 7), (2, 3), 16)
BLOCKS = (b"\x33" * 32, b"\x44" * 32)
OPEN_MEANS = ["open", SESSION, 1, MODEL, [4, 8], 2, None, 17, 256, [0.5, 40, 0.9, 7], [2, 3], 16]


@dataclass(frozen=True)
class Vector:
    name: str
    codec: Codec[Any]
    message: Any
    means: Any

    @property
    def hex(self) -> str:
        return HEX[self.name]


@dataclass(frozen=True)
class Grown(Vector):
    """A message that has grown at its end, or is new, since release 1.0; the bytes of minor 1 stand in tests/vectors/wire-1.1.txt,
    and so on."""

    minor: int = 1

    @property
    def hex(self) -> str:
        return GROWN_HEX[self.minor][self.name]


VECTORS: Final = (
    Vector("hello", Codec(Hello), Hello(1, 0, NETWORK, ("x",)), [1, 0, NETWORK, ["x"]]),
    Vector(
        "invite", Codec(Invite), Invite(NETWORK, CONTACT, SECRET, 3, 1_800_000_000),
        [NETWORK, CONTACT_MEANS, SECRET, 3, 1_800_000_000],
    ),
    Vector("join.join", JOIN_CODEC, JoinRequest(SECRET, CONTACT), ["join", SECRET, CONTACT_MEANS]),
    Vector("join.accepted", JOIN_CODEC, JoinAccepted((CONTACT,)), ["accepted", [CONTACT_MEANS]]),
    Vector("join.refused", JOIN_CODEC, JoinRefused("spent"), ["refused", "spent"]),
    Vector("ping.ping", WATCH_CODEC, Ping(7), ["ping", 7]),
    Vector("ping.pong", WATCH_CODEC, Pong(1 << 40), ["pong", 1 << 40]),
    Vector(
        "placement.survey", PLACEMENT_CODEC, Survey(MODEL, LayerShape(768, 2048, 12, 4, 64, "bf16")),
        ["survey", MODEL, [768, 2048, 12, 4, 64, "bf16"]],
    ),
    Vector(
        "placement.capacity", PLACEMENT_CODEC, Capacity(1.5, 1 << 33, 12, True), ["capacity", 1.5, 1 << 33, 12, True]
    ),
    Vector(
        "placement.offer", PLACEMENT_CODEC,
        Offer(3, ADA, MODEL, LayerRange(0, 4), False, "f32", "fast", 1 << 20, 120.0, (ADA, BOB)),
        ["offer", 3, ADA, MODEL, [0, 4], False, "f32", "fast", 1 << 20, 120.0, [ADA, BOB]],
    ),
    Vector("placement.granted", PLACEMENT_CODEC, Granted(3), ["granted", 3]),
    Vector("placement.declined", PLACEMENT_CODEC, Declined("too big", 4, 2), ["declined", "too big", 4, 2]),
    Vector(
        "placement.progress", PLACEMENT_CODEC, LoadProgress("fetching", 1000, 70_000),
        ["progress", "fetching", 1000, 70_000],
    ),
    Vector("placement.claim", PLACEMENT_CODEC, CLAIM, ["claim", *CLAIM_MEANS]),
    Vector("placement.failed", PLACEMENT_CODEC, LoadFailed("no memory"), ["failed", "no memory"]),
    Vector(
        "placement.release", PLACEMENT_CODEC, Release(3, MODEL, LayerRange(4, 8)), ["release", 3, MODEL, [4, 8]]
    ),
    Vector("session.open", SESSION_CODEC, OPEN, OPEN_MEANS),
    Vector("session.opened", SESSION_CODEC, StageOpened(1), ["opened", 1]),
    Vector("session.refused", SESSION_CODEC, StageRefused("not held"), ["refused", "not held"]),
    Vector(
        "session.reroute", SESSION_CODEC, Reroute(2, 19, Downstream(BOB, 3), True),
        ["reroute", 2, 19, [BOB, 3], True],
    ),
    Vector("session.rerouted", SESSION_CODEC, Rerouted(2, 19, True), ["rerouted", 2, 19, True]),
    Vector(
        "session.progress", SESSION_CODEC, Progress(2, 19, 44, True, 8.25, 128),
        ["progress", 2, 19, 44, True, 8.25, 128],
    ),
    Vector("session.sampled", SESSION_CODEC, Sampled(2, 20, 511, True), ["sampled", 2, 20, 511, True]),
    Vector(
        "session.trouble", SESSION_CODEC, StageTrouble(2, "worker died", True), ["trouble", 2, "worker died", True]
    ),
    Vector("session.close", SESSION_CODEC, CloseStage(), ["close"]),
    Vector("credit", CREDIT_CODEC, Credit(SESSION, 3, 2, 8), [SESSION, 3, 2, 8]),
    Vector("weights.manifest", WEIGHTS_CODEC, FetchManifest(MODEL), ["manifest", MODEL]),
    Vector("weights.blob", WEIGHTS_CODEC, FetchBlob(MODEL, BLOB, 4096), ["blob", MODEL, BLOB, 4096]),
    Vector("weights.coming", WEIGHTS_CODEC, Coming(1 << 32), ["coming", 1 << 32]),
    Vector("weights.missing", WEIGHTS_CODEC, Missing(), ["missing"]),
)  # fmt: skip

GROWN_SAMPLING = Sampling(
    0.5, 40, 0.9, 7, 0.25, 1.5, -0.5, 0.75, (LogitBias(5, -100.0), LogitBias(6, 2.0)), 20, '{"type":"object"}'
)
GROWN_SAMPLING_MEANS = [
    0.5, 40, 0.9, 7, 0.25, 1.5, -0.5, 0.75, [[5, -100.0], [6, 2.0]], 20, '{"type":"object"}',
]  # fmt: skip
LOGPROBS = bytes.fromhex("0000c0bfff010000000000bf070000000000c0bf")  # -1.5; 511: -0.5, 7: -1.5
MAPPED = msgspec.structs.replace(CLAIM, kind=StandbyKind.MAPPED)
GROWN: Final = (
    Grown(
        "placement.capacity", PLACEMENT_CODEC, Capacity(1.5, 1 << 33, 12, True, (LayerRange(4, 8),), 1 << 20, 6, 1 << 40),
        ["capacity", 1.5, 1 << 33, 12, True, [[4, 8]], 1 << 20, 6, 1 << 40],
    ),
    Grown(
        "placement.offer", PLACEMENT_CODEC,
        Offer(
            3, ADA, MODEL, LayerRange(0, 4), True, "f32", "fast", 1 << 20, 120.0, (ADA, BOB), StandbyKind.MAPPED
        ),
        ["offer", 3, ADA, MODEL, [0, 4], True, "f32", "fast", 1 << 20, 120.0, [ADA, BOB], "mapped"],
    ),
    Grown(
        "placement.release", PLACEMENT_CODEC, Release(3, MODEL, LayerRange(4, 8), True),
        ["release", 3, MODEL, [4, 8], True],
    ),
    Grown(
        "placement.declined", PLACEMENT_CODEC, Declined("a rival", 4, 2, BOB), ["declined", "a rival", 4, 2, BOB]
    ),
    Grown("placement.claim", PLACEMENT_CODEC, MAPPED, ["claim", *CLAIM_MEANS, "mapped"]),
    Grown(
        "session.open", SESSION_CODEC, msgspec.structs.replace(OPEN, sampling=GROWN_SAMPLING, stages=3),
        [*OPEN_MEANS[:9], GROWN_SAMPLING_MEANS, *OPEN_MEANS[10:], 3],
    ),
    Grown(
        "session.sampled", SESSION_CODEC, Sampled(2, 20, 511, True, LOGPROBS),
        ["sampled", 2, 20, 511, True, LOGPROBS],
    ),
    Grown("join.accepted", JOIN_CODEC, JoinAccepted((CONTACT,), b"chain"), ["accepted", [CONTACT_MEANS], b"chain"]),
    Grown("members.revoked", MEMBERS_CODEC, Revoked(b"list"), ["revoked", b"list"]),
    Grown("members.renew", MEMBERS_CODEC, Renew(), ["renew"]),
    Grown("members.renewed", MEMBERS_CODEC, Renewed(b"chain"), ["renewed", b"chain"]),
    Grown("members.where", MEMBERS_CODEC, WhereIs(BOB), ["where is", BOB]),
    Grown("members.whereabouts", MEMBERS_CODEC, Whereabouts(CONTACT), ["whereabouts", CONTACT_MEANS]),
    Grown(
        "session.open", SESSION_CODEC,
        msgspec.structs.replace(OPEN, sampling=GROWN_SAMPLING, stages=3, prefix=BLOCKS),
        [*OPEN_MEANS[:9], GROWN_SAMPLING_MEANS, *OPEN_MEANS[10:], 3, list(BLOCKS)], 2,
    ),
    Grown("session.opened", SESSION_CODEC, StageOpened(1, 256), ["opened", 1, 256], 2),
    Grown(
        "placement.capacity", PLACEMENT_CODEC,
        Capacity(1.5, 1 << 33, 12, True, (LayerRange(4, 8),), 1 << 20, 6, 1 << 40, 132),
        ["capacity", 1.5, 1 << 33, 12, True, [[4, 8]], 1 << 20, 6, 1 << 40, 132], 3,
    ),
)  # fmt: skip
