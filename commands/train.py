"""`deltactl train`: the tokenizer, world models, heads, or all stages of a recipe one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from deltactl.commands.from_config import Given, configured
from deltactl.commands.options import Command, Group, preset_names_for, set_option, yes_option
from deltactl.configs.head import HeadConfig
from deltactl.configs.rgb import RGBConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import RUN_CONFIG
from deltactl.configs.world import WorldConfig

if TYPE_CHECKING:
    from deltactl.train.loop import RunResult

SECTIONS = {"Start": ("init", "resume"), "Training": ("size", "steps", "lr")}
VIEWS = {"Random crops of live training": ("crop_area", "aspect", "flip")}
SHARED = ("out", "batch_size", "seed")
WHERE = {"Data": ("where",)}
SETS: Mapping[str, tuple[str, ...]] = {"Data": ("sets",)}
sets_option = click.option(
    "--data",
    "sets",
    metavar="DIR=WEIGHT|FILE",
    multiple=True,
    help="A data set and its weight, such as --data features/a=0.7 --data features/b=0.3, in place of the argument; or "
    "a YAML or JSON file of places and weights. Repeatable. Each set is gone through in an order of its own, and has "
    "its share of the samples, whatever its size.",
)


def config_of_run(given: Given) -> str | None:
    """Return the settings file of the run that `--resume auto` goes on with: what was not given anew is as it was."""
    out = given.get("out")
    if out is None or given.get("resume") != "auto" or "://" in out:
        return None
    from pathlib import Path

    file = Path(out).expanduser() / RUN_CONFIG
    return str(file) if file.is_file() else None


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
    from deltactl.recipes.run import check_inputs, plan_recipe, run_recipe

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
        deltactl train tokenizer --data features/kinetics-vitb16-256=0.7 --data features/driving-vitb16-256=0.3
        deltactl train tokenizer --resume auto --out runs/mine
    """,
    sections=SETS,
)
@click.argument("data", metavar="[STORE|SHARDS]", required=False)
@sets_option
@configured(
    TokenizerConfig,
    {
        **SECTIONS,
        **WHERE,
        "Network": ("network.tokens_per_frame", "network.token_dim"),
        "Frozen networks": ("backbone", "layers", "norm"),
        **VIEWS,
    },
    SHARED,
    others={"sets": "data"},
    start=config_of_run,
)
def train_tokenizer(config: TokenizerConfig) -> None:
    """Train the tokenizer from features, or live from shards.

    By default the only feature store in the workspace, else the only shards; --data names several, with weights.
    """
    _train(config, "deltatok")


@command.command(
    "world",
    cls=Command,
    example="""
        deltactl train world tokens/kinetics-vitb16-512
        deltactl train world --config deltaworld-2-cooldown --resume runs/deltaworld --out runs/deltaworld-2
        deltactl train world --data tokens/kinetics-vitb16-512=0.7 --data tokens/driving-vitb16-512=0.3
        deltactl train world features/kinetics-vitb16-512 --config dinoworld
    """,
    sections=SETS,
)
@click.argument("data", metavar="[TOKENS|STORE|SHARDS]", required=False)
@sets_option
@configured(
    WorldConfig,
    {**SECTIONS, **WHERE, "Frozen networks": ("tokenizer", "backbone", "layers", "norm"), **VIEWS},
    SHARED,
    others={"sets": "data"},
    start=config_of_run,
)
def train_world(config: WorldConfig) -> None:
    """Train a world model from tokens, features, or live from shards.

    By default DeltaWorld (--config dinoworld is the baseline) on the only tokens in the workspace; --data names several
    sets, with weights.
    """
    _train(config, "deltaworld")


@command.command(
    "head",
    cls=Command,
    example="""
        deltactl train head --dataset vspw --shards shards/vspw-train-512 --store features/vspw-train-vitb16-512
    """,
)
@configured(
    HeadConfig,
    {**SECTIONS, "Data": ("dataset", "shards", "data")},
    SHARED,
    names={"data": "--store"},
    needed=("dataset",),
    start=config_of_run,
)
def train_head(config: HeadConfig) -> None:
    """Train a head on the features of a data set's training split.

    A linear probe: classes for VSPW and Cityscapes, depth for KITTI.
    """
    from deltactl.configs.follow import is_set
    from deltactl.configs.values import choices
    from deltactl.errors import ConfigError

    if not is_set(config, "dataset") and click.get_current_context().params["config"] is None:
        known = choices(HeadConfig.model_fields["dataset"])
        raise ConfigError(f"no data set is named; add --dataset, one of {', '.join(known)}")
    from deltactl.datasets.known import labelled_set
    from deltactl.train.run import train

    _end(train(config, f"head-{labelled_set(config.dataset).name}"))


@command.command(
    "rgb",
    cls=Command,
    example="""
        deltactl train rgb features/videos-vitb16-256
        deltactl train rgb features/videos-vitb16-256 --width 768 --depth 12 --steps 100000
        deltactl train rgb features/videos-vitb16-256 --init Amazon-FAR/rgb-head-imagenet --lr 1e-4
        deltactl predict video.mp4 --tokenizer runs/tokenizer --world runs/world --rgb-head runs/rgb
    """,
)
@click.argument("data", metavar="[STORE]", required=False)
@configured(
    RGBConfig,
    {
        **SECTIONS,
        "Data": ("shards", "where"),
        "Network": ("network.width", "network.depth"),
        "Frozen networks": ("backbone", "layers", "norm"),
    },
    SHARED,
    start=config_of_run,
)
def train_rgb(config: RGBConfig) -> None:
    """Train the head that makes pictures of features.

    It learns from a feature store, by default the only one in the workspace, and the shards that the store was made
    from. The result is for the --rgb-head of eval and predict.
    """
    from deltactl.train.run import train

    _end(train(config, _run_name("rgb")))


def _train(config: TokenizerConfig | WorldConfig, default_name: str) -> None:
    """Train the network that a configuration describes."""
    from deltactl.evaluate.during_training import callbacks_for
    from deltactl.train.run import train

    _end(train(config, _run_name(default_name), callbacks_for(config)))


def _run_name(default: str) -> str:
    """Return what the run is called in the workspace: as its preset, where there is one."""
    preset: str | None = click.get_current_context().params["config"]
    return default if preset is None else preset.rpartition("/")[2].removesuffix(".yaml")


def _end(result: RunResult) -> None:
    """Print how a run ended, once for all its processes; a stop is a failure to whoever waits for it."""
    from deltactl.errors import STOPPED_CODE
    from deltactl.train.processes import is_first_process

    for line in result.lines() if is_first_process() else ():
        click.echo(line, err=result.stopped)
    if result.stopped:
        click.get_current_context().exit(1 if result.signal is None else STOPPED_CODE + result.signal)
