"""`weft import`: a GGUF file becomes the Hugging Face folder that the other verbs take. No daemon is asked."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from inference.model.gguf.importing import Imported, import_gguf
from node.cli.options import echo_json, json_option
from node.cli.tables import size_text


@click.command("import")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The folder to make; otherwise beside FILE, with its name less .gguf.",
)
@json_option
def import_(path: Path, target: Path | None, as_json: bool) -> None:
    """Turn FILE, a GGUF file as llama.cpp has them, into a model folder with weights in bf16."""
    source = path.expanduser().absolute()
    folder = (source.with_suffix("") if target is None else target.expanduser()).absolute()
    with click.progressbar(length=1, label=source.name, file=sys.stderr, show_pos=False) as bar:

        def advance(done_bytes: int, total_bytes: int) -> None:
            bar.length = total_bytes
            bar.update(done_bytes - bar.pos)

        imported = import_gguf(source, folder, advance)
    for note in imported.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        echo_json(_json(imported))
    else:
        click.echo(
            f"{imported.folder}: {imported.family}, {imported.layers} layers, {size_text(imported.size_bytes)}"
        )
        click.echo(f"Share it with 'weft offer {imported.folder}'.")


def _json(imported: Imported) -> dict[str, object]:
    return {
        "folder": str(imported.folder),
        "family": imported.family,
        "layers": imported.layers,
        "bytes": imported.size_bytes,
        "notes": list(imported.notes),
    }
