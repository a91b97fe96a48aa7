"""`deltactl surprise SOURCE`: how far what came lies from what the world model had sampled."""

from __future__ import annotations

import click

from deltactl.commands.from_config import configured
from deltactl.commands.options import Command, yes_option
from deltactl.configs.surprise import SurpriseConfig


@click.command(
    cls=Command,
    example="deltactl surprise street.mp4 --tokenizer Amazon-FAR/deltatok-kinetics "
    "--world Amazon-FAR/deltaworld-kinetics\n"
    "deltactl surprise workspace/tokens/mine --world workspace/runs/world\n"
    "deltactl surprise ~/set --pairs pairs.csv --tokenizer tok.bin --world world.bin --size 256",
)
@click.argument("source")
@configured(
    SurpriseConfig,
    {
        "Frames": ("pairs", "context", "horizon", "stride", "start", "end", "fps", "crop"),
        "Networks": ("backbone", "layers", "norm", "size", "tokenizer", "world", "samples"),
    },
    ("seed", "device", "precision", "limit", "out"),
)
@yes_option
def command(config: SurpriseConfig, yes: bool) -> None:
    """Say how surprising the frames of videos or clips are.

    SOURCE is a video file, a folder of frames, shards, features or tokens. For each frame that has a full context
    before it: the distance of what came to the nearest of the samples, to their mean and to the last frame, and its
    rank among the samples, which is uniform where the model is right. Of features and of tokens, where both are to be
    had. Writes a table, a picture, of a video also an animation.

    With --pairs, possible and impossible videos told in a CSV file, SOURCE is the folder that they lie in, or clips of
    them: how often the impossible one is more surprising, with 95 % intervals.
    """
    from rich.console import Console

    from deltactl.commands.consent import consent
    from deltactl.evaluate.surprise.run import run_surprise
    from deltactl.evaluate.surprise.summary import summary_tables

    result = run_surprise(config, lambda line: click.echo(line, err=True), consent(yes))
    console = Console()
    for table in summary_tables(result.summary):
        console.print(table)
    for name in ("scores.csv", "surprise.png"):
        click.echo(result.folder / name)
