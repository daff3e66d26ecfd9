"""One session over a chain of stages: the entry node talks to each stage on a stream of its own.

    entry                                        stage
      | OpenStage (epoch, range, neighbours) -->   |
      | <------------------------- StageOpened     |
      |       activations arrive on the data plane |
      | <---- Progress every 250 ms, Sampled (last stage), StageTrouble
      | Reroute (epoch + 1, resume_at) ------->    |   after a stage was lost
      | <---------------------------- Rerouted     |
      | CloseStage --------------------------->    |   idempotent; the stream's end means the same

Positions count rows: the prompt's tokens are 0 to P-1, and the token sampled from row p has position p + 1. Frames of an
older epoch change nothing.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from protocols import limits
from protocols.ids import SessionId
from protocols.logprobs import LOGPROBS_BYTES_MAX
from protocols.membership import PeerIdText
from protocols.messages import Codec
from protocols.placement import Count, Digest, LayerRange, Reason

Session = Annotated[SessionId, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Epoch = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
StageIndex = Annotated[int, msgspec.Meta(ge=0, lt=limits.STAGES_MAX)]
BlockName = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class LogitBias(msgspec.Struct, frozen=True, array_like=True):
    """Added to the logit of one token."""

    token: TokenId
    bias: Annotated[float, msgspec.Meta(ge=-100, le=100)]


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """How the last stage draws tokens. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off.

    The draw is counter-based: keyed by seed, position and token id alone, so that a retry draws the same token. Logits are
    changed in this order: `logit_bias`; `repetition_penalty` (1 is off) of every token in the prompt or the answer, as
    transformers has it; `frequency_penalty` for each time and `presence_penalty` for the first time that a token is in the
    answer, as OpenAI has them; `grammar`, a JSON schema that the answer must fit, if it is not empty. Then the filters.
    `logprobs`: null for none, else how many of the likeliest come with each token.
    """

    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.01, le=100)] = 1.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[tuple[LogitBias, ...], msgspec.Meta(max_length=limits.LOGIT_BIASES_MAX)] = ()
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=limits.LOGPROBS_MAX)] | None = None
    grammar: Annotated[str, msgspec.Meta(max_length=limits.GRAMMAR_BYTES_MAX)] = ""

    @property
    def penalises(self) -> bool:
        """Whether a token's chance depends on which came before."""
        return self.repetition_penalty != 1 or bool(self.frequency_penalty or self.presence_penalty)

    @property
    def minor(self) -> int:
        """The protocol minor that a last stage must speak for it: one of an earlier minor would pass over what it can't read."""
        grown = self.__struct_fields__[_FIELDS_OF_MINOR_0:]
        plain = Sampling()
        return 1 if any(getattr(self, name) != getattr(plain, name) for name in grown) else 0


_FIELDS_OF_MINOR_0: Final = 4


class Downstream(msgspec.Struct, frozen=True, array_like=True):
    """Where a stage sends its output rows."""

    peer: PeerIdText
    stage: StageIndex


class OpenStage(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """Serve `range` for this session. `downstream` is null at the last stage, which then has `sampling`.

    `rows_max` rows of KV are reserved. `forward_from`: outputs of rows before this position are not sent on, because
    the stage behind has them (a standby that is being rebuilt). `prompt_rows` fixes where row-wise attention begins;
    `stages` is how many the route has. `prefix` names the whole blocks of the prompt, for what earlier sessions of this entry
    have left at the stage and what this one leaves (inference/sessions/prefix.py).
    """

    session: Session
    epoch: Epoch
    model: Digest
    range: LayerRange
    stage: StageIndex
    downstream: Downstream | None
    prompt_rows: Annotated[int, msgspec.Meta(ge=1)]
    rows_max: Annotated[int, msgspec.Meta(ge=1)]
    sampling: Sampling | None = None
    stop_ids: Annotated[tuple[TokenId, ...], msgspec.Meta(max_length=limits.STOP_IDS_MAX)] = ()
    forward_from: Count = 0
    stages: Annotated[int, msgspec.Meta(ge=1, le=limits.STAGES_MAX)] = 1
    prefix: Annotated[tuple[BlockName, ...], msgspec.Meta(max_length=limits.PREFIX_BLOCKS_MAX)] = ()


class StageOpened(msgspec.Struct, frozen=True, array_like=True, tag="opened"):
    """`rows` of the prompt are there already. The first frame that comes says how many of them the session goes by."""

    epoch: Epoch
    rows: Count = 0


class StageRefused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    reason: Reason


class Reroute(msgspec.Struct, frozen=True, array_like=True, tag="reroute"):
    """Enter `epoch`: keep `resume_at` rows, send to `downstream` from now on, and if `replay`, first send it the
    journalled rows 0 to `resume_at` - 1."""

    epoch: Epoch
    resume_at: Count
    downstream: Downstream | None
    replay: bool = False


class Rerouted(msgspec.Struct, frozen=True, array_like=True, tag="rerouted"):
    """`complete` is false if the journal no longer reaches back to row 0: the entry then replays from tokens."""

    epoch: Epoch
    replayed_rows: Count
    complete: bool


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """`rows` are in the cache; `work` counts layers computed and rises while the worker advances; `busy` while it owes
    a result; `step_ms` is the last finished step and `step_rows` its rows, those of other sessions in it included."""

    epoch: Epoch
    rows: Count
    work: Count
    busy: bool
    step_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    step_rows: Count = 0


class Sampled(msgspec.Struct, frozen=True, array_like=True, tag="sampled"):
    """The last stage drew `token` for `position`; `ends` if it is a stop id or fills `rows_max`.

    `logprobs` as protocols/logprobs.py has them, if they were asked for.
    """

    epoch: Epoch
    position: Count
    token: TokenId
    ends: bool = False
    logprobs: Annotated[bytes, msgspec.Meta(max_length=LOGPROBS_BYTES_MAX)] = b""


class StageTrouble(msgspec.Struct, frozen=True, array_like=True, tag="trouble"):
    """This stage can't go on: its worker died, or `downstream` (then `blames_downstream`) is out of reach."""

    epoch: Epoch
    reason: Reason
    blames_downstream: bool = False


class CloseStage(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    """Free everything of the session; idempotent."""


SessionMessage = (
    OpenStage
    | StageOpened
    | StageRefused
    | Reroute
    | Rerouted
    | Progress
    | Sampled
    | StageTrouble
    | CloseStage
)
SESSION_CODEC: Final[Codec[SessionMessage]] = Codec(SessionMessage)


class Credit(msgspec.Struct, frozen=True, array_like=True):
    """On the way back of an activation stream: `frames` more may be sent to that stage of that session."""

    session: Session
    stage: StageIndex
    epoch: Epoch
    frames: Annotated[int, msgspec.Meta(ge=1, le=1024)]


CREDIT_CODEC: Final[Codec[Credit]] = Codec(Credit)
