"""`deltactl tokenize`: features, or shards, into delta tokens."""

from __future__ import annotations

import click

from deltactl.commands.options import (
    Command,
    batch_size_option,
    config_option,
    device_option,
    dry_run_option,
    engine_options,
    max_bad_option,
    out_option,
    part_option,
    precision_option,
    seed_option,
    set_option,
    workers_option,
)


@click.command(
    cls=Command,
    example="""
        deltactl tokenize features/kinetics-vitb16-512 --tokenizer runs/deltatok-4
        deltactl tokenize shards/kinetics --tokenizer Amazon-FAR/deltatok-kinetics --views 4
    """,
    sections={"Tokens": ("tokenizer", "views"), "Features of shards": ("backbone", "size")},
)
@click.argument("data", metavar="[STORE|SHARDS]", required=False)
@click.option("--tokenizer", metavar="CKPT", help="The tokenizer: a file, a run, or a Hub name.")
@click.option(
    "--views", metavar="N|A:B", help="Views to encode: the first N, or A up to B - 1.  [default: the store's]"
)
@click.option(
    "--backbone", metavar="NAME|DIR", help="Frozen DINOv3 backbone.  [default: DELTACTL_BACKBONE, else ViT-B/16]"
)
@click.option("--size", type=click.IntRange(min=16), help="Side of the square it sees, in pixels.  [default: 512]")
@config_option
@set_option
@seed_option
@device_option
@precision_option
@batch_size_option
@workers_option
@engine_options
@part_option
@out_option
@max_bad_option
@dry_run_option
def command(
    data: str | None,
    tokenizer: str | None,
    views: str | None,
    backbone: str | None,
    size: int | None,
    config: str | None,
    assignments: tuple[str, ...],
    seed: int | None,
    device: str | None,
    precision: str | None,
    batch_size: int | None,
    workers: int | None,
    engine: str | None,
    address: str | None,
    part: str | None,
    out: str | None,
    max_bad: float | None,
    dry_run: bool,
) -> None:
    """Turn features, or shards, into delta tokens.

    From a feature store, or straight from shards: then backbone and tokenizer run in one pass, and patch features are
    never written. By default the only store in the workspace, else the only shards. What is there already is kept, so
    the same command goes on where it was stopped, and adds views.
    """
    from deltactl.configs.load import BACKBONE, resolve
    from deltactl.configs.tokenize import TokenizeConfig

    flags = {
        "data": data,
        "tokenizer": tokenizer,
        "views": views,
        "backbone": backbone,
        "size": size,
        "seed": seed,
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "workers": workers,
        "engine": engine,
        "address": address,
        "part": part,
        "out": out,
        "max_bad": max_bad,
    }
    settings = resolve(TokenizeConfig, config=config, environment=BACKBONE, flags=flags, assignments=assignments)

    from deltactl.train import tokenize_run

    for line in tokenize_run.dry_run(settings) if dry_run else tokenize_run.run(settings).lines():
        click.echo(line)
