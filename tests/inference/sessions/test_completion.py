"""Text is shown as soon as it can't be part of a stop string, and never past one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.sessions.completion import Completion


class Letters:
    """Every token is a letter."""

    def feed(self, token: int) -> str:
        return chr(token)

    def finish(self) -> str:
        return ""


def complete(text: str, stop: tuple[str, ...]) -> Completion:
    completion = Completion(Letters(), stop)
    for character in text:
        completion.add(ord(character))
    completion.finish()
    return completion


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_is_shown_is_the_text_up_to_the_first_stop_string_that_completes(
    text: str, stop: list[str]
) -> None:
    completion = complete(text, tuple(stop))
    for end in range(len(text) + 1):
        if found := [at for word in stop if (at := text[:end].find(word)) >= 0]:
            assert completion.text == text[: min(found)]
            assert completion.has_stopped
            return
    assert completion.text == text
    assert not completion.has_stopped


def test_a_possible_beginning_is_held_back_and_shown_once_it_is_none() -> None:
    completion = Completion(Letters(), ("END",))
    assert [completion.add(ord(character)) for character in "aENb"] == ["a", "", "", "ENb"]


def test_ids_that_end_a_text_are_no_part_of_it() -> None:
    completion = Completion(Letters(), (), frozenset({0}))
    assert completion.add(ord("x")) == "x"
    assert completion.add(0) == ""
    assert completion.text == "x"


def test_nothing_is_shown_past_a_stop_string_when_no_token_follows() -> None:
    class Halves(Letters):
        def finish(self) -> str:
            return "?"

    for stop, text in (((), "ab?"), (("b",), "a")):
        completion = Completion(Halves(), stop)
        shown = "".join(completion.add(ord(character)) for character in "ab") + completion.finish()
        assert shown == completion.text == text
