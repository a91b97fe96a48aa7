"""`deltactl tokenize`: features, shards or videos into delta tokens."""

from __future__ import annotations

import click

from deltactl.commands.from_config import configured
from deltactl.commands.options import Command, dry_run_option, one_or_more
from deltactl.configs.clips import ClipsConfig
from deltactl.configs.tokenize import TokenizeConfig


@click.command(
    cls=Command,
    example="""
        deltactl tokenize features/kinetics-vitb16-512 --tokenizer runs/deltatok-4
        deltactl tokenize shards/kinetics --tokenizer Amazon-FAR/deltatok-kinetics --views 4
        deltactl tokenize ~/videos --tokenizer Amazon-FAR/deltatok-kinetics --clips 4
    """,
)
@click.argument("data", nargs=-1, metavar="[STORE|SHARDS|VIDEOS...]", callback=one_or_more)
@configured(
    TokenizeConfig,
    {
        "Tokens": ("tokenizer", "views", "dtype"),
        "Features of shards and videos": ("backbone", "layers", "norm", "size", "crop_area", "aspect", "flip"),
        "Straight from videos": tuple(f"videos.{name}" for name in ClipsConfig.model_fields),
    },
    ("seed", "device", "precision", "batch_size", "workers", "engine", "address", "part", "out", "max_bad"),
)
@dry_run_option
def command(config: TokenizeConfig, dry_run: bool) -> None:
    """Turn features, shards or videos into delta tokens.

    From a feature store, or straight from shards or videos: then backbone and tokenizer run in one pass, and patch
    features are never written. VIDEOS is what `deltactl ingest` takes: a folder of videos, the root of Kinetics or a
    zip, or several folders and videos; of them nothing but the tokens is written. By default the only store in the
    workspace, else the only shards. What is there already is kept, so the same command goes on where it was stopped,
    and adds views.
    """
    from deltactl.tokenization import run as tokenize_run

    for line in tokenize_run.dry_run(config) if dry_run else tokenize_run.run(config).lines():
        click.echo(line)
