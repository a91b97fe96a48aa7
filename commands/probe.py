"""`deltactl probe`: how much of a label a linear probe reads off features or tokens, on held-out videos."""

from __future__ import annotations

from typing import Any

import click

from deltactl.commands.from_config import option_of
from deltactl.commands.options import Command, yes_option
from deltactl.configs.shared import DeviceConfig

POOLINGS = ("mean", "first-rest", "moments", "frames")


@click.command(
    cls=Command,
    example="""
        deltactl probe workspace/features/kinetics-vitb16-256
        deltactl probe workspace/tokens/train --test workspace/tokens/val --label clip.class
        deltactl probe workspace/tokens/other --probe workspace/reports/probe-train-1f0c6a2e
    """,
    sections={
        "What is told": ("label", "test", "held_out", "view", "where"),
        "Probe": ("pooling", "l2", "probe"),
        "Result": ("as_json",),
    },
)
@click.argument("store", metavar="FEATURES|TOKENS")
@click.option(
    "--label",
    metavar="COLUMN",
    help="Column of the classes, a text or a whole number of each clip.  [default: clip.class]",
)
@click.option(
    "--test",
    metavar="STORE",
    help="Test on the clips of another store, such as of another split; all clips of the first one train.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="X",
    help="Share of the videos that is held out to test on, whole and drawn by their names.  [default: 0.2]",
)
@click.option("--view", type=click.IntRange(min=0), metavar="N", help="View to look at.  [default: all]")
@click.option(
    "--where",
    metavar="FILE",
    help="List of clips to leave out, a key a line, such as the clips.txt of deltactl curate.",
)
@click.option(
    "--pool",
    "pooling",
    type=click.Choice(POOLINGS),
    help="What the frames of a clip become: mean, their mean; first-rest, the first and the mean of the others; "
    "moments, their mean and standard deviation; frames, all side by side.  [default: mean of features, first-rest of "
    "tokens]",
)
@click.option(
    "--l2",
    type=click.FloatRange(min=1e-9),
    metavar="X",
    help="Strength of the L2 penalty on the weights.  [default: chosen from 10 to 1e-5 on a fifth of the training "
    "videos]",
)
@click.option("--probe", metavar="DIR", help="Apply the probe that an earlier call wrote, in place of fitting one.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Which videos are held out; 0 holds out those that training does.",
)
@option_of(DeviceConfig, "device", default=None)
@click.option(
    "--out", metavar="DIR", help="Folder of the figures.  [default: reports/probe-STORE-HASH in the workspace]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@yes_option
def command(
    store: str,
    label: str | None,
    test: str | None,
    held_out: float | None,
    view: int | None,
    where: str | None,
    pooling: str | None,
    l2: float | None,
    probe: str | None,
    seed: int,
    device: str | None,
    out: str | None,
    as_json: bool,
    yes: bool,
) -> None:
    """Say how well a linear probe tells the classes of held-out videos.

    Multinomial logistic regression on one vector for each clip of a feature or token store; no video is decoded and no
    network runs. Videos are held out as a whole. Says how many are told right, by video and by clip, with 95 %
    intervals, beside chance and the commonest class; writes figures, predictions, which classes were taken for which,
    and the probe, which --probe applies to other stores.
    """
    import json

    from rich.console import Console

    from deltactl.commands.consent import consent
    from deltactl.errors import ConfigError
    from deltactl.evaluate.probe.plan import Settings
    from deltactl.evaluate.probe.run import run_probe
    from deltactl.evaluate.probe.tables import summary_tables

    fitting = {
        "--label": label,
        "--test": test,
        "--held-out": held_out,
        "--pool": pooling,
        "--l2": l2,
        "--seed": seed or None,
    }
    if probe is not None and (clash := next((name for name, value in fitting.items() if value is not None), None)):
        raise ConfigError(f"{clash} has no effect with --probe, which says what it tells, and is fitted; leave one out")
    if test is not None and held_out is not None:
        raise ConfigError("--held-out has no effect with --test, whose clips are the test; leave one out")
    given: dict[str, Any] = {
        "label": label or None,
        "test": test,
        "held_out": held_out,
        "pooling": pooling,
        "view": view,
        "where": where,
        "l2": l2,
        "probe": probe,
        "device": device or None,
    }
    settings = Settings(seed=seed, **{name: value for name, value in given.items() if value is not None})
    done = run_probe(store, settings, out, consent(yes))
    if as_json:
        click.echo(json.dumps(done.facts, indent=1, ensure_ascii=False))
        return
    console = Console()
    for table in summary_tables(done.facts):
        console.print(table)
    for name in ("probe.json", "confusion.png", "predictions.csv"):
        click.echo(done.folder / name)
