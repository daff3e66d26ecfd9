"""The folder of weft-tiny: alphabet, chat template, configuration, and weights in bfloat16.

Rule of the file: one character is one token, but for a few names and phrases that questions are made of. It keeps the
embedding small, the answers long and the questions short, and no merge table has to be trained. Whatever is not
printable ASCII or a line break becomes `<|unk|>`.

    <|user|>Sort: 3 1 2<|end|><|assistant|>1 2 3<|end|>
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from inference.model.tiny import grammar, tasks
from inference.model.tiny.decoder import Decoder, Shape

SPECIAL: Final = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|unk|>")
PAD, END, USER, ASSISTANT, SYSTEM, UNKNOWN = range(len(SPECIAL))
ALPHABET: Final = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1)))
PHRASES: Final = (
    *tasks.NAMES,
    *(f"{name} is in the " for name in tasks.NAMES),
    *grammar.PLACES,
    *grammar.PLURALS,
    *(plural for noun, plural in grammar.PLURALS.items() if plural != f"{noun}s"),
    *(f" {preposition} the " for preposition in grammar.PREPOSITIONS),
    *("Add: ", "Sort: ", "Close: ", "Copy: ", "reverse(", "head(", "last(", "len("),
    *(" is before ", " In what order?", " Where is "),
    *("Today the ", "Yesterday the ", f"Repeat {tasks.PATTERN_ROUNDS} times: ", "Tell a story about a "),
)
_PIECE: Final = "|".join(re.escape(phrase) for phrase in sorted(PHRASES, key=len, reverse=True)) + r"|[\s\S]"
PIECES: Final = [*SPECIAL, *ALPHABET, *PHRASES]
VOCABULARY: Final = {piece: index for index, piece in enumerate(PIECES)}

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def encode(text: str) -> list[int]:
    """The ids of plain text; what looks like a special token in it stays plain characters."""
    return [VOCABULARY.get(piece, UNKNOWN) for piece in re.findall(_PIECE, text)]


def decode(ids: list[int]) -> str:
    return "".join(PIECES[token] for token in ids if token >= len(SPECIAL))


def save_folder(decoder: Decoder, folder: Path) -> None:
    """Writes everything that a loader of Llama folders asks for; replaces what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().to(torch.bfloat16) for name, weight in decoder.state_dict().items()}
    # Bytes written here take the usual mode of a file; those that safetensors writes itself are readable to one user.
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    _tokenizer().save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", _config(decoder.shape))
    _write_json(
        folder / "generation_config.json", {"eos_token_id": END, "pad_token_id": PAD, "do_sample": False}
    )
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(decoder.shape))


def load_folder(folder: Path) -> Decoder:
    """The decoder of a folder written by `save_folder`, in float32 with the stored bfloat16 values."""
    config = json.loads((folder / "config.json").read_text())
    decoder = Decoder(
        Shape(
            vocabulary=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            ffn=config["intermediate_size"],
            context=config["max_position_embeddings"],
            rope_theta=config["rope_theta"],
            norm_eps=config["rms_norm_eps"],
        )
    )
    decoder.load_state_dict(load_file(folder / "model.safetensors"))
    return decoder.eval()


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "torch_dtype": "bfloat16",
    }


def _tokenizer_config(shape: Shape) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.context,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": SPECIAL[END],
        "pad_token": SPECIAL[PAD],
        "unk_token": SPECIAL[UNKNOWN],
        "chat_template": CHAT_TEMPLATE,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
