"""`deltactl eval`: the published table from a data set and checkpoints."""

from __future__ import annotations

import click

from deltactl.commands.options import (
    Command,
    batch_size_option,
    config_option,
    device_option,
    limit_option,
    max_bad_option,
    out_option,
    precision_option,
    seed_option,
    set_option,
    workers_option,
    yes_option,
)


class Horizons(click.ParamType[list[int]]):
    """Numbers of frames, such as `1,3`."""

    name = "horizons"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Return the numbers."""
        try:
            return [int(number) for number in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers of frames, such as 1,3", param, ctx)


@click.command(
    cls=Command,
    example="deltactl eval --dataset vspw --tokenizer Amazon-FAR/deltatok-kinetics "
    "--world Amazon-FAR/deltaworld-kinetics\n"
    "deltactl eval --dataset kitti --root ~/kitti --split-file eigen_test.txt --head head.bin --no-cache",
    sections={
        "Data": ("dataset", "root", "split_file", "backbone", "size", "cache"),
        "Checkpoints": ("tokenizer", "world", "dinoworld", "head", "rgb_head"),
        "Protocol": ("horizons", "context", "samples", "encoding", "extras"),
        "Report": ("pictures", "against"),
    },
)
@click.option(
    "--dataset", type=click.Choice(["vspw", "cityscapes", "kitti"]), required=True, help="The evaluation set."
)
@click.option("--root", metavar="DIR", help="Its tree.  [default: VSPW_ROOT, CITYSCAPES_ROOT or KITTI_ROOT]")
@click.option("--split-file", metavar="FILE", help="For KITTI the Eigen split; for VSPW in place of val.txt.")
@click.option("--backbone", metavar="NAME|DIR", help="Frozen DINOv3.  [default: DELTACTL_BACKBONE, else ViT-B/16]")
@click.option("--size", type=click.IntRange(min=16), help="Short side of the frames, in pixels.  [default: 512]")
@click.option("--cache/--no-cache", default=None, help="Keep shards and features, or nothing.  [default: cache]")
@click.option("--tokenizer", metavar="CKPT", help="DeltaTok: a file, a run or a Hub name.")
@click.option("--world", metavar="CKPT", help="DeltaWorld, likewise; needs --tokenizer.")
@click.option("--dinoworld", metavar="CKPT", help="The DINO-world baseline, likewise.")
@click.option("--head", metavar="CKPT", help="Head of the set.  [default: VSPW_HEAD_PATH and the like]")
@click.option("--rgb-head", metavar="CKPT", help="Makes pictures of features.  [default: RGB_HEAD_PATH]")
@click.option("--horizons", type=Horizons(), metavar="H,H", help="Frames ahead.  [default: 1,3]")
@click.option("--context", type=click.IntRange(1, 6), help="True frames to predict from.  [default: 4]")
@click.option("--samples", type=click.IntRange(min=1), help="Futures of each clip.  [default: 20]")
@click.option(
    "--encoding",
    type=click.Choice(["sequential", "parallel"]),
    help="DeltaTok encodes against its reconstruction, or the true frame.  [default: sequential]",
)
@click.option(
    "--extras/--no-extras", default=None, help="Best of k, diversity, drift and noise null too.  [default: extras]"
)
@click.option("--pictures", type=click.IntRange(0, 100), metavar="N", help="Clips to show.  [default: 3]")
@click.option(
    "--against",
    type=click.Choice(["paper"]),
    help="Put the published values beside these even where they do not compare.  [default: where they do]",
)
@seed_option
@device_option
@precision_option
@batch_size_option
@workers_option
@out_option
@limit_option
@max_bad_option
@click.option("--retry-failed", is_flag=True, help="Make cached shards with quarantined sources again.")
@config_option
@set_option
@yes_option
def command(
    dataset: str,
    root: str | None,
    split_file: str | None,
    backbone: str | None,
    size: int | None,
    cache: bool | None,
    tokenizer: str | None,
    world: str | None,
    dinoworld: str | None,
    head: str | None,
    rgb_head: str | None,
    horizons: list[int] | None,
    context: int | None,
    samples: int | None,
    encoding: str | None,
    extras: bool | None,
    pictures: int | None,
    against: str | None,
    seed: int | None,
    device: str | None,
    precision: str | None,
    batch_size: int | None,
    workers: int | None,
    out: str | None,
    limit: int | None,
    max_bad: float | None,
    retry_failed: bool,
    config: str | None,
    assignments: tuple[str, ...],
    yes: bool,
) -> None:
    """Compute the published table from a data set and checkpoints.

    Makes shards and features of the set first, where the workspace does not have them, after saying what disk they
    take. Rows whose checkpoint is not given are left out. The tables go to the terminal, all numbers to metrics.json;
    report.html, a page that needs nothing else, has both with charts and pictures.
    """
    from deltactl.configs.evaluate import HEAD_VARIABLES, RGB_HEAD_VARIABLE, EvaluateConfig
    from deltactl.configs.ingest import ROOTS
    from deltactl.configs.load import BACKBONE, resolve

    settings = resolve(
        EvaluateConfig,
        config=config,
        environment={
            **BACKBONE,
            "root": ROOTS[dataset],
            "head": HEAD_VARIABLES[dataset],
            "rgb_head": RGB_HEAD_VARIABLE,
        },
        flags={
            "dataset": dataset,
            "root": root,
            "split_file": split_file,
            "backbone": backbone,
            "size": size,
            "cache": cache,
            "tokenizer": tokenizer,
            "world": world,
            "dinoworld": dinoworld,
            "head": head,
            "rgb_head": rgb_head,
            "horizons": horizons,
            "context": context,
            "samples": samples,
            "encoding": encoding,
            "extras": extras,
            "pictures": pictures,
            "against": against,
            "seed": seed,
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
            "workers": workers,
            "out": out,
            "limit": limit,
            "max_bad": max_bad,
            "retry_failed": retry_failed or None,
        },
        assignments=assignments,
    )
    from rich.console import Console

    from deltactl.commands.consent import consent
    from deltactl.evaluate.run import run as run_evaluate
    from deltactl.evaluate.table import tables

    report = run_evaluate(settings, lambda line: click.echo(line, err=True), consent(yes))
    console = Console()
    for table in tables(report.metrics):
        console.print(table)
    for line in report.summary.lines():
        click.echo(line, err=True)
    click.echo(f"metrics: {report.folder / 'metrics.json'}")
    click.echo(f"report: {report.folder / 'report.html'}")
