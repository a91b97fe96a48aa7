"""`deltactl plan`: what a recipe costs before it runs."""

from __future__ import annotations

import re
from typing import Literal

import click

from deltactl.commands.options import Command, Sizes, preset_names_for, set_option
from deltactl.configs.frame_size import FORM, FrameSize

NOTE_WIDTH = 120
"""Characters of a line of the notes, if there is no terminal."""


def views_option(_context: click.Context, _parameter: click.Parameter, text: str) -> dict[FrameSize | None, int]:
    """Return the views by size, those of all other sizes under None.

    Raises:
        click.BadParameter: the text says neither.
    """
    views: dict[FrameSize | None, int] = {}
    for part in text.split(","):
        size, equals, count = part.rpartition("=")
        if not re.fullmatch(r"[1-9]\d*", count.strip()) or (equals and not size.strip()[:1].isdigit()):
            raise click.BadParameter(f"{text!r} is neither a number of views nor views by size, as in 256=4,512=1")
        try:
            views[FrameSize.of(size.strip()) if equals else None] = int(count)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} has the size {size.strip()!r}; {error}") from error
    return views


@click.command(
    cls=Command,
    example="""
        deltactl plan --recipe published --gpus 8 --gpu h200 --clips 8 --views 4
        deltactl plan --recipe published --gpus 32 --live
        deltactl plan --views 256=4,512=1 --gpu here
        deltactl plan --recipe published --clips 8 --views 4 --table markdown
        deltactl plan --backbone facebook/dinov2-base --size 266x518 --tokens-per-frame 32
    """,
    sections={
        "Data": ("recipe", "videos", "clips", "views", "frames", "live"),
        "Networks": ("backbone", "size", "tokens_per_frame", "token_dim"),
        "Machine": ("gpu", "gpus", "cores_per_gpu", "read_rate"),
        "Output": ("form",),
    },
)
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    default="published",
    shell_complete=preset_names_for,
    help="Preset of the stage `recipe`.",
    show_default=True,
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
@click.option(
    "--frames",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    help="Frames in a clip; steps of features, where a backbone makes one from several.",
)
@click.option(
    "--live", is_flag=True, help="Train from shards, with the frozen networks in the loop; nothing is cached."
)
@click.option(
    "--backbone",
    metavar="NAME|DIR",
    help="Frozen backbone: a published name, or a folder; layers behind it, as in NAME?layers=8,11.  "
    "[default: the recipe's]",
)
@click.option(
    "--size",
    type=Sizes(),
    metavar=FORM,
    help="Frames of every step, in pixels: N for squares, HxW (height first) for others.  [default: the recipe's]",
)
@click.option("--tokens-per-frame", type=click.IntRange(min=1), help="Tokens of a frame.  [default: the recipe's]")
@click.option("--token-dim", type=click.IntRange(min=1), help="Width of a token.  [default: the recipe's]")
@click.option(
    "--gpu",
    metavar="NAME",
    default="h200",
    show_default=True,
    help="h200, h100, a100, or here to measure this machine.",
)
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="GPUs that work together, or CPUs like this one where --gpu here is one.  [default: 8; those that are here]",
)
@click.option(
    "--cores-per-gpu",
    type=click.IntRange(min=1),
    help="CPU cores a GPU.  [default: 16; those that are here, for --gpu here]",
)
@click.option(
    "--read-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="GB/s a node reads.",
)
@click.option(
    "--table",
    "form",
    type=click.Choice(["text", "markdown"]),
    default="text",
    show_default=True,
    help="How the table is written; markdown: without the notes.",
)
@set_option
def command(
    recipe: str,
    videos: int | None,
    clips: int,
    views: dict[FrameSize | None, int],
    frames: int,
    live: bool,
    backbone: str | None,
    size: FrameSize | None,
    tokens_per_frame: int | None,
    token_dim: int | None,
    gpu: str,
    gpus: int | None,
    cores_per_gpu: int | None,
    read_rate: float,
    form: Literal["text", "markdown"],
    assignments: tuple[str, ...],
) -> None:
    """Say what a recipe costs before it runs.

    A table: for each stage its time and what sets the pace, GPU-hours (on a machine without a GPU CPU-hours), bytes
    read and written, the read rate that training needs, how often a sample repeats, and from how many steps on a cache
    is less work than live training. Below it, which rates are measured, derived or assumed.
    """
    import shutil
    import sys
    import textwrap

    from deltactl.configs.load import resolve
    from deltactl.configs.recipe import RecipeConfig
    from deltactl.recipes.cost_table import as_markdown, as_text, cost_table, notes
    from deltactl.recipes.costs import KINETICS_VIDEOS, DataSize, Machine, networks_told, recipe_costs, with_networks
    from deltactl.recipes.rates import devices_here, measure, rates_of
    from deltactl.recipes.work import NetworkSizes

    config = with_networks(resolve(RecipeConfig, config=recipe, assignments=assignments), size=size, backbone=backbone)
    rates, here = (
        (measure(NetworkSizes(FrameSize(256, 256))), devices_here()) if gpu == "here" else (rates_of(gpu), (8, 16))
    )
    by_size = {each: count for each, count in views.items() if each is not None}
    data = DataSize(videos or KINETICS_VIDEOS, clips, views.get(None, 1), frames, by_size)
    machine = Machine(rates, gpus or here[0], cores_per_gpu or here[1], read_bytes_per_second=read_rate * 1e9)
    given = {"tokens_per_frame": tokens_per_frame, "token_dim": token_dim}
    tokens = {name: value for name, value in given.items() if value is not None}
    table = cost_table(recipe_costs(config, data, rates, live=live, gpus=machine.gpus, tokens=tokens), machine)
    if form == "markdown":
        click.echo(as_markdown(table), nl=False)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(as_text(table, width))
    facts = [*networks_told(config), *notes(machine)]
    why = {"head": "a head is one layer on features of its own data set", "rgb": "an RGB head is as large as you like"}
    for kind, reason in why.items():
        if heads := [name for name, step in config.steps.items() if step.run == kind]:
            facts.append(f"not counted: {', '.join(heads)}; {reason}")
    for fact in facts:
        click.echo(textwrap.fill(fact, width or NOTE_WIDTH, subsequent_indent="  "))
