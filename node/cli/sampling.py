"""Options that say how tokens are drawn, for whatever generates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from protocols import limits

CommandT = TypeVar("CommandT", bound=Callable[..., None])


def _biases(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> tuple[tuple[int, float], ...]:
    """TOKEN=BIAS, each as a pair."""
    if len(given) > limits.LOGIT_BIASES_MAX:
        raise click.BadParameter(f"at most {limits.LOGIT_BIASES_MAX} of them.", ctx, param)
    pairs = []
    for text in given:
        token, _, bias = text.partition("=")
        try:
            pair = int(token), float(bias)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no TOKEN=BIAS, such as 42=-100.", ctx, param) from None
        if not (0 <= pair[0] < 1 << 32 and abs(pair[1]) <= 100):
            raise click.BadParameter(
                f"{text!r}: a token is a number from 0 on, a bias -100 to 100.", ctx, param
            )
        pairs.append(pair)
    return tuple(pairs)


_OPTIONS = (
    click.option(
        "--temperature", type=click.FloatRange(0, 100), default=0.0, show_default=True, help="0 is greedy."
    ),
    click.option(
        "--top-k", type=click.IntRange(0, 1 << 20), default=0, help="Draw from the k likeliest; 0: off."
    ),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Nucleus; 1: off."),
    click.option(
        "--min-p",
        type=click.FloatRange(0, 1),
        help="Leave out what is less likely than this share of the likeliest.",
    ),
    click.option(
        "--repetition-penalty",
        type=click.FloatRange(0.01, 100),
        help="Divides the logits of what prompt and answer have already; 1: off.",
    ),
    click.option(
        "--frequency-penalty",
        type=click.FloatRange(-2, 2),
        help="Taken off for each time that a token is in the answer.",
    ),
    click.option(
        "--presence-penalty", type=click.FloatRange(-2, 2), help="Taken off once if it is in the answer."
    ),
    click.option(
        "--logit-bias",
        callback=_biases,
        multiple=True,
        metavar="TOKEN=BIAS",
        help="Added to the logit of a token, by id, -100 to 100; repeatable.",
    ),
    click.option(
        "--json-schema",
        type=click.File(),
        metavar="FILE",
        help="The answer is held to the JSON schema in this file.",
    ),
    click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), help="Equal seeds give equal text."),
    click.option(
        "--logprobs",
        type=click.IntRange(0, limits.LOGPROBS_MAX),
        metavar="N",
        help="With --json: log-probabilities of each token and of the N likeliest.",
    ),
)


def sampling_options(command: CommandT) -> CommandT:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def sampling_params(given: dict[str, Any]) -> dict[str, Any]:
    """As the daemon takes them: what was not given is left out."""
    params = {name: value for name, value in given.items() if value is not None}
    if given["json_schema"] is not None:
        params["json_schema"] = given["json_schema"].read(limits.GRAMMAR_BYTES_MAX + 1)
    # JSON has no other keys than strings.
    return params | {"logit_bias": {str(token): bias for token, bias in given["logit_bias"]}}
