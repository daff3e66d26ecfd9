"""`weft run`: text as it is generated on stdout, notes on stderr; Ctrl-C cancels on every hop."""

from __future__ import annotations

import sys
from typing import Any

import click

from node.cli.options import connect, echo_json, home_option
from node.cli.sampling import sampling_options, sampling_params
from node.cli.tables import node_text
from node.control_client import ControlClient
from protocols import limits
from protocols.errors import UserError


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@home_option
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="At most so many; otherwise until the context is full."
)
@sampling_options
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable.")
@click.option("--raw", is_flag=True, help="The prompt as it is, without the model's chat template.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each event.")
def run(
    model: str,
    prompt: str | None,
    home: str | None,
    raw: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Generate text with MODEL from PROMPT, or from standard input where it is piped or PROMPT is '-'."""
    text = _prompt_text(prompt)
    asked = {"prompt": text} if raw else {"messages": [{"role": "user", "content": text}]}
    if sampling["logprobs"] is not None and not as_json:
        raise click.UsageError("--logprobs go with --json.")
    given = sampling_params(sampling)
    show = _Show(as_json)
    with connect(home) as client:
        finished = _generate(client, {"model": model, **asked, **given}, show)
    show.finish(finished)


def _generate(client: ControlClient, params: dict[str, Any], show: _Show) -> dict[str, Any]:
    try:
        return client.call("run", params, show.event, within_s=None)
    except KeyboardInterrupt:
        client.cancel()
        raise


def _prompt_text(prompt: str | None) -> str:
    if prompt not in {None, "-"}:
        assert prompt is not None
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError("Give a prompt, or pipe one in.", click.get_current_context())
    # Half the line limit leaves room for the escapes of JSON.
    limit_bytes = limits.CONTROL_LINE_BYTES_MAX // 2
    data = sys.stdin.buffer.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise UserError(f"the prompt exceeds {limit_bytes} bytes: give a shorter one.")
    if not data.strip():
        raise click.UsageError(
            "Standard input is empty: give a prompt, or pipe one in.", click.get_current_context()
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the prompt is not UTF-8 ({error}): convert it first, such as with iconv."
        ) from error


class _Show:
    """Events on the screen."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._ends_line = True

    def event(self, event: dict[str, Any]) -> None:
        if self._as_json:
            echo_json(event)
            sys.stdout.flush()
        elif event["kind"] == "token" and event["text"]:
            sys.stdout.write(event["text"])
            sys.stdout.flush()
            self._ends_line = event["text"].endswith("\n")
        elif event["kind"] == "rerouted":
            self._note_reroute(event)

    def finish(self, finished: dict[str, Any]) -> None:
        if self._as_json:
            echo_json(finished)
            return
        if finished["tail"]:
            sys.stdout.write(finished["tail"])
            self._ends_line = finished["tail"].endswith("\n")
        if not self._ends_line:
            click.echo()
        if sys.stderr.isatty():
            click.echo(
                f"{finished['completion_tokens']} tokens, {finished['tokens_per_s']:.1f} a second, "
                f"the first after {finished['ttft_ms']:.0f} ms; ended by {finished['reason']}",
                err=True,
            )

    def _note_reroute(self, event: dict[str, Any]) -> None:
        lost = node_text(event["lost_name"], event["lost"])
        to = node_text(event["to_name"], event["to"])
        newline = "\n" if sys.stderr.isatty() and not self._ends_line else ""
        continued = (
            " It rounds differently: the answer is continued, not repeated." if event["continued"] else ""
        )
        click.echo(
            f"{newline}weft: {lost} was lost: layers {event['range']} are on {to} now, "
            f"{event['replayed_rows']} rows replayed, {event['pause_ms']:.0f} ms.{continued}",
            err=True,
        )
