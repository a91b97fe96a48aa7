"""`deltactl train`: the tokenizer, the world models, the heads, or all stages of a recipe one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deltactl.commands.options import (
    Command,
    Group,
    batch_size_option,
    config_option,
    out_option,
    preset_names_for,
    seed_option,
    set_option,
    yes_option,
)

if TYPE_CHECKING:
    from deltactl.train.loop import RunResult

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

SECTIONS = {"Start": ("init", "resume"), "Training": ("size", "steps", "lr")}


def training_options(function: Decorated) -> Decorated:
    """Add what the training of every network takes."""
    size = click.option(
        "--size", type=click.IntRange(min=16), help="Side of the frames, in pixels.  [default: the data's]"
    )
    steps = click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps at which the run ends.")
    rate = click.option("--lr", type=click.FloatRange(min=0, min_open=True), metavar="X", help="Learning rate.")
    resume = click.option("--resume", metavar="CKPT|auto", help="Go on from a full state; auto: from this run's last.")
    init = click.option("--init", metavar="CKPT", help="Start from these weights; optimiser and step begin anew.")
    own = init(resume(size(steps(rate(function)))))
    return config_option(set_option(seed_option(batch_size_option(out_option(own)))))


@click.group(
    cls=Group,
    invoke_without_command=True,
    example="""
        deltactl train --recipe published
        deltactl train tokenizer features/kinetics-vitb16-256 --config deltatok-1-pretrain-256
        deltactl train world tokens/kinetics-vitb16-512 --resume auto
    """,
    sections={"Recipe": ("recipe",)},
)
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    shell_complete=preset_names_for,
    help="Preset of the stage `recipe`.  [default: published]",
)
@set_option
@yes_option
@click.pass_context
def command(context: click.Context, recipe: str | None, assignments: tuple[str, ...], yes: bool) -> None:
    """Train the tokenizer, the world model and the heads.

    Without a subcommand: run the missing steps of a recipe, one after the other, after printing the plan, looking at
    the inputs of all of them, and asking. Where there is no terminal to ask on, nothing starts without --yes (exit
    code 1). Run it again to go on after a stop.
    """
    if context.invoked_subcommand is not None:
        if recipe is not None or assignments or yes:
            raise click.UsageError(
                f"--recipe, --set and --yes before {context.invoked_subcommand!r} are of the recipe; put them after it",
                context,
            )
        return
    from deltactl.commands.consent import agreed
    from deltactl.configs.load import resolve
    from deltactl.configs.recipe import RecipeConfig
    from deltactl.train.recipe import check_inputs, plan_recipe, run_recipe

    steps = plan_recipe(resolve(RecipeConfig, config=recipe or "published", assignments=assignments))
    for step in steps:
        click.echo(step.line())
    missing = [step for step in steps if not step.done]
    if not missing:
        click.echo("every step is done")
        return
    check_inputs(missing)
    agreed(yes, f"Run {len(missing)} steps?", f"nothing was started: {len(missing)} steps are to do")
    run_recipe(missing)


@command.command(
    "tokenizer",
    cls=Command,
    example="""
        deltactl train tokenizer features/kinetics-vitb16-256 --config deltatok-1-pretrain-256
        deltactl train tokenizer shards/kinetics --set trainer.devices=8        (live: fresh crops at every step)
        deltactl train tokenizer --resume auto --out runs/mine
    """,
    sections=SECTIONS,
)
@click.argument("data", metavar="[STORE|SHARDS]", required=False)
@training_options
@click.option(
    "--backbone",
    metavar="NAME|DIR",
    help="Frozen backbone for shards.  [default: as at hand, else DELTACTL_BACKBONE, else ViT-B/16]",
)
def train_tokenizer(
    data: str | None,
    config: str | None,
    assignments: tuple[str, ...],
    seed: int | None,
    batch_size: int | None,
    out: str | None,
    init: str | None,
    resume: str | None,
    size: int | None,
    steps: int | None,
    lr: float | None,
    backbone: str | None,
) -> None:
    """Train the tokenizer from features, or live from shards.

    By default the only feature store in the workspace, else the only shards.
    """
    from deltactl.configs.load import BACKBONE, resolve
    from deltactl.configs.tokenizer import TokenizerConfig

    flags = {
        "data": data,
        "seed": seed,
        "batch_size": batch_size,
        "out": out,
        "init": init,
        "resume": resume,
        "size": size,
        "steps": steps,
        "lr": lr,
        "backbone": backbone,
    }
    settings = resolve(
        TokenizerConfig,
        config=config or own_settings(out, resume),
        environment=BACKBONE,
        flags=flags,
        assignments=assignments,
    )

    from deltactl.evaluate.during_training import callbacks_for
    from deltactl.train.run import train

    result = train(settings, _name(config, "deltatok"), callbacks_for(settings))
    _end(result)


@command.command(
    "world",
    cls=Command,
    example="""
        deltactl train world tokens/kinetics-vitb16-512
        deltactl train world --config deltaworld-2-cooldown --resume runs/deltaworld --out runs/deltaworld-2
        deltactl train world features/kinetics-vitb16-512 --config dinoworld
    """,
    sections={**SECTIONS, "Frozen networks": ("tokenizer", "backbone")},
)
@click.argument("data", metavar="[TOKENS|STORE|SHARDS]", required=False)
@training_options
@click.option("--tokenizer", metavar="CKPT", help="Frozen tokenizer, to train from features or shards.")
@click.option(
    "--backbone",
    metavar="NAME|DIR",
    help="Frozen backbone for shards.  [default: as at hand, else DELTACTL_BACKBONE, else ViT-B/16]",
)
def train_world(
    data: str | None,
    config: str | None,
    assignments: tuple[str, ...],
    seed: int | None,
    batch_size: int | None,
    out: str | None,
    init: str | None,
    resume: str | None,
    size: int | None,
    steps: int | None,
    lr: float | None,
    tokenizer: str | None,
    backbone: str | None,
) -> None:
    """Train a world model from tokens, features, or live from shards.

    By default DeltaWorld (--config dinoworld is the baseline) on the only tokens in the workspace.
    """
    from deltactl.configs.load import BACKBONE, resolve
    from deltactl.configs.world import WorldConfig

    flags = {
        "data": data,
        "seed": seed,
        "batch_size": batch_size,
        "out": out,
        "init": init,
        "resume": resume,
        "size": size,
        "steps": steps,
        "lr": lr,
        "tokenizer": tokenizer,
        "backbone": backbone,
    }
    settings = resolve(
        WorldConfig,
        config=config or own_settings(out, resume),
        environment=BACKBONE,
        flags=flags,
        assignments=assignments,
    )

    from deltactl.evaluate.during_training import callbacks_for
    from deltactl.train.run import train

    result = train(settings, _name(config, "deltaworld"), callbacks_for(settings))
    _end(result)


@command.command(
    "head",
    cls=Command,
    example="""
        deltactl train head --dataset vspw --shards shards/vspw-train-512 --store features/vspw-train-vitb16-512
    """,
    sections={**SECTIONS, "Data": ("dataset", "shards", "store")},
)
@click.option("--dataset", type=click.Choice(["vspw", "cityscapes", "kitti"]), help="What the head learns.  [required]")
@click.option("--shards", metavar="DIR", help="Shards of the training split, with labels.  [default: in the workspace]")
@click.option("--store", metavar="DIR", help="Features of those shards.  [default: in the workspace]")
@training_options
def train_head(
    dataset: str | None,
    shards: str | None,
    store: str | None,
    config: str | None,
    assignments: tuple[str, ...],
    seed: int | None,
    batch_size: int | None,
    out: str | None,
    init: str | None,
    resume: str | None,
    size: int | None,
    steps: int | None,
    lr: float | None,
) -> None:
    """Train a head on the features of a data set's training split.

    A linear probe: classes for VSPW and Cityscapes, depth for KITTI.
    """
    from deltactl.configs.head import HeadConfig
    from deltactl.configs.load import resolve
    from deltactl.errors import ConfigError

    flags = {
        "dataset": dataset,
        "shards": shards,
        "data": store,
        "seed": seed,
        "batch_size": batch_size,
        "out": out,
        "init": init,
        "resume": resume,
        "size": size,
        "steps": steps,
        "lr": lr,
    }
    own = own_settings(out, resume)
    if (
        dataset is None
        and config is None
        and own is None
        and not any(text.startswith("dataset=") for text in assignments)
    ):
        raise ConfigError("no data set is named; add --dataset vspw, cityscapes or kitti")
    settings = resolve(HeadConfig, config=config or own, flags=flags, assignments=assignments)

    from deltactl.train.heads_run import train_head as train

    result = train(settings)
    _end(result)


def own_settings(out: str | None, resume: str | None) -> str | None:
    """Return the settings file of the run that `--resume auto` goes on with: what was not given anew is as it was."""
    if out is None or resume != "auto" or "://" in out:
        return None
    from pathlib import Path

    from deltactl.configs.training import RUN_SETTINGS

    file = Path(out).expanduser() / RUN_SETTINGS
    return str(file) if file.is_file() else None


def _name(config: str | None, default: str) -> str:
    """Return what a run is called in the workspace: its preset's name."""
    return default if config is None else config.rpartition("/")[2].removesuffix(".yaml")


def _end(result: RunResult) -> None:
    """Print how a run ended, once for all its processes; a stop is a failure to whoever waits for it."""
    from deltactl.errors import STOPPED_CODE
    from deltactl.train.loop import is_first_process

    for line in result.lines() if is_first_process() else ():
        click.echo(line, err=result.stopped)
    if result.stopped:
        click.get_current_context().exit(1 if result.signal is None else STOPPED_CODE + result.signal)
