"""`weft sim report`: a sweep as one page."""

from __future__ import annotations

from pathlib import Path

import click

from protocols.errors import UserError
from simulations.report.page import page
from simulations.running.store import read_store


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file; FOLDER/report.html otherwise."
)
@click.option("--seed", type=click.IntRange(0), help="Whose time line is drawn; the worst seed's otherwise.")
def report(folder: Path, out: Path | None, seed: int | None) -> None:
    """Make a page of what a sweep has kept in FOLDER: one HTML file that needs nothing else.

    A sweep that is still going on can be looked at too.
    """
    text = page(read_store(folder), seed)
    path = out or folder / "report.html"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}): name a file with --out.") from None
    click.echo(path)
