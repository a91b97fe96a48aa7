"""`deltactl plan`: what a recipe costs before it runs."""

from __future__ import annotations

import re

import click

from deltactl.commands.options import Command, set_option


def views_option(_context: click.Context, _parameter: click.Parameter, text: str) -> dict[int | None, int]:
    """Return the views by size, those of all other sizes under None; BadParameter where the text says neither."""
    views: dict[int | None, int] = {}
    for part in text.split(","):
        size, equals, count = part.rpartition("=")
        if not re.fullmatch(r"[1-9]\d*", count.strip()) or (equals and not re.fullmatch(r"[1-9]\d*", size.strip())):
            raise click.BadParameter(f"{text!r} is neither a number of views nor views by size, as in 256=4,512=1")
        views[int(size) if equals else None] = int(count)
    return views


@click.command(
    cls=Command,
    example="""
        deltactl plan --recipe published --gpus 8 --gpu h200 --clips 8 --views 4
        deltactl plan --recipe published --gpus 32 --live
        deltactl plan --views 256=4,512=1 --gpu here --gpus 1
    """,
    sections={
        "Data": ("recipe", "videos", "clips", "views", "frames", "live"),
        "Machine": ("gpu", "gpus", "cores_per_gpu", "read_rate"),
    },
)
@click.option(
    "--recipe", metavar="NAME|FILE", default="published", help="Preset of the stage `recipe`.", show_default=True
)
@click.option(
    "--videos",
    type=click.IntRange(min=1),
    metavar="N",
    help="Videos in the data set.  [default: Kinetics-700's 536,000]",
)
@click.option("--clips", type=click.IntRange(min=1), default=8, show_default=True, help="Clips cut from each video.")
@click.option(
    "--views",
    metavar="N|SIZE=N,…",
    default="1",
    show_default=True,
    callback=views_option,
    help="Crops of each clip, at all sizes or by size in pixels: 256=4,512=1.",
)
@click.option("--frames", type=click.IntRange(min=2), default=8, show_default=True, help="Frames in a clip.")
@click.option(
    "--live", is_flag=True, help="Train from shards, with the frozen networks in the loop; nothing is cached."
)
@click.option(
    "--gpu",
    metavar="NAME",
    default="h200",
    show_default=True,
    help="h200, h100, a100, or here to measure this machine.",
)
@click.option("--gpus", type=click.IntRange(min=1), default=8, show_default=True, help="GPUs that work together.")
@click.option("--cores-per-gpu", type=click.IntRange(min=1), default=16, show_default=True, help="CPU cores a GPU.")
@click.option(
    "--read-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="GB/s a node reads.",
)
@set_option
def command(
    recipe: str,
    videos: int | None,
    clips: int,
    views: dict[int | None, int],
    frames: int,
    live: bool,
    gpu: str,
    gpus: int,
    cores_per_gpu: int,
    read_rate: float,
    assignments: tuple[str, ...],
) -> None:
    """Say what a recipe costs before it runs.

    For each stage: bytes, time, GPU-hours, the read rate that training needs, what sets the pace, how often a sample
    repeats, and from how many steps on a cache is less work than live training. Says which rates are measured, derived
    or assumed.
    """
    from deltactl.configs.load import resolve
    from deltactl.configs.recipe import RecipeConfig
    from deltactl.train.plan import KINETICS_VIDEOS, DataSize, Machine, lines, plan_costs
    from deltactl.train.rates import measure, rates_of
    from deltactl.train.work import NetworkSizes

    settings = resolve(RecipeConfig, config=recipe, assignments=assignments)
    rates = measure(NetworkSizes(256)) if gpu == "here" else rates_of(gpu)
    by_size = {size: count for size, count in views.items() if size is not None}
    data = DataSize(videos or KINETICS_VIDEOS, clips, views.get(None, 1), frames, by_size)
    machine = Machine(rates, gpus, cores_per_gpu, read_bytes_per_second=read_rate * 1e9)
    for line in lines(plan_costs(settings, data, rates, live=live, gpus=gpus), machine):
        click.echo(line)
    if heads := [name for name, step in settings.steps.items() if step.run == "head"]:
        click.echo(f"not counted: {', '.join(heads)}; a head is one layer on features of its own data set")
