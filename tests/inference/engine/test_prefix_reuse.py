"""A session that takes over rows of an earlier prompt says, bit for bit, what it would say without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine.engine import ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.model.precision import KV_KINDS
from protocols.errors import Overloaded
from protocols.ids import PeerId, SessionId
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.placement import LayerRange
from protocols.seams import CacheSpec
from protocols.session import Sampling
from protocols.tensor import Kind
from tests.inference.engine.checkpoints import (
    FAMILY_CHANGES,
    MIB,
    Checkpoint,
    frame,
    kv_rows,
    save_checkpoint,
)

ADA, BOB = PeerId("ada"), PeerId("bob")
ONE, TWO = ((SessionId(f"{number:032x}"), 0) for number in (1, 2))
PROMPT = [(7 * at + at * at) % 97 for at in range(2 * CHUNK + 60)]


def names(tokens: list[int]) -> tuple[bytes, ...]:
    """Each stands for all tokens up to the end of its block."""
    return tuple(bytes(tokens[: end * CHUNK]) for end in range(1, len(tokens) // CHUNK + 1))


def asked(
    tokens: list[int], peer: PeerId = ADA, rows: int = 8, sampling: Sampling | None = None
) -> CacheSpec:
    return CacheSpec(len(tokens), len(tokens) + rows, sampling or Sampling(), peer, prefix=names(tokens))


Bits = tuple[list[int], list[torch.Tensor]]


def say(
    engines: list[ShardEngine], key: tuple[SessionId, int], tokens: list[int], spec: CacheSpec
) -> tuple[int, Bits]:
    """Run a session to its end: the row that it began at, all tokens, and all rows of its caches."""
    for engine in engines:
        engine.open_cache(key, spec)
    began = at = min(engine.rows(key) for engine in engines)
    log, drawn = list(tokens), None
    while at < spec.rows_max:
        end = min(at + CHUNK, len(tokens)) if at < len(tokens) else at + 1
        body: Any = b""
        for engine in engines:
            body, drawn = engine.step(key, frame(engine, at, log[at:end], body, session=key[0]))
        at = end
        if at >= len(tokens):
            assert drawn is not None
            log.append(drawn)
    rows = [part for engine in engines for part in kv_rows(engine, spec.rows_max, key)]
    for engine in engines:
        engine.close_cache(key)
    return began, (log, rows)


def assert_same(found: Bits, expected: Bits) -> None:
    assert found[0] == expected[0]
    assert all(torch.equal(a, b) for a, b in zip(found[1], expected[1], strict=True))


def chain(checkpoint: Checkpoint, dtype: str = "bf16", kv: str = "model", cut: int = 1) -> list[ShardEngine]:
    layers = checkpoint.config.layers
    ranges = (LayerRange(0, cut), LayerRange(cut, layers))
    return [checkpoint.engine(each, dtype, kv=kv) for each in ranges]


@pytest.mark.parametrize(
    ("family", "dtype", "kv"),
    [
        *((family, "bf16", "model") for family in FAMILY_CHANGES),
        ("llama", "f32", "model"),
        ("llama", "int8", "model"),
        ("llama", "bf16", "int8"),
        ("gemma2", "f32", "int8"),
    ],
)
def test_a_second_session_with_the_same_beginning_has_the_bits_of_one_that_computes_it_all(
    tmp_path: Path, family: str, dtype: str, kv: str
) -> None:
    checkpoint = save_checkpoint(tmp_path, family)
    engines = chain(checkpoint, dtype, kv)
    longer = [*PROMPT[: 2 * CHUNK + 3], *range(70)]
    say(engines, ONE, PROMPT, asked(PROMPT))
    began, bits = say(engines, TWO, longer, asked(longer, rows=30))
    assert began == 2 * CHUNK
    assert_same(bits, say(chain(checkpoint, dtype, kv), TWO, longer, asked(longer, rows=30))[1])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_however_much_two_prompts_have_in_common(tmp_path: Path, data: st.DataObject) -> None:
    checkpoint = save_checkpoint(tmp_path, hidden_size=96, num_attention_heads=6)
    alike, rest, last = (data.draw(st.integers(0, 240), name) for name in ("alike", "rest", "last"))
    first = (PROMPT + PROMPT)[: max(1, alike + rest)]
    second = [*first[:alike], *(96 - token for token in PROMPT[: last + 1])]
    sampling = Sampling(temperature=1.0, seed=4, repetition_penalty=1.3, frequency_penalty=0.5)
    engines = chain(checkpoint)
    say(engines, ONE, first, asked(first))
    began, bits = say(engines, TWO, second, asked(second, sampling=sampling))
    common = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    assert began == min(common, len(second) - 1) // CHUNK * CHUNK
    assert_same(bits, say(chain(checkpoint), TWO, second, asked(second, sampling=sampling))[1])


def test_rows_are_taken_over_while_the_earlier_session_still_runs(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path)
    (engine,) = engines = [checkpoint.engine()]
    engine.open_cache(ONE, asked(PROMPT))
    engine.step(ONE, frame(engine, 0, PROMPT[:CHUNK], session=ONE[0]))
    began, bits = say(engines, TWO, PROMPT, asked(PROMPT))
    assert began == CHUNK
    assert_same(bits, say([checkpoint.engine()], TWO, PROMPT, asked(PROMPT))[1])


def test_another_peer_computes_the_same_prompt_itself(tmp_path: Path) -> None:
    engines = chain(save_checkpoint(tmp_path))
    say(engines, ONE, PROMPT, asked(PROMPT))
    assert say(engines, TWO, PROMPT, asked(PROMPT, BOB))[0] == 0
    assert say(engines, TWO, PROMPT, asked(PROMPT, BOB))[0] == 2 * CHUNK


def test_short_and_long_sequences_of_longrope_do_not_share_rows(tmp_path: Path) -> None:
    factors = [1.0 + at for at in range(8)]
    scaling = {"type": "longrope", "short_factor": factors, "long_factor": factors[::-1]}
    checkpoint = save_checkpoint(
        tmp_path,
        "phi3",
        partial_rotary_factor=1.0,
        original_max_position_embeddings=400,
        rope_scaling=scaling,
    )
    engines = chain(checkpoint)
    say(engines, ONE, PROMPT, asked(PROMPT, rows=8))
    assert say(engines, TWO, PROMPT, asked(PROMPT, rows=100))[0] == 0
    assert say(engines, TWO, PROMPT, asked(PROMPT, rows=20))[0] == 2 * CHUNK


def test_what_is_kept_counts_apart_and_goes_when_a_session_wants_its_room(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path)
    row_bytes = checkpoint.config.kv_bytes_per_row(checkpoint.config.whole, "bf16")
    budget = KvBudget(8 * CHUNK * row_bytes, planned_bytes=8 * CHUNK * row_bytes)
    (engine,) = engines = [checkpoint.engine(budget=budget)]
    say(engines, ONE, PROMPT, asked(PROMPT))
    assert (budget.reserved_bytes, budget.prefixes.size_bytes) == (0, 2 * CHUNK * row_bytes)
    engine.open_cache(ONE, replace(asked(PROMPT), rows_max=4 * CHUNK - 64))
    engine.open_cache(TWO, replace(asked(PROMPT, BOB), rows_max=4 * CHUNK - 64))
    assert budget.prefixes.size_bytes == CHUNK * row_bytes
    engine.open_cache((ONE[0], 1), CacheSpec(1, CHUNK, Sampling()))
    assert budget.reserved_bytes == budget.bytes_max
    assert budget.prefixes.size_bytes == 0
    with pytest.raises(Overloaded):
        engine.open_cache((TWO[0], 1), CacheSpec(1, 1, Sampling()))
    engine.close()
    assert (budget.reserved_bytes, budget.prefixes.size_bytes) == (0, 0)


def test_no_more_than_its_share_is_kept_and_with_none_nothing(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path)
    row_bytes = checkpoint.config.kv_bytes_per_row(checkpoint.config.whole, "bf16")
    for blocks, share in ((1, 1 / 16), (0, 0.0)):
        budget = KvBudget(16 * CHUNK * row_bytes, prefix_share=share)
        engines = [checkpoint.engine(budget=budget)]
        say(engines, ONE, PROMPT, asked(PROMPT))
        assert budget.prefixes.size_bytes == blocks * CHUNK * row_bytes
        assert say(engines, TWO, PROMPT, asked(PROMPT))[0] == blocks * CHUNK


def test_a_shard_that_goes_takes_along_what_was_kept_of_it_alone(tmp_path: Path) -> None:
    checkpoint, budget = save_checkpoint(tmp_path), KvBudget(64 * MIB)
    first, second = (checkpoint.engine(budget=budget) for _ in range(2))
    say([first], ONE, PROMPT, asked(PROMPT))
    half_bytes = budget.prefixes.size_bytes
    say([second], ONE, PROMPT, asked(PROMPT))
    assert budget.prefixes.size_bytes == 2 * half_bytes
    first.close()
    assert budget.prefixes.size_bytes == half_bytes
    assert say([second], TWO, PROMPT, asked(PROMPT))[0] == 2 * CHUNK


@pytest.mark.parametrize("kv", KV_KINDS)
def test_rows_that_are_not_finite_end_with_their_session(tmp_path: Path, kv: str) -> None:
    checkpoint = save_checkpoint(tmp_path)
    engine = checkpoint.engine(LayerRange(1, 3), kv=kv)
    spec = asked(PROMPT)
    engine.open_cache(ONE, spec)
    spoilt = torch.full((CHUNK, checkpoint.config.hidden), float("nan"), dtype=torch.bfloat16)
    body = bytearray(spoilt.view(torch.uint8).numpy().tobytes())
    engine.step(ONE, frame(engine, 0, PROMPT[:CHUNK], body, session=ONE[0], sample=False))
    engine.open_cache(TWO, spec)
    assert engine.rows(TWO) == 0


def test_a_replay_leaves_nothing_since_its_rows_may_come_of_others(tmp_path: Path) -> None:
    (engine,) = [save_checkpoint(tmp_path).engine()]
    engine.open_cache(ONE, asked(PROMPT))
    for changes in ({"kind": Kind.REPLAY}, {"epoch": 1}):
        engine.step(ONE, frame(engine, 0, PROMPT[:CHUNK], session=ONE[0], sample=False, **changes))
    engine.open_cache(TWO, asked(PROMPT))
    assert engine.rows(TWO) == 0
