"""Draws that depend on the tokens so far: the same ones after a replay, on a standby, and beside others."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from msgspec.structs import replace

from inference.engine.engine import ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.sampling.grammar import GrammarConstraint, GrammarTokens
from inference.engine.sampling.tally import Tally
from inference.model.tiny import MODEL_DIR
from protocols.errors import Malformed, WeftError
from protocols.ids import SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec
from protocols.session import LogitBias, Sampling
from tests.inference.engine.checkpoints import KEY, MIB, Checkpoint, frame, run_chain, save_checkpoint

CHARACTERS = [*'{}[]":, \n', *string.ascii_lowercase, *string.digits, "-", ".", "\\"]
VOCABULARY, END = 97, 96
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z]{1,6}$"},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "count"],
        "additionalProperties": False,
    }
)
EVERYTHING = Sampling(0.9, 60, 0.95, 11, 0.001, 1.3, 0.4, -0.2, (LogitBias(5, 3.0), LogitBias(6, -50.0)), 5)
PROMPT = [(7 * index) % 90 for index in range(20)]
ROWS = 60


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_checkpoint(tmp_path_factory.mktemp("model"), num_hidden_layers=4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character each, then ids that are no tokens, then the end of text."""
    words = {character: token for token, character in enumerate(CHARACTERS)} | {"<end>": END}
    settings = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": END,
                "content": "<end>",
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
        ],
        "pre_tokenizer": None,
        "normalizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": " "},
    }
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(settings))
    return path


def opened(
    checkpoint: Checkpoint, layers: LayerRange, sampling: Sampling, tokenizer: str = ""
) -> ShardEngine:
    budget = KvBudget(64 * MIB)
    engine = ShardEngine(
        checkpoint.config, layers, "f32", "exact", checkpoint.tensors, budget, tokenizer=tokenizer
    )
    engine.open_cache(KEY, CacheSpec(len(PROMPT), ROWS, sampling, stop_ids=(END,)))
    return engine


def decoded(engines: list[ShardEngine], *, ends: bool = True) -> list[int]:
    """The prompt and what is drawn behind it, up to the end of text if it `ends`."""
    tokens = list(PROMPT)
    drawn = run_chain(engines, 0, PROMPT)
    while drawn is not None:
        tokens.append(drawn)
        if (ends and drawn == END) or len(tokens) > ROWS:
            break
        drawn = run_chain(engines, len(tokens) - 1, [drawn])
    return tokens


@pytest.mark.parametrize("has_grammar", [False, True])
def test_replays_and_standbys_draw_what_was_drawn_with_every_option_on(
    checkpoint: Checkpoint, tokenizer: Path, *, has_grammar: bool
) -> None:
    sampling = replace(EVERYTHING, grammar=SCHEMA if has_grammar else "")
    first = opened(checkpoint, LayerRange(0, 2), sampling)
    last = opened(checkpoint, LayerRange(2, 4), sampling, str(tokenizer))
    tokens = decoded([first, last])
    assert len(set(tokens[len(PROMPT) :])) > 5
    assert decoded([first, last]) == tokens  # over rows that were there
    for kept in (len(PROMPT) + 1, len(PROMPT) + 4, len(tokens) - 2):
        spoilt = [
            run_chain([first, last], kept + at, [token], sample=False) for at, token in enumerate((8, 8))
        ]
        assert spoilt == [None, None]
        assert resumed([first, last], tokens, kept) == tokens[kept + 1 :]
        standby = opened(checkpoint, LayerRange(2, 4), sampling, str(tokenizer))
        run_chain([first, standby], 0, PROMPT, sample=False)
        run_chain([first, standby], len(PROMPT), tokens[len(PROMPT) : kept], sample=False)
        assert resumed([first, standby], tokens, kept) == tokens[kept + 1 :]


def resumed(engines: list[ShardEngine], tokens: list[int], kept: int) -> list[int | None]:
    """What is drawn when the rows from `kept` on are fed once more."""
    return [run_chain(engines, at, [tokens[at]]) for at in range(kept, len(tokens) - 1)]


def test_penalties_change_what_is_drawn_and_sessions_do_not_share_them(checkpoint: Checkpoint) -> None:
    whole = checkpoint.config.whole
    plain = decoded([opened(checkpoint, whole, Sampling())], ends=False)
    penalised = decoded([opened(checkpoint, whole, Sampling(repetition_penalty=5.0))], ends=False)
    assert plain != penalised
    engine = opened(checkpoint, whole, Sampling(repetition_penalty=5.0))
    beside = (SessionId("0f" * 16), 0)
    engine.open_cache(beside, CacheSpec(len(PROMPT), ROWS, Sampling()))
    work = [(KEY, frame(engine, 0, PROMPT)), (beside, frame(engine, 0, PROMPT, session=beside[0]))]
    found = []
    for at in range(len(PROMPT), ROWS):
        results = engine.step_together(work)
        assert not any(isinstance(result, WeftError) for result in results)
        drawn = [result[1] for result in results if not isinstance(result, WeftError)]
        found.append(drawn)
        work = [
            (KEY, frame(engine, at, [drawn[0] or 0])),
            (beside, frame(engine, at, [drawn[1] or 0], session=beside[0])),
        ]
    answers = [list(each) for each in zip(*found, strict=True)]
    assert answers == [penalised[len(PROMPT) : ROWS], plain[len(PROMPT) : ROWS]]


def test_a_token_outside_the_vocabulary_cannot_be_counted(checkpoint: Checkpoint) -> None:
    last = opened(checkpoint, LayerRange(2, 4), Sampling(presence_penalty=1.0))
    with pytest.raises(Malformed, match="token 97"):
        last.step(KEY, frame(last, 0, [97], bytes(48 * 4)))


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_held_to_a_schema_fits_it(checkpoint: Checkpoint, tokenizer: Path, seed: int) -> None:
    sampling = Sampling(temperature=2.0, seed=seed, grammar=SCHEMA)
    answer = decoded([opened(checkpoint, checkpoint.config.whole, sampling, str(tokenizer))])[len(PROMPT) :]
    assert answer[-1] == END
    found = json.loads("".join(CHARACTERS[token] for token in answer[:-1]))
    assert set(found) == {"name", "count"}
    assert found["name"].islower()
    assert 0 <= found["count"] <= 99


def test_the_embedded_models_own_tokenizer_can_be_held_to_a_schema() -> None:
    tokens = GrammarTokens(str(MODEL_DIR / "tokenizer.json"), 400)
    tally = Tally(1)
    tally.write(0, [5])
    allowed = tokens.constraint(SCHEMA, 1, (1,), tally).allowed(400)
    assert 0 < allowed.sum() < 5
    assert not allowed[1]


def test_a_grammar_that_cannot_be_followed_here_is_malformed(checkpoint: Checkpoint, tokenizer: Path) -> None:
    for path, schema, why in (
        ("", SCHEMA, "no tokenizer"),
        (str(tokenizer), '{"type": "nothing"}', "can't be used"),
        (str(tokenizer), "[", "can't be used"),
    ):
        with pytest.raises(Malformed, match=why):
            opened(checkpoint, checkpoint.config.whole, Sampling(grammar=schema), path)


def test_an_answer_that_no_longer_fits_is_malformed_and_a_replay_mends_it(tokenizer: Path) -> None:
    tally = Tally(1)
    constraint = GrammarTokens(str(tokenizer), VOCABULARY).constraint(SCHEMA, 1, (END,), tally)
    assert isinstance(constraint, GrammarConstraint)
    tally.write(0, [3, CHARACTERS.index("{")])
    first = constraint.allowed(VOCABULARY)
    tally.write(2, [CHARACTERS.index("]")])
    with pytest.raises(Malformed, match="does not fit"):
        constraint.allowed(VOCABULARY)
    tally.write(2, [CHARACTERS.index('"')])
    constraint.allowed(VOCABULARY)
    tally.write(1, [CHARACTERS.index("{")])
    assert constraint.allowed(VOCABULARY).tolist() == first.tolist()
