"""One request at its entry node: from words to tokens, over the mesh, and back to words.

The rule of the file: times are those of this node's clock, and a pause is what a reader feels, the time between the last
token before a stage was lost and the first one after.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

import trio

from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from inference.model.json_grammar import check_schema
from inference.model.text import Text
from inference.placement.claims import ClaimTable
from inference.sessions import events as e
from inference.sessions.completion import Completion
from inference.sessions.entry import Entry, SessionEvent
from inference.sessions.routing import Route, Score, find_replacement, find_route, unscored
from node import api
from node.likelihoods import Likelihoods
from protocols.errors import NoRoute, Unavailable, UserError
from protocols.hello import MINOR
from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.placement import Claim, LayerRange, ModelNote
from protocols.seams import Clock, Randomness
from protocols.session import LogitBias, Sampling


class Models(Protocol):
    """What is known of a model besides its weights."""

    async def text_of(self, model: ModelDigest, holders: tuple[PeerId, ...]) -> Text: ...
    async def config_of(self, model: ModelDigest, from_peers: tuple[PeerId, ...]) -> bytes: ...


Adopt = Callable[[Claim, ModelConfig], Claim | None]
"""What this node would claim in place of a claim whose holder is lost, if it has room for that range."""


MinorOf = Callable[[PeerId], int]
"""The protocol minor that a node says it speaks."""


def newest(_peer: PeerId) -> int:
    """Everybody speaks what this node does."""
    return MINOR


@dataclass(slots=True)
class Running:
    """A session under way, for `weft ps` and for the events it gives."""

    session: SessionId
    model: ModelNote
    route: tuple[api.Stage, ...]
    claims: tuple[Claim, ...]  # that the route was made of
    prompt_tokens: int
    began_s: float
    tokens: int = 0
    epoch: int = 0
    first_token_s: float | None = None
    last_token_s: float | None = None
    pending: list[e.Recovered] = field(default_factory=list)  # told once the next token ends their pause

    @property
    def tokens_per_s(self) -> float:
        """Of decoding: from the first token to the last."""
        if self.first_token_s is None or self.last_token_s is None or self.tokens < 2:
            return 0.0
        return (self.tokens - 1) / max(self.last_token_s - self.first_token_s, 1e-9)


class Generation:
    """All requests that enter at this node."""

    def __init__(
        self,
        own: PeerId,
        entry: Entry,
        claims: ClaimTable,
        models: Models,
        clock: Clock,
        randomness: Randomness,
        name_of: Callable[[PeerId], str],
        adopt: Adopt | None = None,
        score: Score = unscored,
        minor_of: MinorOf = newest,
        *,
        shares_prefix: bool = True,
    ) -> None:
        self._shares_prefix = shares_prefix
        self._adopt = adopt
        self._score = score
        self._minor_of = minor_of
        self.running: dict[SessionId, Running] = {}
        self._ended = trio.Event()
        self._is_draining = False
        self._own = own
        self._entry = entry
        self._claims = claims
        self._models = models
        self._clock = clock
        self._randomness = randomness
        self._name_of = name_of

    @asynccontextmanager
    async def generate(self, request: api.GenerateRequest) -> AsyncIterator[AsyncIterator[api.GenerateEvent]]:
        """See `node.api.NodeApi.generate`."""
        began_s = self._clock.monotonic()
        note = self._claims.lookup(request.model)
        claims = self._claims.claims(note.digest)
        text = await self._models.text_of(note.digest, tuple(claim.holder for claim in claims))
        config = await self._config(note)
        order = self._order(request, note, text, config)
        # What follows does not wait, so that neither a drain nor a lost claim comes in between.
        if self._is_draining:
            raise Unavailable("the node is going down: ask another, or start it again with 'weft up'.")
        route = self._route(note, self._drawing_claims(note, order.sampling), config)
        running = Running(
            order.session, note, self._stages(route.stages), route.stages, len(order.prompt), began_s
        )
        completion = Completion(text.stream(order.prompt), request.stop, frozenset(order.stop_ids))
        likelihoods = Likelihoods(text)
        self.running[order.session] = running
        try:
            async with (
                self._entry.generate(
                    order,
                    route.stages,
                    self._replacer(route.stages, note, order.sampling),
                    self._last_resort(route.stages, config),
                ) as events,
                aclosing(self._events(running, completion, likelihoods, events)) as told,
            ):
                yield told
        finally:
            # Last of all: a drain that ended while the stages are still told would cancel the answer that is ready.
            del self.running[order.session]
            self._ended.set()
            self._ended = trio.Event()

    async def drain(self) -> None:
        """Take no more requests; return when those under way have ended."""
        self._is_draining = True
        while self.running:
            await self._ended.wait()

    def _order(
        self, request: api.GenerateRequest, note: ModelNote, text: Text, config: ModelConfig
    ) -> e.Order:
        prompt = self._prompt(request, text)
        room = config.context - len(prompt)
        if room < 1:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and {note.name} takes {config.context} with its answer: shorten it."
            )
        tokens = room if request.max_tokens is None else min(request.max_tokens, room)
        seed = (
            int.from_bytes(self._randomness.token_bytes(7), "big") if request.seed is None else request.seed
        )
        sampling = sampling_of(request, seed, config.vocabulary)
        session = SessionId(self._randomness.token_bytes(16).hex())
        stop_ids = tuple(sorted({*text.eos_ids, *config.eos_ids}))
        rows_max = len(prompt) + tokens
        return e.Order(
            session,
            note.digest,
            prompt,
            rows_max,
            sampling,
            stop_ids,
            config.vocabulary,
            self._shares_prefix,
        )

    def _prompt(self, request: api.GenerateRequest, text: Text) -> tuple[int, ...]:
        if request.messages is None:
            assert request.prompt is not None
            prompt = tuple(text.encode(request.prompt))
        else:
            messages = [{"role": message.role, "content": message.content} for message in request.messages]
            prompt = tuple(text.encode_chat(messages))
        if not prompt:
            raise UserError("the prompt is empty: give at least one word.")
        return prompt

    async def _config(self, note: ModelNote) -> ModelConfig:
        holders = tuple(claim.holder for claim in self._claims.claims(note.digest))
        return parse_config(await self._models.config_of(note.digest, holders))

    def _route(self, note: ModelNote, claims: Sequence[Claim], config: ModelConfig) -> Route:
        try:
            return find_route(claims, note.digest, note.layers, self._own, score=self._score)
        except NoRoute as error:
            with suppress(NoRoute):
                adopted = self._adopted(note.digest, claims, config)
                return find_route((*claims, *adopted), note.digest, note.layers, self._own, score=self._score)
            raise NoRoute(
                f"{error}: start the nodes that held them ('weft status' lists members), or offer the model again."
            ) from error

    def _stages(self, claims: Sequence[Claim]) -> tuple[api.Stage, ...]:
        return tuple(
            api.Stage(str(claim.range), claim.holder, self._name_of(claim.holder)) for claim in claims
        )

    def _drawing_claims(self, note: ModelNote, sampling: Sampling) -> list[Claim]:
        """As `_fitting`. Raises `UserError` if nobody is left who draws tokens."""
        claims, fitting = self._claims.claims(note.digest), self._fitting(note, sampling)
        left_out = sorted({self._name_of(claim.holder) for claim in claims if claim not in fitting})
        if left_out and not any(claim.range.end == note.layers for claim in fitting):
            raise UserError(
                f"the tokens of {note.name} are drawn by {', '.join(left_out)}, of an earlier release: update it there, or "
                "ask for nothing but temperature, top_k, top_p and seed."
            )
        return fitting

    def _fitting(self, note: ModelNote, sampling: Sampling) -> list[Claim]:
        """Without those of earlier releases that draw tokens and could not draw as asked."""
        claims = self._claims.claims(note.digest)
        needed = sampling.minor
        return [
            claim
            for claim in claims
            if claim.range.end < note.layers or not needed or self._minor_of(claim.holder) >= needed
        ]

    def _replacer(self, route: Sequence[Claim], note: ModelNote, sampling: Sampling) -> e.Replace:
        lost_claims = {claim.range: claim for claim in route}

        def replace(layers: LayerRange, excluded: frozenset[PeerId]) -> PeerId | None:
            lost = lost_claims[layers]
            try:
                return find_replacement(self._fitting(note, sampling), lost, excluded, self._score).holder
            except NoRoute:
                return None

        return replace

    def _adopted(self, model: ModelDigest, claims: Sequence[Claim], config: ModelConfig) -> list[Claim]:
        """What this node would serve itself, of what only peers that are down held."""
        if self._adopt is None:
            return []
        live = {(claim.range, claim.dtype) for claim in claims}
        lost = {(claim.range, claim.dtype): claim for claim in self._claims.lost(model)}
        offered = (self._adopt(claim, config) for key, claim in lost.items() if key not in live)
        return [claim for claim in offered if claim is not None]

    def _last_resort(self, route: Sequence[Claim], config: ModelConfig) -> e.Replace:
        """This node itself, for a range that nobody else holds any more."""
        lost_claims = {claim.range: claim for claim in route}

        def adopt(layers: LayerRange, excluded: frozenset[PeerId]) -> PeerId | None:
            if self._adopt is None or self._own in excluded:
                return None
            return self._own if self._adopt(lost_claims[layers], config) else None

        return adopt

    async def _events(
        self,
        running: Running,
        completion: Completion,
        likelihoods: Likelihoods,
        events: AsyncIterator[SessionEvent],
    ) -> AsyncGenerator[api.GenerateEvent, None]:
        yield api.Started(running.session, running.model.digest, running.route, running.prompt_tokens)
        async for event in events:
            match event:
                case e.Recovered():
                    running.pending.append(event)
                    running.epoch = event.epoch
                case e.Emit(position, token, logprobs):
                    for rerouted in self._token_came(running):
                        yield rerouted
                    shown = completion.add(token)
                    likelihoods.add(position, token, logprobs)
                    yield api.Token(position, token, shown, likelihoods.take(completion.settled()))
                    if completion.has_stopped:
                        yield self._finished(running, completion, likelihoods, "stop")
                        return
                case e.Finish(reason):
                    is_full = reason == "length"
                    yield self._finished(running, completion, likelihoods, "length" if is_full else "stop")
                    return
                case e.Fail(error):
                    raise error
        raise Unavailable("the session ended without its last event: ask again.")

    def _token_came(self, running: Running) -> list[api.Rerouted]:
        now = self._clock.monotonic()
        before = running.last_token_s or running.began_s
        running.first_token_s = running.first_token_s or now
        running.last_token_s = now
        running.tokens += 1
        recovered, running.pending = running.pending, []
        return [self._rerouted(running, event, 1000 * (now - before)) for event in recovered]

    def _rerouted(self, running: Running, event: e.Recovered, pause_ms: float) -> api.Rerouted:
        return api.Rerouted(
            event.index, str(event.range), event.lost, self._name_of(event.lost), event.rebuilt_on,
            self._name_of(event.rebuilt_on), round(pause_ms, 1), event.replayed_rows, event.epoch,
            self._is_continued(running, event), event.reason,
        )  # fmt: skip

    def _is_continued(self, running: Running, event: e.Recovered) -> bool:
        """Whether the range went to another arithmetic, or to one that is not known any more."""
        before = _arithmetic(running.claims, running.claims[event.index].holder, event.range)
        claims = self._claims.claims(running.model.digest)
        return before != _arithmetic(claims, event.rebuilt_on, event.range)

    def _finished(
        self,
        running: Running,
        completion: Completion,
        likelihoods: Likelihoods,
        reason: Literal["stop", "length"],
    ) -> api.Finished:
        tail = completion.finish()
        first_s = running.first_token_s or self._clock.monotonic()
        ttft_ms = round(1000 * (first_s - running.began_s), 1)
        return api.Finished(
            reason,
            running.prompt_tokens,
            running.tokens,
            ttft_ms,
            round(running.tokens_per_s, 2),
            completion.text,
            tail,
            likelihoods.take(completion.settled()),
        )


def sampling_of(request: api.GenerateRequest, seed: int, vocabulary: int) -> Sampling:
    """Raises `UserError` for a bias of a token that the model does not have, and a schema that no answer can be held to."""
    if request.json_schema:
        check_schema(request.json_schema)
    biases = sorted(request.logit_bias.items())
    if biases and biases[-1][0] >= vocabulary:
        raise UserError(
            f"logit_bias names token {biases[-1][0]}, and the model has tokens 0 to {vocabulary - 1}: leave it out."
        )
    return Sampling(
        request.temperature, request.top_k, request.top_p, seed, request.min_p, request.repetition_penalty,
        request.frequency_penalty, request.presence_penalty,
        tuple(LogitBias(token, bias) for token, bias in biases if bias), request.logprobs, request.json_schema,
    )  # fmt: skip


def _arithmetic(claims: Sequence[Claim], holder: PeerId, layers: LayerRange) -> set[tuple[str, str]]:
    return {
        (claim.numerics, claim.numerics_class)
        for claim in claims
        if (claim.holder, claim.range) == (holder, layers)
    }
