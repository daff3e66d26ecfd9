"""Text to tokens and back: templates in their sandbox, characters whole, ends of text from wherever they are stated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from inference.model.text import Text
from protocols.errors import UserError
from tests.inference.model.folders import byte_tokenizer

BYTES = byte_tokenizer().to_str().encode()
TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "?"},
]


def text_of(
    tokenizer: bytes = BYTES, settings: dict[str, Any] | None = None, **files: dict[str, Any] | str
) -> Text:
    contents = {"tokenizer.json": tokenizer, "tokenizer_config.json": json.dumps(settings or {}).encode()}
    for name, content in files.items():
        suffix = "jinja" if isinstance(content, str) else "json"
        data = content if isinstance(content, str) else json.dumps(content)
        contents[f"{name}.{suffix}"] = data.encode()
    return Text(contents)


def rendered(template: str, messages: list[dict[str, str]] | None = None, **settings: Any) -> str:
    text = text_of(settings=settings | {"chat_template": template})
    return text.decode(text.encode_chat(messages or TALK))


@given(st.text())
def test_any_text_survives_there_and_back_whole_and_piece_by_piece(words: str) -> None:
    text = text_of()
    ids = text.encode(words)
    assert text.decode(ids) == words
    stream = text.stream()
    pieces = [stream.feed(token) for token in ids]
    assert "".join(pieces) + stream.finish() == words


def test_half_a_character_is_never_shown() -> None:
    text = text_of()
    feed = text.decoder()
    assert [feed(token) for token in text.encode("aé日🙂")] == [
        "a", "", "é", "", "", "日", "", "", "", "🙂",
    ]  # fmt: skip


def test_what_is_no_character_at_all_is_replaced_in_the_end() -> None:
    text = text_of()
    lone = text.encode("🙂")[0]
    stream = text.stream()
    assert stream.feed(lone) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
    pieces = [stream.feed(lone) for _ in range(40)]
    assert any(pieces)


def sentence_tokenizer() -> Tokenizer:
    """As of Llama 2: spaces are ▁, one at the start is dropped, and bytes stand for what has no token."""
    words = ["<unk>", "▁a", "▁the", "b", "é"]
    vocabulary = {
        word: index for index, word in enumerate(words + [f"<0x{byte:02X}>" for byte in range(256)])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


SENTENCES = text_of(sentence_tokenizer().to_str().encode())


def test_the_space_of_a_first_token_depends_on_the_prompt() -> None:
    assert SENTENCES.stream().feed(2) == "the"
    assert SENTENCES.stream([1]).feed(2) == " the"


@given(st.lists(st.integers(0, 260), max_size=40), st.lists(st.integers(0, 260), max_size=8))
def test_any_tokens_can_be_decoded(ids: list[int], prompt: list[int]) -> None:
    stream = SENTENCES.stream(prompt)
    assert "".join(map(stream.feed, ids)) + stream.finish() is not None


@given(st.lists(st.sampled_from([1, 2, 3, 4]), max_size=30))
def test_pieces_of_whole_tokens_add_up(ids: list[int]) -> None:
    stream = SENTENCES.stream()
    assert "".join(map(stream.feed, ids)) + stream.finish() == SENTENCES.decode(ids)


# Chat ----------------------------------------------------------------------------------------------------------------


def test_a_template_is_rendered_as_transformers_does() -> None:
    template = (
        "{{ bos_token }}{% for message in messages %}\n"
        "  {% if loop.first %}\nfirst\n  {% endif %}\n"
        "[{{ message['role'] }}]{{ message.content | trim }}\n"
        "{% if loop.last %}{% break %}{% endif %}{% endfor %}"
        "{{ messages[0] | tojson }}{% if add_generation_prompt %}<go>{% endif %}"
    )
    out = rendered(template, bos_token={"content": "<s>"})
    assert out == '<s>first\n[user]hi\n[assistant]ho\n[user]?\n{"role": "user", "content": "hi"}<go>'


def test_the_template_file_goes_before_the_settings_and_the_default_among_several() -> None:
    several = [{"name": "tools", "template": "tools"}, {"name": "default", "template": "default"}]
    text = text_of(settings={"chat_template": several})
    assert text.decode(text.encode_chat(TALK)) == "default"
    text = text_of(settings={"chat_template": several}, chat_template="file")
    assert text.decode(text.encode_chat(TALK)) == "file"


def test_without_a_template_turns_are_marked_with_their_roles() -> None:
    text = text_of()
    assert text.decode(text.encode_chat(TALK)) == "user: hi\nassistant: ho\nuser: ?\nassistant:"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% if %}", "is broken"),
        ("{{ raise_exception('no system role') }}", "refuses these messages: no system role"),
        ("{{ messages[9].content.upper() }}", "refuses"),
        ("{{ 1 / 0 }}", "refuses"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' * 999 }}{% endfor %}{% endfor %}",
            "without end",
        ),
        ("{{ messages.append(1) }}", "refuses"),
    ],
)
def test_a_bad_template_is_a_users_error(template: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        rendered(template)


# Ends and bad files --------------------------------------------------------------------------------------------------


def test_ends_of_text_are_gathered_from_all_files() -> None:
    text = text_of(
        settings={"eos_token": "c"}, config={"eos_token_id": 7}, generation_config={"eos_token_id": [8, 9]}
    )
    assert text.eos_ids == {7, 8, 9, byte_tokenizer().token_to_id("c")}
    assert (
        text_of(settings={"eos_token": {"content": "nowhere"}}, config={"eos_token_id": None}).eos_ids
        == set()
    )


@pytest.mark.parametrize(
    "tokenizer", [b"", b"{", b"{}", b"\xff", b'{"model": {"type": "Nothing"}}', BYTES[: len(BYTES) // 2]]
)
def test_a_malformed_tokenizer_is_a_users_error(tokenizer: bytes) -> None:
    with pytest.raises(UserError, match=r"tokenizer.json .*: download the model again") as refused:
        text_of(tokenizer)
    assert "\n" not in str(refused.value)


def test_missing_and_unreadable_files_are_users_errors() -> None:
    with pytest.raises(UserError, match=r"has no tokenizer.json"):
        Text({})
    with pytest.raises(UserError, match=r"tokenizer_config.json cannot be read"):
        Text({"tokenizer.json": BYTES, "tokenizer_config.json": b"["})


def test_truncation_and_padding_of_the_file_do_not_count() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=20)
    assert len(text_of(tokenizer.to_str().encode()).encode("abcdef")) == 6


def test_a_text_that_cannot_be_encoded_is_a_users_error() -> None:
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="absent"))
    with pytest.raises(UserError, match="cannot encode"):
        text_of(words.to_str().encode()).encode("b")
