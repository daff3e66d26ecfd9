"""The unbroken run that the mesh is compared with."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference.engine.reference import Question, answer, main
from protocols.errors import UserError
from tests.inference.engine.checkpoints import Checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_checkpoint(tmp_path_factory.mktemp("model"), eos_token_id=[96])


def ask(checkpoint: Checkpoint, **changes: Any) -> tuple[int, ...]:
    question = Question(str(checkpoint.folder), tuple(index % 96 for index in range(149)), 12)
    values = {name: getattr(question, name) for name in question.__struct_fields__}
    return answer(Question(**{**values, **changes})).token_ids


def test_an_answer_has_as_many_tokens_as_asked_for_and_comes_again(checkpoint: Checkpoint) -> None:
    greedy = ask(checkpoint)
    assert len(greedy) == 12
    assert ask(checkpoint) == greedy
    warm = ask(checkpoint, temperature=1.0, seed=4)
    assert ask(checkpoint, temperature=1.0, seed=4) == warm
    assert ask(checkpoint, temperature=1.0, seed=5) != warm


def test_an_answer_ends_with_the_stop_id(checkpoint: Checkpoint) -> None:
    unstopped = ask(checkpoint, temperature=1.0, seed=4)
    stopped = ask(checkpoint, temperature=1.0, seed=4, stop_ids=(unstopped[5],))
    assert stopped == unstopped[: unstopped.index(unstopped[5]) + 1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"prompt_ids": ()}, "do not fit"),
        ({"max_tokens": 400}, "549 tokens do not fit a context of 512"),
        ({"model": "/nowhere"}, "name a model folder"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(
    checkpoint: Checkpoint, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        ask(checkpoint, **changes)


def test_one_object_comes_in_and_one_goes_out(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question = {"model": str(checkpoint.folder), "prompt_ids": [1, 2, 3], "max_tokens": 4, "dtype": "f32"}
    assert run_main(question, monkeypatch) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["token_ids"]) == 4
    assert told["stopped"] is False
    assert told["numerics_class"].startswith("exact/f32/")
    assert run_main({"model": "/nowhere"}, monkeypatch) == 1
    assert "prompt_ids" in capsys.readouterr().err


def run_main(question: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> int:
    stdin = SimpleNamespace(buffer=io.BytesIO(json.dumps(question).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    return main()


def test_a_folder_without_weights_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint.folder / "config.json").read_bytes())
    with pytest.raises(UserError, match="no readable safetensors"):
        ask(checkpoint, model=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 16)
    with pytest.raises(UserError, match="no readable safetensors"):
        ask(checkpoint, model=str(tmp_path))
