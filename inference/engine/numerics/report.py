"""Which kernels would serve a model on this machine, and why: what `weft doctor` shows.

    echo '{"threads": 2}' | python -m inference.engine.numerics.report

One JSON object in, one out. Without a model it answers for a Llama of 1.1 billion weights. The choice is the one that a worker
makes with as many threads when it loads the model: the same self-test, run anew.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, Literal

import msgspec
import torch

from inference.engine.device import Device, cuda_lack, find_device
from inference.engine.numerics.exactness import WHOLE_FRAMES
from inference.engine.numerics.selftest import KERNEL_ADVANTAGE, Arithmetic, find_arithmetic
from inference.engine.numerics.timing import TYPICAL_ROWS, Timing
from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from inference.model.precision import PRECISIONS, precision_of
from protocols.errors import UserError, WeftError

MISTAKEN: Final = 2  # the exit code for what the user has to mend; Python's own for a fault is 1
_USUAL: Final = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}


class Question(msgspec.Struct, frozen=True):
    """`model` is a model folder, or empty; `device` is auto, cpu or cuda; `kv` is model or int8."""

    model: str = ""
    dtypes: tuple[str, ...] = tuple(PRECISIONS)
    numerics: str = "exact"
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    kv: Literal["model", "int8"] = "model"


class KernelTimes(msgspec.Struct, frozen=True):
    """Microseconds of processor time by row count, over the model's largest product or a part of it."""

    kernel: str
    us: dict[str, float]


class Choice(msgspec.Struct, frozen=True):
    """`rows`: the sizes of the blocks that rows are computed in, or whole frames. `kv_row_bytes`: what a row of a session takes in
    all layers."""

    dtype: str
    kernel: str
    rows: str
    is_exact: bool
    numerics_class: str
    weights_bytes: int
    why: str
    timings: tuple[KernelTimes, ...]
    kv_row_bytes: int


class Report(msgspec.Struct, frozen=True):
    """`device_why`: what was found when it was chosen. `unserved` are the dtypes that were asked for and are not run on it."""

    device: str
    device_why: str
    capability: str
    threads: int
    choices: tuple[Choice, ...]
    unserved: tuple[str, ...] = ()


def report(question: Question) -> Report:
    """Raises `UserError` for a folder that holds no model, a dtype that weft does not run, or a card that is not there."""
    config, device = _config(question.model), find_device(question.device)
    served = [
        dtype for dtype in question.dtypes if not (device.is_accelerator and precision_of(dtype).is_quantised)
    ]
    return Report(
        f"{device.kind} {device.model}".strip(),
        _device_why(question.device, device),
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        tuple(_choice(config, dtype, question.numerics, device, question.kv) for dtype in served),
        tuple(dtype for dtype in question.dtypes if dtype not in served),
    )


def _device_why(wanted: str, device: Device) -> str:
    if device.is_accelerator:
        return f"torch {torch.__version__} finds it"
    return cuda_lack() if wanted == "auto" else "it is the one that was asked for"


def _config(model: str) -> ModelConfig:
    if not model:
        return parse_config(msgspec.json.encode(_USUAL))
    try:
        return parse_config((Path(model) / "config.json").read_bytes())
    except OSError as error:
        raise UserError(f"{model} has no readable config.json: name a model folder") from error


def _choice(config: ModelConfig, dtype: str, numerics: str, device: Device, kv: str) -> Choice:
    weights_bytes = config.range_bytes(config.whole, dtype)
    found = find_arithmetic(config, dtype, numerics, device, kv)
    return Choice(
        dtype,
        found.kernel.value,
        str(found.rows),
        found.is_exact,
        found.numerics_class,
        weights_bytes,
        why(found),
        tuple(_times(timing) for timing in found.timings),
        config.kv_bytes_per_row(config.whole, dtype, kv),
    )


def why(found: Arithmetic) -> str:
    """The reason for the kernel in a sentence."""
    if not found.timings:
        return "torch's own product is what this device has"
    chosen = next(timing for timing in found.timings if timing.kernel is found.kernel)
    others = [timing for timing in found.timings if timing is not chosen]
    if not others:
        return "no other kernel of this torch serves it on this processor"
    if chosen is not found.timings[0]:
        return f"{found.timings[0].kernel.value} is quicker, but its rows depend on each other"
    ratios = [(timing.cost(WHOLE_FRAMES) / chosen.cost(WHOLE_FRAMES), timing) for timing in others]
    compared = ", ".join(f"{timing.kernel.value} takes {ratio:.2f} times as long" for ratio, timing in ratios)
    if all(ratio >= 1 for ratio, _ in ratios):
        return compared
    return f"{compared}, and would have to take less than {KERNEL_ADVANTAGE} times as long to be preferred"


def _times(timing: Timing) -> KernelTimes:
    return KernelTimes(timing.kernel.value, {str(rows): round(timing.us[rows], 1) for rows in TYPICAL_ROWS})


def main() -> int:
    try:
        question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
        torch.set_num_threads(question.threads)
        sys.stdout.write(msgspec.json.encode(report(question)).decode() + "\n")
    except (WeftError, msgspec.DecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return MISTAKEN
    return 0


if __name__ == "__main__":
    sys.exit(main())
