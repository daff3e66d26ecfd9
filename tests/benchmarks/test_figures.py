"""What benchmarks print, without running any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from inference.engine.reference import Question, answer
from inference.model.text import Text
from protocols.errors import Unavailable
from tests.benchmarks import __main__ as bench
from tests.benchmarks import engine_cuda, mesh
from tests.benchmarks.failover import KILL_AFTER, PROMPT_ROWS, TOKENS, Kill, count_wrong
from tests.benchmarks.figures import Figure, append_to_ledger, figure_of, percentile
from tests.benchmarks.model import LLAMA_100M, WIDE, Sizes, model_folder, prompt_of, write_model
from tests.benchmarks.request import Answer

SMALL = Sizes(32, 2, 48, 4, 2, 8, 64, 64)


def _two_figures(say: Callable[[str], None]) -> Iterator[Figure]:
    say("under way")
    yield figure_of("pause_s_p50", [3.0, 1.0, 2.0], 0.5, "s")
    yield Figure("wrong", 7, "tokens", 3)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5.0], 0.5, 5.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([4.0, 1.0, 3.0, 2.0], 1.0, 4.0),
        ([4.0, 1.0, 3.0, 2.0], 0.0, 1.0),
        ([0.0, 10.0], 0.95, 9.5),
    ],
)
def test_a_percentile_lies_between_its_neighbours(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == pytest.approx(expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_percentiles_stay_within_the_values_and_rise_with_their_share(
    values: list[float], share: float, other: float
) -> None:
    low, high = sorted((share, other))
    slack = 1e-6  # of the straight line between two values
    assert min(values) - slack <= percentile(values, low) <= percentile(values, high) + slack
    assert percentile(values, high) <= max(values) + slack


def test_every_figure_is_one_object_on_stdout_and_progress_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench.BENCHMARKS, "two", _two_figures)
    assert bench.main(["two"]) == 0
    printed = capsys.readouterr()
    figures = [json.loads(line) for line in printed.out.splitlines()]
    assert [figure["figure"] for figure in figures] == ["pause_s_p50", "wrong"]
    assert figures[0] == {
        "figure": "pause_s_p50",
        "value": 2.0,
        "unit": "s",
        "runs": 3,
        "min": 1.0,
        "max": 3.0,
    }
    assert figures[1] == {"figure": "wrong", "value": 7, "unit": "tokens", "runs": 3}
    assert "under way" in printed.err


def test_a_part_that_fails_is_named_and_the_others_are_measured_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(say: Callable[[str], None]) -> Iterator[Figure]:
        yield Figure("before", 1, "ms", 1)
        raise Unavailable("nobody is there")

    monkeypatch.setattr(mesh, "PARTS", {"broken": broken, "two": _two_figures})
    assert bench.main(["mesh"]) == 1
    printed = capsys.readouterr()
    assert [json.loads(line)["figure"] for line in printed.out.splitlines()] == [
        "before",
        "pause_s_p50",
        "wrong",
    ]
    assert "mesh:broken failed: nobody is there" in printed.err
    assert printed.err.splitlines()[-1].endswith("repeat mesh:broken")


def test_without_a_card_its_figures_are_said_to_be_not_measured_and_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said: list[str] = []
    assert list(engine_cuda.measure(said.append)) == []
    (line,) = said
    assert line.startswith("not measured, for torch ")
    assert all(name in line for name in engine_cuda.FIGURES)


@pytest.mark.parametrize("arguments", [[], ["chian"]])
def test_an_unknown_name_is_answered_in_one_line_with_the_names_there_are(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("\n") == 1
    assert "chain" in printed.err


def test_the_ledger_grows_by_a_line_per_figure(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for commit in ("a1", "b2"):
        append_to_ledger([Figure("hop_ms_p50", 0.8, "ms", 100, {"max": 3.0})], commit, path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"figure": "hop_ms_p50", "value": 0.8, "unit": "ms", "commit": "a1"}
    assert [line["commit"] for line in lines] == ["a1", "b2"]


@pytest.mark.parametrize(
    ("told", "wrong"), [([1, 2, 3], 0), ([1, 9, 3], 1), ([1, 2], 1), ([1, 2, 3, 4], 1), ([], 3)]
)
def test_missing_and_surplus_tokens_are_wrong_ones(told: list[int], wrong: int) -> None:
    assert count_wrong(told, [1, 2, 3]) == wrong


def test_waits_are_counted_from_the_token_at_which_the_kill_fell() -> None:
    heard = Answer(tokens=[1, 2, 3, 4], times_s=[0.0, 5.0, 6.0, 8.0])
    assert heard.gaps_s(after=2) == [1.0, 2.0]
    assert heard.tokens_per_s == pytest.approx(3 / 8)


def test_kills_are_the_same_in_every_run_and_fit_the_context() -> None:
    kills = [[Kill.drawn(rng, number, 3) for number in range(20)] for rng in (Random(1), Random(1))]
    assert kills[0] == kills[1]
    assert {kill.stage for kill in kills[0]} == {1, 2}
    assert {kill.request.temperature for kill in kills[0]} == {0, 1}
    assert all(kill.after_tokens < TOKENS for kill in kills[0])
    assert PROMPT_ROWS[1] + TOKENS <= LLAMA_100M.max_position_embeddings
    assert KILL_AFTER[1] < TOKENS


def test_a_model_of_the_same_seed_has_the_same_bits_and_runs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_model(tmp_path / name, SMALL)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    with safe_open(tmp_path / "one" / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("lm_head.weight").dtype is torch.bfloat16
    answered = answer(Question(str(tmp_path / "one"), (1, 2, 3), 8, temperature=1.0))
    assert len(answered.token_ids) == 8


def test_a_prompt_written_in_ids_is_tokenised_to_them(tmp_path: Path) -> None:
    write_model(tmp_path, SMALL)
    files = {name: (tmp_path / name).read_bytes() for name in ("config.json", "tokenizer.json")}
    text = Text(files)
    assert text.encode(prompt_of([3, 63, 1])) == [3, 63, 1]
    assert not text.eos_ids


def test_a_model_is_written_once_and_again_when_its_sizes_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = model_folder("small", SMALL)
    written_ns = (folder / "model.safetensors").stat().st_mtime_ns
    assert model_folder("small", SMALL) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written_ns
    model_folder("small", Sizes(32, 1, 48, 4, 2, 8, 64, 64))
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1


def test_the_models_are_of_the_sizes_that_the_figures_name() -> None:
    attention = 2 * 768 * 768 + 2 * 768 * 256
    parameters = 14 * (attention + 3 * 768 * 2048) + 2 * 8192 * 768
    assert 95e6 < parameters < 105e6
    assert WIDE.hidden_size * 2 == 8192
