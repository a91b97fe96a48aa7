"""`deltactl predict VIDEO`: possible futures of any video."""

from __future__ import annotations

import click

from deltactl.commands.from_config import configured
from deltactl.commands.options import Command, yes_option
from deltactl.configs.predict import PredictConfig


@click.command(
    cls=Command,
    example="deltactl predict street.mp4 --tokenizer Amazon-FAR/deltatok-kinetics "
    "--world Amazon-FAR/deltaworld-kinetics\n"
    "deltactl predict street.mp4 --tokenizer tok.bin --world world.bin --at 2.5 --head Amazon-FAR/seg-head-cityscapes",
)
@click.argument("video")
@configured(
    PredictConfig,
    {
        "Moments": ("context", "horizon", "stride", "at", "fps", "crop"),
        "Networks": ("backbone", "layers", "norm", "size", "tokenizer", "world", "heads", "rgb_head", "samples"),
    },
    ("seed", "device", "precision", "out"),
    names={"heads": "--head"},
)
@yes_option
def command(config: PredictConfig, yes: bool) -> None:
    """Roll out futures of a video.

    VIDEO is a video file, or a folder of frames: frame_SECONDS.jpg, or numbered ones with --fps. Its last frames (or
    those up to --at) are the context. Writes a strip of pictures, an animation, the features, and what each head says
    of every future. Where the video goes on after --at, what really came is shown beside the futures.

    Of a frame the largest part in the middle that has the shape of --size is used, a square for N; so networks see the
    shape that they were trained on. --crop whole takes all of it, resized to HxW; or for N, whose networks were trained
    on squares, with its own shape, beyond what they have seen.
    """
    from deltactl.commands.consent import consent
    from deltactl.evaluate.predict.run import run_predict

    folder = run_predict(config, lambda line: click.echo(line, err=True), consent(yes))
    for name in ("futures.png", "futures.gif", "features.npz"):
        click.echo(folder / name)
