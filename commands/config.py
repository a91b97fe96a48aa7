"""`deltactl config`: the presets, and the complete settings of one."""

from __future__ import annotations

import click

from deltactl.commands.options import Command, Group, preset_names_for, set_option


@click.group(cls=Group, example="deltactl config show deltaworld --set lr=2e-4 > mine.yaml")
def command() -> None:
    """List and show presets."""


@command.command("list", cls=Command, example="deltactl config list")
def list_presets() -> None:
    """List the presets of every stage.

    Each name goes to --config (of a recipe: to --recipe), and to `deltactl config show`. The name of a stage itself
    stands for its defaults.
    """
    from deltactl.configs.load import STAGES, load_preset, preset_names, stage_model

    presets = [load_preset(name) for name in preset_names()]
    width = max(len(name) for name in [*preset_names(), *STAGES])
    for stage in STAGES:
        click.echo(stage)
        missing = stage_model(stage).required()
        click.echo(f"  {stage:{width}}  defaults{f', without {_listed(missing)}' if missing else ''}")
        for preset in presets:
            if preset.stage == stage:
                click.echo(f"  {preset.name:{width}}  {preset.summary}")


@command.command(
    "show",
    cls=Command,
    example="deltactl config show deltaworld\ndeltactl config show deltaworld --set lr=2e-4\n"
    "deltactl config show dataset > streets.yaml",
)
@click.argument("name", metavar="NAME|FILE", shell_complete=preset_names_for)
@set_option
def show_preset(name: str, assignments: tuple[str, ...]) -> None:
    """Show all settings of a preset, a stage's defaults or a file.

    The output says what each setting is, and is itself a file for --config. Settings that have no default, such as
    the video of `predict`, and those that follow the data where they are not set, are shown as comments. `dataset`
    shows an example of a file that tells of a data set, for --dataset.
    """
    from deltactl.configs.base import complete_values, parse
    from deltactl.configs.dataset import STAGE, example
    from deltactl.configs.load import COMMAND_STAGES, STAGES, layered, load_preset, preset_names, stage_model
    from deltactl.configs.show import values_to_yaml
    from deltactl.errors import ConfigError

    if name == STAGE:
        if assignments:
            raise ConfigError(f"--set {assignments[0]} is for the settings of stages; edit the file instead")
        click.echo(example(), nl=False)
        return
    name = COMMAND_STAGES.get(name, name)
    stage: str | None = name
    config, summary = None, ""
    if name not in STAGES or name in preset_names():
        preset = load_preset(name)
        config, stage, summary = name, preset.stage, preset.summary
    if stage is None:
        raise ConfigError(f"{name} does not say what it is for; add a line `stage: {'|'.join(STAGES)}`")
    model = stage_model(stage)
    layers = layered(model, config=config, assignments=assignments, environment=False)
    values = complete_values(model, *layers)
    given = parse(model, *layers) if all(name in values for name in model.required()) else None
    click.echo(values_to_yaml(values, model, stage, summary, given), nl=False)


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
