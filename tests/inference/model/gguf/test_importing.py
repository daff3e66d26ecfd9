"""An imported file is the model that it was made of: bit by bit, and token by token in the engine."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter
from safetensors import safe_open

from inference.engine.reference import Question, answer, tensor_files
from inference.model.config_json import parse_config
from inference.model.folder import open_model_folder
from inference.model.gguf.importing import Imported, import_gguf
from inference.model.text import Text
from mesh.state.files import inline
from protocols.errors import UserError
from simulations.machine.disk import MemoryDisk
from tests.inference.model.gguf.gguf_files import (
    EOS,
    MODELS,
    Model,
    add_byte_tokenizer,
    expected_bf16,
    random_model,
    write_folder,
    write_gguf,
)

KINDS = (Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0)
PROMPT = tuple(range(30, 60))


def quiet(done_bytes: int, total_bytes: int) -> None:
    pass


def imported(path: Path, model: Model, kind: Type = Type.BF16, **options: Any) -> Path:
    write_gguf(path / "m.gguf", model, kind, add_byte_tokenizer)
    import_gguf(path / "m.gguf", path / "m", quiet, **options)
    return path / "m"


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for place in tensor_files(folder):
        with safe_open(place.path, framework="pt") as file:
            found[place.name] = file.get_tensor(place.key)
    return found


def tokens_of(folder: Path) -> tuple[int, ...]:
    return answer(Question(str(folder), PROMPT, 12, stop_ids=())).token_ids


def assert_same_model(found: Path, model: Model, kind: Type) -> None:
    config = parse_config((found / "config.json").read_bytes())
    assert (config.eos_ids, config) == ((EOS,), model.config)
    tensors = tensors_of(found)
    assert tensors.keys() == model.tensors.keys()
    for name, weight in model.tensors.items():
        # The norms of the Gemmas have lost what adding one and taking it away again costs.
        tolerance = 1e-6 if "norm" in name else 0.0
        torch.testing.assert_close(
            tensors[name], expected_bf16(name, weight, kind), rtol=2**-7 * (tolerance > 0), atol=tolerance
        )


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_gives_the_weights_and_tokens_of_its_folder(tmp_path: Path, name: str) -> None:
    model = random_model(name)
    if name.startswith("gemma"):  # such as survive it
        for tensor, weight in model.tensors.items():
            if tensor.endswith("norm.weight"):
                weight[:] = np.round(weight * 128) / 128
    found = imported(tmp_path, model)
    assert_same_model(found, model, Type.BF16)
    assert tokens_of(found) == tokens_of(write_folder(tmp_path / "straight", model))


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_gives_its_values_rounded_once(tmp_path: Path, kind: Type) -> None:
    model = random_model("llama")
    found = imported(tmp_path, model, kind)
    assert_same_model(found, model, kind)
    assert tokens_of(found) == tokens_of(write_folder(tmp_path / "straight", model, kind))


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.Q5_K, Type.Q6_K])
def test_a_head_in_a_k_type_is_taken_as_the_package_reads_it(tmp_path: Path, kind: Type) -> None:
    """Files in Q4_0 have it in Q6_K. Nothing but llama.cpp writes these types: blocks of any bits are valid."""
    model = random_model("llama", hidden_size=256, num_hidden_layers=1, intermediate_size=32)
    del model.tensors["lm_head.weight"]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(5).integers(0, 255, (259, 256 // block, block_bytes), np.uint8)
    for at in (0, 2) if kind is not Type.Q6_K else (-2,):
        blocks[:, :, at : at + 2 or None] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    rows = blocks.reshape(259, -1)

    def describe(writer: GGUFWriter) -> None:
        add_byte_tokenizer(writer)
        writer.add_tensor("output.weight", rows, raw_dtype=kind)

    write_gguf(tmp_path / "m.gguf", model, Type.Q4_0, describe)
    import_gguf(tmp_path / "m.gguf", tmp_path / "m", quiet)
    expected = torch.from_numpy(gguf.quants.dequantize(rows, kind)).to(torch.bfloat16)
    assert torch.equal(tensors_of(tmp_path / "m")["lm_head.weight"], expected)


def test_biases_are_ordered_like_the_rows_of_their_weights(tmp_path: Path) -> None:
    model = random_model("llama", attention_bias=True)
    assert_same_model(imported(tmp_path, model), model, Type.BF16)


def test_tied_embeddings_are_seen_by_the_missing_head(tmp_path: Path) -> None:
    model = random_model("llama", tie_word_embeddings=True)
    assert_same_model(imported(tmp_path, model), model, Type.BF16)


async def test_a_folder_of_many_files_opens_like_one_that_was_downloaded(tmp_path: Path) -> None:
    model = random_model("qwen3")
    found = imported(tmp_path, model, file_bytes_max=60_000)
    assert len(list(found.glob("model-*-of-*.safetensors"))) > 3
    assert_same_model(found, model, Type.BF16)
    folder = await open_model_folder(str(found), MemoryDisk(), inline, quiet)
    assert len(folder.stated.tensors) == len(model.tensors)
    text = Text(folder.files)
    assert text.decode(text.encode("the thé")) == "the thé"
    assert len(text.encode("the")) == 1


def test_progress_ends_at_the_size_that_was_told(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", random_model("llama"), Type.Q8_0, add_byte_tokenizer)
    seen: list[tuple[int, int]] = []
    done = import_gguf(tmp_path / "m.gguf", tmp_path / "m", lambda *told: seen.append(told))
    assert seen == sorted(seen)
    assert seen[-1] == (done.size_bytes, done.size_bytes)
    assert done == Imported(tmp_path / "m", "llama", 3, done.size_bytes, done.notes)


def test_a_large_tensor_is_never_in_memory_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.model.gguf.weights._PIECE_ITEMS", 1 << 14)
    model = random_model("llama", num_hidden_layers=1, intermediate_size=16 << 10)
    path = write_gguf(tmp_path / "m.gguf", model, Type.Q8_0, add_byte_tokenizer)
    largest_bytes = 2 * 64 * (16 << 10)
    tracemalloc.start()
    import_gguf(path, tmp_path / "m", quiet)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < largest_bytes / 3


# Templates and ends ------------------------------------------------------------------------------------------------------


def with_template(tmp_path: Path, template: str) -> tuple[Imported, dict[str, Any]]:
    def describe(writer: GGUFWriter) -> None:
        add_byte_tokenizer(writer)
        writer.add_chat_template(template)

    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), Type.F16, describe)
    done = import_gguf(path, tmp_path / "m", quiet)
    return done, json.loads((tmp_path / "m/tokenizer_config.json").read_text())


def test_the_chat_template_comes_along(tmp_path: Path) -> None:
    done, settings = with_template(tmp_path, "{{ messages[0].content }}:")
    assert (done.notes, settings["chat_template"]) == ((), "{{ messages[0].content }}:")
    assert settings["eos_token"] == "<|end|>"
    text = Text({path.name: path.read_bytes() for path in (tmp_path / "m").glob("*.json")})
    assert text.decode(text.encode_chat([{"role": "user", "content": "hi"}])) == "hi:"
    assert text.eos_ids == {EOS}


def test_a_broken_chat_template_is_left_out_and_told(tmp_path: Path) -> None:
    done, settings = with_template(tmp_path, "{% if %}")
    assert "chat_template" not in settings
    assert len(done.notes) == 1
    assert done.notes[0].startswith("left out, so that turns are marked")


async def test_whoever_offers_the_file_itself_is_told_to_import_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), describe=add_byte_tokenizer)
    with pytest.raises(UserError, match=f"turn it into one with 'weft import {path}'"):
        await open_model_folder(str(path), MemoryDisk(), inline, quiet)


# Refused -----------------------------------------------------------------------------------------------------------------


def complaint(tmp_path: Path, model: Model, kind: Type = Type.F16, **values: Any) -> str:
    """What an import of the model says, with other values in its file."""

    def describe(writer: GGUFWriter) -> None:
        add_byte_tokenizer(writer)
        for key, value in values.items():
            writer.kv_data[0].pop(key.replace("__", "."), None)
            writer.add_uint32(key.replace("__", "."), value)

    path = write_gguf(tmp_path / "m.gguf", model, kind, describe)
    with pytest.raises(UserError) as refused:
        import_gguf(path, tmp_path / "m", quiet)
    assert not (tmp_path / "m").exists()
    assert len(list(tmp_path.iterdir())) == 1
    return str(refused.value)


def test_a_type_that_is_not_read_is_named_with_those_that_are(tmp_path: Path) -> None:
    said = complaint(tmp_path, random_model("llama"), Type.Q5_0)
    assert "in Q5_0, and weft imports F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K: choose" in said


def test_another_architecture_is_named_with_those_that_are_run(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="architecture 'mamba', and weft imports llama, qwen2, qwen3, "):
        import_gguf(tmp_path / "m.gguf", tmp_path / "m", quiet)


def test_one_part_of_several_says_how_to_join_them(tmp_path: Path) -> None:
    assert "llama-gguf-split --merge" in complaint(tmp_path, random_model("llama"), split__count=2)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    model = random_model("llama")
    del model.tensors["model.layers.1.mlp.up_proj.weight"]
    assert "it has no tensor blk.1.ffn_up.weight" in complaint(tmp_path, model)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    model = random_model("llama")
    model.tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((64, 64), np.float32)
    assert "its tensor blk.1.ffn_up.weight has shape (64, 64), and its sizes call for (96, 64)" in complaint(
        tmp_path, model
    )


def test_a_tensor_that_no_such_model_has_is_not_passed_over(tmp_path: Path) -> None:
    """Whoever left it out would compute something else."""
    model = random_model("qwen3")
    model.name, model.settings["architectures"] = "qwen2", ["Qwen2ForCausalLM"]
    for layer in range(3):
        for part in "qkv":
            rows = model.tensors[f"model.layers.{layer}.self_attn.{part}_proj.weight"].shape[0]
            model.tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = np.zeros(rows, np.float32)
    for name in ("q", "k"):
        model.tensors.pop(f"model.layers.0.self_attn.{name}_norm.weight")
    model.tensors = {name: weight for name, weight in model.tensors.items() if "_norm" not in name}
    path = tmp_path / "m.gguf"
    write_gguf(path, model, Type.F16, add_byte_tokenizer, **{"blk.0.attn_sinks": np.zeros(4, np.float32)})
    with pytest.raises(UserError, match=r"a tensor 'blk.0.attn_sinks.weight', which no qwen2 has"):
        import_gguf(path, tmp_path / "m", quiet)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])
def test_weights_that_are_no_numbers_in_bf16_are_refused_and_nothing_stays(
    tmp_path: Path, value: float
) -> None:
    model = random_model("llama")
    model.tensors["model.layers.2.mlp.down_proj.weight"][5, 7] = value
    assert "its tensor blk.2.ffn_down.weight holds what is no number" in complaint(tmp_path, model, Type.F32)


def test_sizes_that_weft_does_not_run_are_named(tmp_path: Path) -> None:
    said = complaint(tmp_path, random_model("llama"), llama__context_length=1 << 30)
    assert "max_position_embeddings 1073741824, and weft runs 1 to" in said


@pytest.mark.parametrize(
    "key", ["block_count", "embedding_length", "attention__head_count", "attention__key_length"]
)
@pytest.mark.parametrize("value", [0, 1, 3, 5, 4096, (1 << 32) - 1])
def test_sizes_that_lie_are_refused_at_once(tmp_path: Path, key: str, value: int) -> None:
    if (key, value) != ("block_count", 3):
        complaint(tmp_path, random_model("llama"), **{f"llama__{key}": value})


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    model = random_model("llama", vocab_size=200, eos_token_id=5)
    assert "it has 259 tokens, and 200 rows in its embedding" in complaint(tmp_path, model)
