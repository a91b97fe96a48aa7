"""`deltactl featurize`: parse, call the room, print."""

from __future__ import annotations

from collections.abc import Iterable

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
    yes_option,
)


@click.command(
    cls=Command,
    example="""
        deltactl featurize kinetics/shards --size 256 --views 4
        deltactl featurize --drop-views 0:4 --views 4:8 --yes  (a rolling refresh of the augmentation)
    """,
    sections={"Features": ("backbone", "size", "views", "drop_views")},
)
@click.argument("shards", required=False)
@click.option(
    "--backbone", metavar="NAME|DIR", help="Frozen DINOv3 backbone.  [default: DELTACTL_BACKBONE, else ViT-B/16]"
)
@click.option("--size", type=click.IntRange(min=16), help="Side of the square it sees, in pixels.  [default: 512]")
@click.option("--views", metavar="N|A:B", help="Views to make: the first N, or A up to B - 1.")
@click.option(
    "--drop-views",
    metavar="N|A:B|A,B",
    help="Numbers of views to remove, before others are made; asks, or takes --yes.",
)
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
@yes_option
def command(
    shards: str | None,
    backbone: str | None,
    size: int | None,
    views: str | None,
    drop_views: str | None,
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
    yes: bool,
) -> None:
    """Run the frozen backbone over shards into a feature store.

    SHARDS is a folder or URL of shards; by default the only set in the workspace. A view is one random crop and flip of
    a whole clip; of an evaluation set, one of its two square crops. What is there already is kept, so the same command
    goes on where it was stopped, adds views, and takes in shards that were added. --drop-views names views by their
    numbers: 2 is the view 2, 0:4 the views 0 to 3; alone it computes nothing.
    """
    from deltactl.commands.consent import consent
    from deltactl.configs.featurize import FeaturizeConfig
    from deltactl.configs.load import BACKBONE, resolve

    flags = {
        "shards": shards,
        "backbone": backbone,
        "size": size,
        "views": views,
        "drop_views": drop_views,
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
    settings = resolve(FeaturizeConfig, config=config, environment=BACKBONE, flags=flags, assignments=assignments)

    from deltactl.featurize import run

    lines: Iterable[str]
    only_drop = settings.drop_views is not None and settings.views is None
    if dry_run:
        lines = run.drop_dry_run(settings) if only_drop else run.dry_run(settings)
    elif only_drop:
        lines = run.drop(settings, consent(yes))
    else:
        lines = run.run(settings, consent(yes)).lines()
    for line in lines:
        click.echo(line)
