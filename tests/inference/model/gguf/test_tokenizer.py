"""An imported tokenizer gives the tokens of the one that the file was made of, for any text."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from inference.model.gguf.importing import import_gguf
from inference.model.gguf.pre_tokenizers import PATTERNS
from inference.model.text import Text
from protocols.errors import UserError
from tests.inference.model.gguf.gguf_files import random_model, write_gguf

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? I'LL say: WE'RE in 2024, 3.14159 or 1234567.",
    "Grüße aus Köln! Привет, мир. 你好世界。日本語のテキスト ١٢٣ नमस्ते 🙂👩\u200d👧 café naïve",
    "def f(x):\n    return x  # a comment\n\n\n\tif  y:\r\n        pass\n",
    "there then them thing other another mother the the the  and   and    and -- >>> == $100.00 ~^|",
] * 8
TEXTS = [
    *CORPUS[:4],
    "",
    " ",
    "   ",
    "\n",
    " leading",
    "trailing  ",
    "a\n\nb",
    "DON'T don't",
    "x" * 40,
    "\u3000\u00a0ǅʰ",
]
ANY = st.one_of(st.text(max_size=40), st.text(alphabet="the an'st.12 \n\rÜü你🙂", max_size=60))

Describe = Callable[[GGUFWriter], None]


def imported(folder: Path, tokens: int, describe: Describe) -> Text:
    folder.mkdir(parents=True)
    model = random_model("llama", vocab_size=tokens, num_hidden_layers=1, eos_token_id=0)
    write_gguf(folder / "m.gguf", model, describe=describe)
    import_gguf(folder / "m.gguf", folder / "m", lambda *_: None)
    return Text({path.name: path.read_bytes() for path in (folder / "m").glob("*.json")})


def written(
    kind: str, tokens: Sequence[str], types: Sequence[int], further: Describe = lambda _: None
) -> Describe:
    def describe(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(kind)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        further(writer)

    return describe


# Byte-level pairs --------------------------------------------------------------------------------------------------------


def pairs(name: str) -> tuple[Tokenizer, list[str], list[str]]:
    """A tokenizer of few merges, its tokens, and its merges as a file has them."""
    tokenizer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[name]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if name == "gpt-2":  # the library has that pattern of its own
        splits, to_bytes = [], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    return (
        tokenizer,
        sorted(model["vocab"], key=model["vocab"].__getitem__),
        [" ".join(each) for each in model["merges"]],
    )


def import_pairs(
    folder: Path, name: str, changes: Describe = lambda _: None, merges: list[str] | None = None
) -> tuple[Text, Tokenizer]:
    tokenizer, tokens, found = pairs(name)
    special = ["<|begin|>", "<|eot_id|>", "<|user|>"]

    def further(writer: GGUFWriter) -> None:
        writer.add_tokenizer_pre(name)
        writer.add_token_merges(found if merges is None else merges)
        writer.add_bos_token_id(len(tokens))
        changes(writer)

    types = [1] * len(tokens) + [3, 3, 4]
    text = imported(folder, len(tokens) + 3, written("gpt2", [*tokens, *special], types, further))
    return text, tokenizer


@pytest.fixture(scope="module", params=["gpt-2", "qwen2", "smollm", "default", "dbrx", "gpt-4o"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Text, Tokenizer]:
    return import_pairs(tmp_path_factory.mktemp("pairs") / "f", request.param)


def test_pairs_give_the_tokens_of_the_original(both: tuple[Text, Tokenizer]) -> None:
    text, original = both
    for words in TEXTS:
        assert text.encode(words) == original.encode(words).ids


@given(words=ANY)
@settings(max_examples=150, deadline=None)
def test_pairs_give_the_tokens_of_the_original_for_any_text(both: tuple[Text, Tokenizer], words: str) -> None:
    text, original = both
    ids = text.encode(words)
    assert ids == original.encode(words).ids
    assert text.decode(ids) in (words, unicodedata.normalize("NFC", words))


def test_special_tokens_are_found_in_a_text_and_end_it(tmp_path: Path) -> None:
    text, original = import_pairs(tmp_path / "f", "qwen2")
    size = original.get_vocab_size()
    ids = text.encode("<|user|>the<|eot_id|>\n")
    assert ids == [size + 2, *original.encode("the").ids, size + 1, *original.encode("\n").ids]
    assert text.eos_ids == {size + 1}  # by its name, for the file does not say
    assert text.decode(ids) == "<|user|>the\n"


@pytest.mark.parametrize("name", ["llama-bpe", "tekken"])
def test_llama_3_begins_with_a_token_and_takes_whole_words(tmp_path: Path, name: str) -> None:
    _, tokens, merges = pairs(name)
    # Without its merge the word is a token that no merges lead to.
    merge = next(
        each for each in merges[::-1] if each.replace(" ", "").isascii() and each.replace(" ", "").isalpha()
    )
    word = merge.replace(" ", "")
    text, original = import_pairs(tmp_path / "f", name, merges=[each for each in merges if each != merge])
    bos = original.get_vocab_size()
    assert text.encode(word) == [bos, tokens.index(word)]
    assert text.encode("") == [bos]


def test_what_the_file_says_of_first_and_last_tokens_goes_before(tmp_path: Path) -> None:
    def changes(writer: GGUFWriter) -> None:
        writer.add_add_bos_token(False)
        writer.add_add_eos_token(True)
        writer.add_eos_token_id(5)

    text, original = import_pairs(tmp_path / "f", "llama-bpe", changes)
    assert text.encode("the") == [*original.encode("the").ids, 5]


def test_another_way_to_cut_words_is_refused_by_name(tmp_path: Path) -> None:
    def changes(writer: GGUFWriter) -> None:
        writer.kv_data[0].pop("tokenizer.ggml.pre")
        writer.add_tokenizer_pre("viking")

    with pytest.raises(UserError, match="cuts words like 'viking', and weft knows default, gpt-2, llama-bpe"):
        import_pairs(tmp_path / "f", "gpt-2", changes)


@pytest.mark.parametrize("merge", ["t", "t ", " t", "t zz9", "Q Q"])
def test_merges_of_no_tokens_are_refused(tmp_path: Path, merge: str) -> None:
    with pytest.raises(UserError, match="is not of its tokens"):
        import_pairs(tmp_path / "f", "gpt-2", merges=[merge])


# SentencePiece -----------------------------------------------------------------------------------------------------------


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def pieces() -> tuple[list[str], list[float]]:
    """Merged tokens in the order of training, then single characters: tokens and scores as SentencePiece has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=260, limit_alphabet=60, show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    merged = list(dict.fromkeys("".join(merge) for merge in model["merges"]))
    single = sorted(token for token in model["vocab"] if len(token) == 1)
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *merged, *single]
    return tokens, [0.0] * 259 + [-float(rank) for rank in range(len(merged) + len(single))]


TOKENS, SCORES = pieces()


def by_scores(words: str, *, prefix: bool) -> list[int]:
    """SentencePiece's rule, word for word: of all neighbours merge those whose token has the best score, the first of equals.

    https://arxiv.org/abs/1808.06226, with bytes for what has no token.
    """
    ids = {token: at for at, token in enumerate(TOKENS)}
    symbols = list(((" " if prefix and words else "") + words).replace(" ", SPACE))
    while True:
        found = [
            (-SCORES[ids[symbols[at] + symbols[at + 1]]], at)
            for at in range(len(symbols) - 1)
            if symbols[at] + symbols[at + 1] in ids
        ]
        if not found:
            break
        _, at = min(found)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    known = ([ids[symbol]] if symbol in ids else [3 + byte for byte in symbol.encode()] for symbol in symbols)
    return [token for group in known for token in group]


def import_pieces(folder: Path, **changes: Any) -> Text:
    def further(writer: GGUFWriter) -> None:
        writer.add_token_scores(changes.get("scores", SCORES))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        if "prefix" in changes:
            writer.add_add_space_prefix(changes["prefix"])

    extra = changes.get("extra", [])
    types = [2, 3, 3, *[6] * 256, *[1] * (len(TOKENS) - 259), *[4] * len(extra)]
    return imported(folder, len(TOKENS) + len(extra), written("llama", [*TOKENS, *extra], types, further))


@pytest.fixture(scope="module", params=[True, False])
def scored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Text, bool]:
    prefix = bool(request.param)
    return import_pieces(tmp_path_factory.mktemp("pieces") / "f", prefix=prefix), prefix


def test_scores_give_the_tokens_that_sentencepiece_gives(scored: tuple[Text, bool]) -> None:
    text, prefix = scored
    for words in TEXTS:
        assert text.encode(words) == [1, *by_scores(words, prefix=prefix)]


@given(words=ANY)
@settings(max_examples=200, deadline=None)
def test_scores_give_the_tokens_that_sentencepiece_gives_for_any_text(
    scored: tuple[Text, bool], words: str
) -> None:
    text, prefix = scored
    words = words.replace(SPACE, "")
    ids = text.encode(words)
    assert ids == [1, *by_scores(words, prefix=prefix)]
    assert text.decode(ids) == words


def test_tokens_of_the_user_are_found_before_all_else(tmp_path: Path) -> None:
    extra = ["   ", "<turn>"]
    text = import_pieces(tmp_path / "f", prefix=False, scores=[*SCORES, 0.0, 0.0], extra=extra)
    spaces, turn = len(TOKENS), len(TOKENS) + 1
    assert text.encode("<turn>the   the</s>") == [
        1, turn, *by_scores("the", prefix=False), spaces, *by_scores("the", prefix=False), 2,
    ]  # fmt: skip
    assert text.decode([turn, spaces]) == "<turn>   "


def test_as_many_scores_as_tokens_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="and the scores of 3"):
        import_pieces(tmp_path / "f", scores=[0.0] * 3)


# Both --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "types", "said"),
    [
        (["a", "a"], [1, 1], "two of its tokens are the same"),
        (["a", ""], [1, 1], "one is empty"),
        (["a", "b"], [1], "the kinds of 1"),
    ],
)
def test_tokens_that_contradict_each_other_are_refused(
    tmp_path: Path, tokens: list[str], types: list[int], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        imported(tmp_path / "f", 2, written("gpt2", tokens, types))


def test_another_kind_of_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of kind 't5', and weft imports gpt2, llama"):
        imported(tmp_path / "f", 2, written("t5", ["a", "b"], [1, 1]))


def test_a_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it has no tokenizer.ggml.tokens"):
        imported(tmp_path / "f", 2, lambda writer: writer.add_tokenizer_model("no_vocab"))
