"""What a model is, in canonical bytes."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Malformed
from protocols.ids import ModelDigest, TensorDigest
from protocols.manifest import FileEntry, Manifest, TensorEntry, make_manifest, parse_manifest

SHA = TensorDigest("cd" * 32)
FILES = [FileEntry("tokenizer.json", 20, SHA), FileEntry("config.json", 10, SHA)]
TENSORS = [
    TensorEntry("model.norm.weight", "BF16", (64,), SHA),
    TensorEntry("lm_head.weight", "F32", (100, 64), SHA),
]
CANONICAL = (
    b'[[["config.json",10,"%s"],["tokenizer.json",20,"%s"]],'
    b'[["lm_head.weight","F32",[100,64],"%s"],["model.norm.weight","BF16",[64],"%s"]]]'
) % ((SHA.encode(),) * 4)


def digest_of(canonical: bytes) -> ModelDigest:
    return ModelDigest(hashlib.sha256(canonical).hexdigest())


def test_the_canonical_bytes_are_golden() -> None:
    manifest = make_manifest(FILES, TENSORS)
    assert manifest.canonical() == CANONICAL
    assert manifest.digest == "23cfb149a2ad1d53eb16f003c38006ed97e8f26a722ae46efa1347ab6e109b2f"
    assert manifest.size_bytes == 64 * 2 + 100 * 64 * 4


@given(st.permutations(FILES), st.permutations(TENSORS))
def test_the_order_in_which_things_were_found_does_not_matter(
    files: list[FileEntry], tensors: list[TensorEntry]
) -> None:
    assert make_manifest(files, tensors).digest == digest_of(CANONICAL)


def test_canonical_bytes_come_back_as_the_manifest() -> None:
    assert parse_manifest(CANONICAL, digest_of(CANONICAL)) == make_manifest(FILES, TENSORS)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda value: value, "canonical form"),  # json.dumps adds spaces
        (lambda value: value[:1], "undecodable"),
        (lambda value: [value[0], value[1][::-1]], "canonical form"),
        (lambda value: [value[0], [value[1][0], value[1][0]]], "canonical form"),
        (lambda value: [value[0], [["a b", "F32", [1], SHA]]], "undecodable"),
        (lambda value: [[["../config.json", 10, SHA]], []], "undecodable"),
        (lambda value: [[["config.json", -1, SHA]], []], "undecodable"),
        (lambda value: [value[0], [["a", "F32", [0], SHA]]], "undecodable"),
        (lambda value: [value[0], [["a", "F32", [1], SHA.upper()]]], "undecodable"),
        (lambda value: [value[0], [["a", "F32", [1] * 5, SHA]]], "undecodable"),
    ],
)
def test_other_bytes_with_their_right_digest_are_malformed(change: object, error: str) -> None:
    changed = json.dumps(change(json.loads(CANONICAL))).encode()  # type: ignore[operator]
    if "canonical" not in error:
        changed = changed.replace(b", ", b",")
    with pytest.raises(Malformed, match=error):
        parse_manifest(changed, digest_of(changed))


def test_right_bytes_under_another_digest_are_malformed() -> None:
    with pytest.raises(Malformed):
        parse_manifest(CANONICAL, ModelDigest("0" * 64))


@given(st.binary(max_size=100))
def test_garbage_is_malformed(garbage: bytes) -> None:
    with pytest.raises(Malformed):
        parse_manifest(garbage, digest_of(garbage))


def test_a_dtype_that_weft_does_not_read_has_no_size() -> None:
    with pytest.raises(Malformed, match="I64"):
        _ = TensorEntry("a", "I64", (1,), SHA).size_bytes


def test_an_empty_manifest_has_a_digest_too() -> None:
    empty = Manifest((), ())
    assert parse_manifest(b"[[],[]]", digest_of(b"[[],[]]")) == empty
