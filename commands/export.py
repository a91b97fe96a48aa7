"""`deltactl export CKPT --out DIR`: a checkpoint in the published format."""

from __future__ import annotations

import click

from deltactl.commands.options import Command, yes_option


@click.command(
    cls=Command,
    example="deltactl export workspace/runs/tokenizer --out deltatok-mine",
)
@click.argument("checkpoint", metavar="CKPT")
@click.option("--out", metavar="DIR", required=True, help="Folder to write to; a URL too.")
@yes_option
def command(checkpoint: str, out: str, yes: bool) -> None:
    """Write a checkpoint in the published format.

    CKPT, a file, a run or a name on the Hub, becomes pytorch_model.bin, safetensors and a model card. Tensors keep
    their bytes, types and order. DIR is new or empty, or holds an earlier export, which is named and asked about.
    """
    from deltactl.commands.consent import consent
    from deltactl.locations import Location
    from deltactl.train.checkpoints.export import export

    done = export(checkpoint, out, consent(yes))
    click.echo(f"{Location.of(out)}: a {done.kind.title}, {done.parameters:,} parameters, from {done.source}")
