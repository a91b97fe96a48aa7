"""`deltactl tokenize`: features, or shards, into delta tokens."""

from __future__ import annotations

import click

from deltactl.commands.from_config import configured
from deltactl.commands.options import Command, dry_run_option
from deltactl.configs.tokenize import TokenizeConfig


@click.command(
    cls=Command,
    example="""
        deltactl tokenize features/kinetics-vitb16-512 --tokenizer runs/deltatok-4
        deltactl tokenize shards/kinetics --tokenizer Amazon-FAR/deltatok-kinetics --views 4
    """,
)
@click.argument("data", metavar="[STORE|SHARDS]", required=False)
@configured(
    TokenizeConfig,
    {
        "Tokens": ("tokenizer", "views", "dtype"),
        "Features of shards": ("backbone", "layers", "norm", "size", "crop_area", "aspect", "flip"),
    },
    ("seed", "device", "precision", "batch_size", "workers", "engine", "address", "part", "out", "max_bad"),
)
@dry_run_option
def command(config: TokenizeConfig, dry_run: bool) -> None:
    """Turn features, or shards, into delta tokens.

    From a feature store, or straight from shards: then backbone and tokenizer run in one pass, and patch features are
    never written. By default the only store in the workspace, else the only shards. What is there already is kept, so
    the same command goes on where it was stopped, and adds views.
    """
    from deltactl.tokenization import run as tokenize_run

    for line in tokenize_run.dry_run(config) if dry_run else tokenize_run.run(config).lines():
        click.echo(line)
