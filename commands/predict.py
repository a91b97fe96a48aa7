"""`deltactl predict VIDEO`: possible futures of any video."""

from __future__ import annotations

import click

from deltactl.commands.options import (
    Command,
    config_option,
    device_option,
    out_option,
    precision_option,
    seed_option,
    set_option,
    yes_option,
)


@click.command(
    cls=Command,
    example="deltactl predict street.mp4 --tokenizer Amazon-FAR/deltatok-kinetics "
    "--world Amazon-FAR/deltaworld-kinetics\n"
    "deltactl predict street.mp4 --tokenizer tok.bin --world world.bin --at 2.5 --head Amazon-FAR/seg-head-cityscapes",
    sections={
        "Moments": ("context", "horizon", "stride", "at", "fps", "crop"),
        "Networks": ("backbone", "size", "tokenizer", "world", "heads", "rgb_head", "samples"),
    },
)
@click.argument("video")
@click.option("--context", type=click.IntRange(1, 64), help="Frames to predict from.  [default: 4]")
@click.option("--horizon", type=click.IntRange(1, 100), help="Frames to predict.  [default: 3]")
@click.option(
    "--stride",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="From one frame to the next.  [default: 0.2]",
)
@click.option(
    "--at",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="When the last context frame is shown.  [default: the end of the video]",
)
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Rate of a folder whose frames are numbered.")
@click.option(
    "--crop", type=click.Choice(["centre", "whole"]), help="The square in the middle, or all.  [default: centre]"
)
@click.option("--backbone", metavar="NAME|DIR", help="Frozen DINOv3.  [default: DELTACTL_BACKBONE, else ViT-B/16]")
@click.option("--size", type=click.IntRange(min=16), help="Short side of the frames, in pixels.  [default: 512]")
@click.option("--tokenizer", metavar="CKPT", help="DeltaTok: a file, a run or a Hub name; needed.")
@click.option("--world", metavar="CKPT", help="DeltaWorld, likewise.")
@click.option("--head", "heads", metavar="CKPT", multiple=True, help="Segmentation or depth head; repeatable.")
@click.option(
    "--rgb-head", metavar="CKPT", help="Makes pictures of features.  [default: RGB_HEAD_PATH; else colours of PCA]"
)
@click.option("--samples", type=click.IntRange(1, 1000), help="Futures to draw.  [default: 20]")
@seed_option
@device_option
@precision_option
@out_option
@config_option
@set_option
@yes_option
def command(
    video: str,
    context: int | None,
    horizon: int | None,
    stride: float | None,
    at: float | None,
    fps: float | None,
    crop: str | None,
    backbone: str | None,
    size: int | None,
    tokenizer: str | None,
    world: str | None,
    heads: tuple[str, ...],
    rgb_head: str | None,
    samples: int | None,
    seed: int | None,
    device: str | None,
    precision: str | None,
    out: str | None,
    config: str | None,
    assignments: tuple[str, ...],
    yes: bool,
) -> None:
    """Roll out futures of a video.

    VIDEO is a video file, or a folder of frames: frame_SECONDS.jpg, or numbered ones with --fps. Its last frames (or
    those up to --at) are the context. Out come a strip of pictures, an animation, the features, and what each head
    says of every future. Where the video goes on after --at, what really came is shown beside the futures.

    Networks are trained on squares, so of a wide or tall frame the square in the middle is used; --crop whole takes
    all of it, beyond what they were trained on.
    """
    from deltactl.configs.evaluate import RGB_HEAD_VARIABLE
    from deltactl.configs.load import BACKBONE, resolve
    from deltactl.configs.predict import PredictConfig

    settings = resolve(
        PredictConfig,
        config=config,
        environment={**BACKBONE, "rgb_head": RGB_HEAD_VARIABLE},
        flags={
            "video": video,
            "context": context,
            "horizon": horizon,
            "stride": stride,
            "at": at,
            "fps": fps,
            "crop": crop,
            "backbone": backbone,
            "size": size,
            "tokenizer": tokenizer,
            "world": world,
            "heads": list(heads) or None,
            "rgb_head": rgb_head,
            "samples": samples,
            "seed": seed,
            "device": device,
            "precision": precision,
            "out": out,
        },
        assignments=assignments,
    )
    from deltactl.commands.consent import consent
    from deltactl.evaluate.predict import run_predict

    folder = run_predict(settings, lambda line: click.echo(line, err=True), consent(yes))
    for name in ("futures.png", "futures.gif", "features.npz"):
        click.echo(folder / name)
