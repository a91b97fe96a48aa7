"""`deltactl export CKPT --out DIR`: a checkpoint in the published format."""

from __future__ import annotations

import click

from deltactl.commands.options import Command


@click.command(
    cls=Command,
    example="deltactl export workspace/runs/tokenizer --out deltatok-mine",
)
@click.argument("checkpoint", metavar="CKPT")
@click.option("--out", metavar="DIR", required=True, help="New or empty folder to write to; a URL too.")
def command(checkpoint: str, out: str) -> None:
    """Write a checkpoint in the published format.

    CKPT, a file, a run or a name on the Hub, becomes pytorch_model.bin, safetensors and a model card. Tensors keep
    their bytes, types and order.
    """
    from deltactl.locations import Location
    from deltactl.train.architecture import TITLES
    from deltactl.train.export import export

    info = export(checkpoint, out)
    click.echo(f"{Location.of(out)}: a {TITLES[info.kind]}, {info.parameters:,} parameters, from {info.source}")
