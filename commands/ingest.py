"""`deltactl ingest`: videos and data sets into shards."""

from __future__ import annotations

import click

from deltactl.commands.options import (
    Command,
    config_option,
    dry_run_option,
    engine_options,
    max_bad_option,
    out_option,
    part_option,
    seed_option,
    set_option,
    workers_option,
)


@click.command(
    cls=Command,
    example="deltactl ingest ~/videos --dry-run\ndeltactl ingest ~/videos --clips 4\n"
    "deltactl ingest holiday.mp4 dashcam.mkv --clips 8\n"
    "deltactl ingest --dataset vspw --split val",
    sections={
        "Sources": ("dataset", "split", "split_file", "exclude"),
        "Clips": ("frames", "clips", "size", "quality", "shard_clips"),
        "Decoding": ("decoder", "time_limit"),
    },
)
@click.argument("source", nargs=-1, metavar="[SOURCE]...")
@click.option(
    "--dataset",
    type=click.Choice(["kinetics", "folder", "vspw", "cityscapes", "kitti"]),
    help="How the sources are laid out.  [default: by the look of SOURCE; kinetics without one]",
)
@click.option(
    "--split", type=click.Choice(["train", "val"]), help="Part of the data set.  [default: train; val to evaluate]"
)
@click.option("--split-file", metavar="FILE", help="List of the sources to take; for KITTI the Eigen split.")
@click.option("--exclude", metavar="FILE", help="List of sources to leave out, one a line.")
@click.option("--frames", type=click.IntRange(1, 999), help="Frames in a clip.  [default: 8; 7 to evaluate]")
@click.option("--clips", type=click.IntRange(1, 999), help="Clips of each video.  [default: 8 for Kinetics, else 1]")
@click.option("--size", type=click.IntRange(min=16), help="Short side to serve, in pixels.  [default: 512]")
@click.option("--quality", type=click.IntRange(1, 100), help="JPEG quality of training frames.  [default: 95]")
@click.option("--shard-clips", type=click.IntRange(min=1), help="Clips in a shard.  [default: 256]")
@click.option(
    "--decoder",
    type=click.Choice(["auto", "dali", "pyav"]),
    help="dali: where it can, and PyAV for the rest; auto is PyAV.  [default: auto]",
)
@click.option(
    "--time-limit", type=click.FloatRange(min=0, min_open=True), help="Seconds for one source.  [default: 300]"
)
@workers_option
@engine_options
@part_option
@seed_option
@out_option
@max_bad_option
@click.option("--retry-failed", is_flag=True, help="Make shards with quarantined sources again.")
@dry_run_option
@config_option
@set_option
def command(
    source: tuple[str, ...],
    dataset: str | None,
    split: str | None,
    split_file: str | None,
    exclude: str | None,
    frames: int | None,
    clips: int | None,
    size: int | None,
    quality: int | None,
    shard_clips: int | None,
    decoder: str | None,
    time_limit: float | None,
    workers: int | None,
    engine: str | None,
    address: str | None,
    part: str | None,
    seed: int | None,
    out: str | None,
    max_bad: float | None,
    retry_failed: bool,
    dry_run: bool,
    config: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Turn videos and data sets into shards.

    SOURCE is a folder of videos, the root of a data set, or a zip of frame folders; videos may be named, too, one or
    several. Without it KINETICS_ROOT is taken (or VSPW_ROOT, CITYSCAPES_ROOT, KITTI_ROOT with --dataset). Run it again
    to go on after a stop: finished shards are kept.
    """
    from deltactl.configs.ingest import IngestConfig
    from deltactl.configs.load import resolve
    from deltactl.ingest import estimate, run

    settings = resolve(
        IngestConfig,
        config=config,
        flags={
            "source": source[0] if len(source) == 1 else source or None,
            "dataset": dataset,
            "split": split,
            "split_file": split_file,
            "exclude": exclude,
            "frames": frames,
            "clips": clips,
            "size": size,
            "quality": quality,
            "shard_clips": shard_clips,
            "decoder": decoder,
            "time_limit": time_limit,
            "workers": workers,
            "engine": engine,
            "address": address,
            "part": part,
            "seed": seed,
            "out": out,
            "max_bad": max_bad,
            "retry_failed": retry_failed or None,
        },
        assignments=assignments,
    )
    for line in estimate.dry_run(settings) if dry_run else run.run(settings).lines():
        click.echo(line)
