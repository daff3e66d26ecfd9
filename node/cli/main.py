"""The entry point: verbs by name, errors as one line, exit codes.

The rule of the file: nothing is imported for a verb but its own module, so that `weft status` answers at once. Verbs of other
packages (`node.cli.plugins`) are looked for only when a verb is not our own, and for --help.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final, NoReturn

import click

from node.cli.plugins import find_plugin, plugin_lines
from node.cli.verbs import Verbs
from node.control_client import CallFailed, NoDaemon
from protocols.errors import Refused, TimedOut, WeftError
from protocols.exit_codes import ExitCode

_VERBS: Final = {
    "up": "run this machine's daemon in the foreground",
    "down": "let sessions finish, then stop the daemon",
    "status": "how the daemon is and what it holds",
    "invite": "make an invite that others join with",
    "revoke": "end a membership",
    "models": "the models that the mesh serves",
    "import": "turn a GGUF file into a model folder",
    "offer": "share a model's layers over the mesh",
    "withdraw": "take a model back from every node",
    "plan": "who would hold which layers of a model",
    "run": "generate text",
    "ps": "the generations under way",
    "memory": "what weights and sessions take of this node's memory",
    "peers": "the members: what they hold, how they are, how well they served",
    "ping": "ask a libp2p peer that is no member",
    "doctor": "how this machine would compute, and why",
    "version": "the release of this command",
    "demo": "three daemons, one answer, one of them killed",
}


class _OwnAndOthers(Verbs):
    """The verbs of the table above, then those that other packages bring."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or find_plugin(cmd_name)

    def lines(self) -> list[tuple[str, str]]:
        return [*super().lines(), *plugin_lines()]


def _show_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"weft {version('weft')}")
        ctx.exit()


@click.group(
    "weft",
    cls=_OwnAndOthers,
    verbs=_VERBS,
    package="node.cli",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the release.",
)
@click.pass_context
def weft(ctx: click.Context) -> None:
    """Turns the machines people already have into one computer for language models."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(ExitCode.USAGE)


def run(arguments: Sequence[str]) -> int:
    """The exit code of `weft ARGUMENTS`."""
    try:
        outcome = weft.main(list(arguments), prog_name="weft", standalone_mode=False)
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else ExitCode.OK
    except click.ClickException as error:
        return _complain(_usage_line(error), ExitCode(error.exit_code))
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has left; nothing may be written to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except WeftError as error:
        return _complain(str(error), _exit_code(error))


def _usage_line(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f" See '{error.ctx.command_path} --help'."
    return message


def _complain(message: str, code: ExitCode) -> ExitCode:
    click.echo(f"weft: {message}", err=True)
    return code


def _exit_code(error: WeftError) -> ExitCode:
    match error:
        case CallFailed():
            return error.code
        case NoDaemon():
            return ExitCode.NO_DAEMON
        case Refused():
            return ExitCode.REFUSED
        case TimedOut():
            return ExitCode.TIMED_OUT
        case _:
            return ExitCode.FAILED


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
