"""`deltactl featurize`: parse, call the room, print."""

from __future__ import annotations

from collections.abc import Iterable

import click

from deltactl.commands.from_config import configured
from deltactl.commands.options import Command, dry_run_option, one_or_more, yes_option
from deltactl.configs.clips import ClipsConfig
from deltactl.configs.featurize import FeaturizeConfig


@click.command(
    cls=Command,
    example="""
        deltactl featurize kinetics/shards --size 256 --views 4
        deltactl featurize ~/videos --clips 4 --size 256
        deltactl featurize --drop-views 0:4 --views 4:8 --yes  (a rolling refresh of the augmentation)
    """,
)
@click.argument("shards", nargs=-1, metavar="[SHARDS|VIDEOS...]", callback=one_or_more)
@configured(
    FeaturizeConfig,
    {
        "Features": ("backbone", "layers", "norm", "size", "views", "dtype", "drop_views"),
        "Random crops": ("crop_area", "aspect", "flip"),
        "Straight from videos": tuple(f"videos.{name}" for name in ClipsConfig.model_fields),
    },
    ("seed", "device", "precision", "batch_size", "workers", "engine", "address", "part", "out", "max_bad"),
)
@dry_run_option
@yes_option
def command(config: FeaturizeConfig, dry_run: bool, yes: bool) -> None:
    """Run the frozen backbone over shards or videos into a feature store.

    SHARDS is a folder or URL of shards; by default the only set in the workspace. VIDEOS is what `deltactl ingest`
    takes: a folder of videos, the root of Kinetics or a zip, or several folders and videos. Their clips are cut as
    ingest would, cropped from the frames as they were decoded, and computed in one pass: only the store is written. A
    view is one random crop and flip of a whole clip; of an evaluation set, one of its two square crops, or at a size
    HxW the whole frame. What is there already is kept, so the same command goes on where it was stopped, adds views,
    and takes in shards, or videos, that were added. --drop-views names views by their numbers: 2 is the view 2, 0:4 the
    views 0 to 3; alone it computes nothing.
    """
    from deltactl.commands.consent import consent
    from deltactl.featurize import run

    lines: Iterable[str]
    only_drop = config.drop_views is not None and config.views is None
    if dry_run:
        lines = run.drop_dry_run(config) if only_drop else run.dry_run(config)
    elif only_drop:
        lines = run.drop(config, consent(yes))
    else:
        lines = run.run(config, consent(yes)).lines()
    for line in lines:
        click.echo(line)
