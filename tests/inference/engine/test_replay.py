"""Exact numerics: a row has the same bits whatever frame carries it and however the layers are cut over shards."""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine.engine import ShardEngine
from inference.model.precision import KV_KINDS
from protocols.errors import WeftError
from protocols.ids import SessionId
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.placement import LayerRange
from protocols.session import Sampling
from tests.inference.engine.checkpoints import (
    FAMILY_CHANGES,
    KEY,
    Checkpoint,
    frame,
    kv_rows,
    run_chain,
    save_checkpoint,
    spec,
)

FORMS = [("bf16", "model"), ("f32", "model"), ("int8", "model"), ("bf16", "int8")]
"""The dtypes, and what their keys and values are kept in."""
DRAWS = (Sampling(), Sampling(temperature=1.0, seed=3))


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes that are no round numbers, so that every kernel has tails."""
    kv_heads = draw(st.integers(1, 3))
    return {
        "hidden_size": draw(st.sampled_from([24, 40, 80, 96])),
        "intermediate_size": draw(st.sampled_from([33, 90, 208, 256])),
        "num_hidden_layers": draw(st.integers(2, 5)),
        "num_attention_heads": kv_heads * draw(st.integers(1, 3)),
        "num_key_value_heads": kv_heads,
        "head_dim": draw(st.sampled_from([6, 16, 20, 64])),
        "tie_word_embeddings": draw(st.booleans()),
    }


def decoded(engines: list[ShardEngine], prompt: list[int], rows: int) -> list[int]:
    """The prompt in chunks, then row by row; all tokens."""
    tokens, drawn = list(prompt), None
    for start in range(0, len(prompt), CHUNK):
        drawn = run_chain(engines, start, prompt[start : start + CHUNK])
    while len(tokens) < rows:
        assert drawn is not None
        tokens.append(drawn)
        drawn = run_chain(engines, len(tokens) - 1, [drawn])
    assert drawn is not None
    return [*tokens, drawn]


def replayed(engines: list[ShardEngine], tokens: list[int], starts: list[int]) -> int | None:
    """The same rows in frames that begin at `starts`; what is drawn after the last."""
    drawn = None
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        drawn = run_chain(engines, start, tokens[start:end])
    return drawn


def chain(
    checkpoint: Checkpoint,
    cuts: list[int],
    dtype: str,
    prompt_rows: int,
    rows: int,
    draw: Sampling,
    kv: str = "model",
) -> list[ShardEngine]:
    bounds = [0, *cuts, checkpoint.config.layers]
    engines = [checkpoint.engine(LayerRange(*pair), dtype, kv=kv) for pair in itertools.pairwise(bounds)]
    for engine in engines:
        engine.open_cache(KEY, spec(prompt_rows, rows, draw))
    return engines


def all_rows(engines: list[ShardEngine], rows: int) -> list[torch.Tensor]:
    return [part for engine in engines for part in kv_rows(engine, rows)]


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("dtype", "kv"), FORMS)
@pytest.mark.parametrize("family", FAMILY_CHANGES)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), shape=shapes(), draw=st.sampled_from(DRAWS))
def test_replay_in_any_frames_over_any_shards_gives_the_bits_of_decoding(
    family: str, dtype: str, kv: str, data: st.DataObject, shape: dict[str, Any], draw: Sampling
) -> None:
    layers, prompt_rows = shape["num_hidden_layers"], data.draw(st.integers(1, 300))
    rows = prompt_rows + data.draw(st.integers(1, 12))
    prompt = [(7 * index + index * index) % 97 for index in range(prompt_rows)]
    allowed = [*range(0, prompt_rows, CHUNK), *range(prompt_rows, rows)]
    starts = sorted({0} | data.draw(st.sets(st.sampled_from(allowed), max_size=4)))
    cuts = sorted(data.draw(st.sets(st.integers(1, layers - 1), max_size=3)))
    with TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder), family, **shape)
        whole = chain(checkpoint, [], dtype, prompt_rows, rows, draw, kv)
        assert whole[0].arithmetic.is_exact
        tokens = decoded(whole, prompt, rows)
        expected = all_rows(whole, rows)
        for engines, frames in (
            (whole, [0]),
            (whole, starts),
            (chain(checkpoint, cuts, dtype, prompt_rows, rows, draw, kv), starts),
        ):
            drawn = replayed(engines, tokens[:rows], frames)
            assert_equal(all_rows(engines, rows), expected)
            assert drawn == tokens[rows]


@pytest.mark.parametrize(("dtype", "kv"), FORMS)
def test_rows_on_one_thread_have_the_bits_that_they_have_on_all(tmp_path: Path, dtype: str, kv: str) -> None:
    """Decoded rows are too few for more than one, but for products as large as these; a replay's are not."""
    sizes = {"hidden_size": 768, "intermediate_size": 1100, "num_hidden_layers": 2, "head_dim": 64}
    checkpoint = save_checkpoint(tmp_path, **sizes)
    prompt = [(7 * index + index * index) % 97 for index in range(150)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engines = chain(checkpoint, [], dtype, len(prompt), 200, Sampling(), kv)
        tokens = decoded(engines, prompt, 200)
        expected = all_rows(engines, 200)
        drawn = replayed(engines, tokens[:200], [0])
    finally:
        torch.set_num_threads(before)
    assert_equal(all_rows(engines, 200), expected)
    assert drawn == tokens[200]


@pytest.mark.parametrize(("dtype", "kv"), [*FORMS, ("f32", "int8")])
@pytest.mark.parametrize("kv_heads", [1, 3])
def test_a_row_has_its_bits_wherever_in_a_cache_line_it_begins(
    tmp_path: Path, kv_heads: int, dtype: str, kv: str
) -> None:
    checkpoint = save_checkpoint(
        tmp_path,
        "qwen2",
        hidden_size=24,
        intermediate_size=33,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=kv_heads,
        head_dim=6,
    )
    (engine,) = chain(checkpoint, [], dtype, 3, 40, DRAWS[0], kv)
    tokens = decoded([engine], [1, 2, 3], 40)
    expected = all_rows([engine], 40)
    replayed([engine], tokens[:40], [0])
    assert_equal(all_rows([engine], 40), expected)


@pytest.mark.parametrize(("dtype", "kv"), [*FORMS, ("int4", "model"), ("int4", "int8")])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "qwen3_moe"])
def test_replay_gives_the_bits_of_decoding_at_the_sizes_where_kernels_change_with_rows(
    tmp_path: Path, family: str, dtype: str, kv: str
) -> None:
    """Small products take one kernel for all row counts, and would pass without any blocks."""
    checkpoint = save_checkpoint(
        tmp_path,
        family,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=2,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=64,
    )
    prompt_rows, rows = 150, 250
    engines = chain(checkpoint, [], dtype, prompt_rows, rows, Sampling(temperature=1.0, seed=2), kv)
    tokens = decoded(engines, [(5 * index * index) % 97 for index in range(prompt_rows)], rows)
    expected = all_rows(engines, rows)
    for starts in ([0], [0, CHUNK], [0, prompt_rows, 200]):
        assert replayed(engines, tokens[:rows], starts) == tokens[rows]
        assert_equal(all_rows(engines, rows), expected)


@pytest.mark.parametrize(("dtype", "kv"), [*FORMS, ("f32", "int8")])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), shape=shapes())
def test_sessions_that_share_their_steps_have_the_bits_that_they_have_alone(
    dtype: str, kv: str, data: st.DataObject, shape: dict[str, Any]
) -> None:
    prompts = data.draw(st.lists(st.integers(1, 140), min_size=2, max_size=6))
    rows = [prompt + data.draw(st.integers(1, 8)) for prompt in prompts]
    keys = [(SessionId(f"{number:032x}"), 0) for number in range(len(prompts))]
    with TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder), **shape)
        alone = [
            chain(checkpoint, [], dtype, *sizes, DRAWS[1], kv) for sizes in zip(prompts, rows, strict=True)
        ]
        tokens = [
            decoded(engines, [(5 * index + number) % 97 for index in range(prompt)], length)
            for number, (engines, prompt, length) in enumerate(zip(alone, prompts, rows, strict=True))
        ]
        shared = checkpoint.engine(dtype=dtype, kv=kv)
        for key, prompt, length in zip(keys, prompts, rows, strict=True):
            shared.open_cache(key, spec(prompt, length, DRAWS[1]))
        at = [0] * len(keys)
        while together := [number for number in range(len(keys)) if at[number] < rows[number]]:
            chosen = data.draw(st.lists(st.sampled_from(together), min_size=1, unique=True))
            work = []
            for number in chosen:
                end = (
                    min(at[number] + CHUNK, prompts[number])
                    if at[number] < prompts[number]
                    else at[number] + 1
                )
                piece = tokens[number][at[number] : end]
                work.append((keys[number], frame(shared, at[number], piece, session=keys[number][0])))
                at[number] = end
            for number, result in zip(chosen, shared.step_together(work), strict=True):
                assert not isinstance(result, WeftError)
                assert at[number] < prompts[number] or result[1] == tokens[number][at[number]]
        for key, engines, length in zip(keys, alone, rows, strict=True):
            assert_equal(kv_rows(shared, length, key), all_rows(engines, length))


@pytest.mark.parametrize("dtype", ["bf16", "f32", "int8", "int4"])
def test_the_middle_shard_alone_is_rebuilt_from_its_journalled_input(tmp_path: Path, dtype: str) -> None:
    checkpoint = save_checkpoint(tmp_path, num_hidden_layers=4)
    prompt, rows = list(range(1, 41)), 60
    first, middle, last = chain(checkpoint, [1, 3], dtype, len(prompt), rows, Sampling())
    journal: list[bytes] = []
    step = first.step

    def journalled(*arguments: Any) -> Any:
        body, token = step(*arguments)
        journal.append(bytes(body))
        return body, token

    first.step = journalled  # type: ignore[method-assign]
    tokens = decoded([first, middle, last], prompt, rows)
    standby = checkpoint.engine(middle.range, dtype)
    standby.open_cache(KEY, spec(len(prompt), rows))
    standby.step(KEY, frame(standby, 0, tokens[:rows], bytearray(b"".join(journal)), sample=False))
    assert_equal(kv_rows(standby, rows), kv_rows(middle, rows))


@pytest.mark.parametrize("kv", KV_KINDS)
def test_a_cache_cut_back_goes_on_as_if_the_rows_had_never_been(tmp_path: Path, kv: str) -> None:
    engines = chain(save_checkpoint(tmp_path), [], "bf16", 5, 40, Sampling(), kv)
    tokens = decoded(engines, [1, 2, 3, 4, 5], 40)
    expected = all_rows(engines, 40)
    run_chain(engines, 20, [96])
    assert engines[0].rows(KEY) == 21
    assert replayed(engines, tokens[:40], [0]) == tokens[40]
    assert_equal(all_rows(engines, 40), expected)
