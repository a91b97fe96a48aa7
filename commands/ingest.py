"""`deltactl ingest`: videos and data sets into shards."""

from __future__ import annotations

import click

from deltactl.commands.from_config import configured
from deltactl.commands.options import Command, dry_run_option, one_or_more
from deltactl.configs.ingest import IngestConfig


@click.command(
    cls=Command,
    example="""
        deltactl ingest ~/videos --dry-run
        deltactl ingest ~/videos --clips 4
        deltactl ingest holiday.mp4 dashcam.mkv --clips 8
        deltactl ingest aloha --columns action,observation.state --cameras front  (a LeRobot set)
        deltactl ingest --dataset vspw --split val
    """,
)
@click.argument("source", nargs=-1, metavar="[SOURCE]...", callback=one_or_more)
@configured(
    IngestConfig,
    {
        "Sources": ("dataset", "split", "cameras", "split_file", "exclude"),
        "Clips": ("frames", "frames_per_step", "clips", "stride", "size", "quality", "columns", "shard_clips"),
        "Decoding": ("decoder", "time_limit"),
    },
    ("workers", "engine", "address", "part", "seed", "out", "max_bad", "retry_failed"),
)
@dry_run_option
def command(config: IngestConfig, dry_run: bool) -> None:
    """Turn videos and data sets into shards.

    SOURCE is a folder of videos, the root of a data set (a LeRobot set among them), or a zip of frame folders; videos
    and HDF5 files may be named, too, one or several. Without it KINETICS_ROOT is taken (or VSPW_ROOT, CITYSCAPES_ROOT,
    KITTI_ROOT with --dataset). Run it again to go on after a stop: finished shards are kept.
    """
    from deltactl.ingest import estimate, run

    for line in estimate.dry_run(config) if dry_run else run.run(config).lines():
        click.echo(line)
