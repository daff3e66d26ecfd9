"""weft-tiny: its questions and their judges, the shipped folder, and the trainer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from inference.model.tiny import MODEL_DIR, grammar, tasks
from inference.model.tiny.checks import is_right
from inference.model.tiny.folder import CHAT_TEMPLATE, END, PAD, load_folder, save_folder
from inference.model.tiny.measure import question
from inference.model.tiny.train import IGNORED, Plan, conversation, train

BYTES_MAX = 6_000_000
ITEMS_PER_DOMAIN = 48
KINDS = {**tasks.DOMAINS, **tasks.LONG}

Answer = Callable[..., list[str]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def answer() -> Answer:
    """Generates with transformers, which shares no code with the trainer, through the folder's chat template."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR, padding_side="left")
    model = transformers.LlamaForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.bfloat16)

    def generate(prompts: list[str], **options: Any) -> list[str]:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        asked = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(asked.input_ids, attention_mask=asked.attention_mask, **options)
        return [
            str(tokenizer.decode(row[asked.input_ids.shape[1] :], skip_special_tokens=True)) for row in out
        ]

    return generate


# The questions.


@pytest.mark.parametrize("kind", KINDS)
def test_every_generated_answer_is_judged_right(kind: str) -> None:
    rng = Random(kind)
    for _ in range(500):
        item = tasks.trained(KINDS[kind], rng)
        assert is_right(item.prompt, item.answer), item


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_answer_is_judged_wrong(kind: str) -> None:
    rng = Random(kind)
    for _ in range(200):
        item = tasks.trained(KINDS[kind], rng)
        assert not is_right(item.prompt, "")
        assert not is_right(item.prompt, item.answer[:-1])
        assert not is_right(item.prompt, item.answer + item.answer[-1])


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        ("Add: 3+5, 9+9", "8, 17"),
        ("Sort: 5 2 9", "2 5 5"),
        ("Close: ([", "])()"),
        ("Close: ([", ")]"),
        ("reverse([3,1])", "[3,1]"),
        ("Ann is before Bob. Cid is before Ann. In what order?", "Ann, Bob, Cid"),
        ("Ann is in the hall. Bob is in the pond. Where is Ann?", "Ann is in the pond."),
        ("Today the dogs near the pond (sing)", "The dogs sings."),
        ("Yesterday the man by the barn (run)", "The man runned."),
    ],
)
def test_plausible_mistakes_are_judged_wrong(prompt: str, wrong: str) -> None:
    assert not is_right(prompt, wrong)


def test_a_question_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no such question"):
        is_right("What is the meaning of life?", "42")


def test_a_story_with_one_wrong_word_is_no_story() -> None:
    told = grammar.tell(Random(0), "cat")
    assert grammar.is_story(told)
    assert grammar.is_story_about("cat", told)
    assert not grammar.is_story_about("dog", told)
    assert not grammar.is_story(told.replace("On Friday", "On Sunday"))
    assert not grammar.is_story(told.replace(grammar.CLOSING, "").strip())


def test_stories_and_patterns_are_long_enough_for_the_demo() -> None:
    shortest_story = " ".join([*(f"On {day} the cat ran." for day in grammar.DAYS), grammar.CLOSING])
    assert grammar.is_story(shortest_story)
    assert len(shortest_story) == 177
    rng = Random(0)
    assert all(140 <= len(tasks.trained(tasks.pattern, rng).answer) <= 350 for _ in range(500))


@pytest.mark.parametrize("kind", [*tasks.DOMAINS, "pattern"])
def test_held_out_questions_are_different_and_never_trained_on(kind: str) -> None:
    held_out = {item.prompt for item in tasks.held_out(kind, 200, seed=5)}
    rng = Random(kind)
    assert len(held_out) == 200
    assert held_out.isdisjoint(tasks.trained(KINDS[kind], rng).prompt for _ in range(5000))
    assert tasks.held_out(kind, 20, seed=5) == tasks.held_out(kind, 20, seed=5)


def test_asking_for_more_than_a_domain_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.LONG, "pattern", lambda _rng: tasks.Item("Repeat 16 times: weave", ""))
    with pytest.raises(ValueError, match="fewer than 2"):
        tasks.held_out("pattern", 2, seed=0)


def test_prompts_and_checks_come_without_torch() -> None:
    ask = (
        "import sys; from inference.model.tiny import MODEL_DIR, tasks; tasks.demo_prompts();"
        "print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    seen = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "set()"


# The folder.


def test_the_folder_is_a_small_llama_that_three_nodes_can_share() -> None:
    config = json.loads((MODEL_DIR / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["num_hidden_layers"] >= 8
    assert config["max_position_embeddings"] >= 512
    assert config["head_dim"] % 2 == 0
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) < BYTES_MAX
    assert {path.name for path in MODEL_DIR.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_chat_template_writes_what_the_trainer_taught() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    chat = [{"role": "user", "content": " Sort: 3 1 2\n"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert tokenizer(rendered, add_special_tokens=False).input_ids == question("Sort: 3 1 2")
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_printable_text_survives_the_tokenizer() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    text = "".join(map(chr, range(32, 127))) + "\n  two  spaces\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer("é").input_ids == [tokenizer.unk_token_id]


@pytest.mark.parametrize("domain", tasks.DOMAINS)
def test_every_domain_is_answered_right(answer: Answer, domain: str) -> None:
    items = tasks.held_out(domain, ITEMS_PER_DOMAIN, seed=7)
    given = answer([item.prompt for item in items], max_new_tokens=24, do_sample=False)
    missed = [
        (item, text) for item, text in zip(items, given, strict=True) if not is_right(item.prompt, text)
    ]
    assert len(missed) < 0.05 * len(items), missed


def test_the_greedy_demo_counts_to_the_end_and_stops(answer: Answer) -> None:
    demo = tasks.demo_prompts().greedy
    assert tasks.is_held_out(demo.prompt)
    [text] = answer([demo.prompt], max_new_tokens=480, do_sample=False)
    assert demo.check(text), text
    assert len(text) >= 140


def test_sampled_stories_differ_and_all_parse(answer: Answer) -> None:
    demo = tasks.demo_prompts().sampled
    torch.manual_seed(3)
    told = answer([demo.prompt] * 12, max_new_tokens=480, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    assert len(set(told)) == len(told)
    assert all(len(text) >= 140 for text in told)
    assert [text for text in told if not demo.check(text)] == []


# The trainer.


def test_only_the_assistant_counts_towards_the_loss() -> None:
    row = conversation(Random(0), 400)
    assert len(row.ids) == len(row.targets) == 400
    spoken = [index for index, target in enumerate(row.targets[:-1]) if target != IGNORED]
    assert spoken
    assert all(row.targets[index] == row.ids[index + 1] for index in spoken)
    first_end = row.ids.index(END)
    assert all(target == IGNORED for target in row.targets[:first_end])
    assert PAD not in row.ids


def test_a_short_training_run_learns_and_can_be_repeated(tmp_path: Path) -> None:
    losses: list[float] = []
    plan = Plan(steps=4, lookup_steps=2, short_rows=4, long_rows=1)
    first = train(plan, lambda _number, loss, _decoder: losses.append(loss))
    second = train(plan, lambda _number, loss, _decoder: losses.append(loss))
    assert losses[1] < losses[0]
    assert losses[3] < losses[2]
    assert losses[:4] == losses[4:]
    save_folder(first, tmp_path)
    stored, again = load_folder(tmp_path).state_dict(), second.state_dict()
    assert all(torch.equal(stored[name], again[name].bfloat16().float()) for name in again)
