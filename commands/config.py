"""`deltactl config`: the presets, and the complete settings of one."""

from __future__ import annotations

import click

from deltactl.commands.options import Command, Group, set_option


@click.group(cls=Group, example="deltactl config show deltaworld --set lr=2e-4 > mine.yaml")
def command() -> None:
    """List and show presets."""


@command.command("list", cls=Command, example="deltactl config list")
def list_presets() -> None:
    """List the presets of every stage.

    Each name goes to --config (of a recipe: to --recipe), and to `deltactl config show`. The name of a stage itself
    stands for its defaults.
    """
    from deltactl.configs.load import load_preset, preset_names, stage_model, stages

    presets = [load_preset(name) for name in preset_names()]
    width = max(len(name) for name in [*preset_names(), *stages()])
    for stage in stages():
        click.echo(stage)
        if not stage_model(stage).required():
            click.echo(f"  {stage:{width}}  defaults")
        for preset in presets:
            if preset.stage == stage:
                click.echo(f"  {preset.name:{width}}  {preset.summary}")


@command.command(
    "show", cls=Command, example="deltactl config show deltaworld\ndeltactl config show deltaworld --set lr=2e-4"
)
@click.argument("name", metavar="NAME|FILE")
@set_option
def show_preset(name: str, assignments: tuple[str, ...]) -> None:
    """Show all settings of a preset, a stage's defaults or a file.

    The output says what each setting is, and is itself a file for --config.
    """
    from deltactl.configs.load import load_preset, preset_names, resolve, stage_model, stages
    from deltactl.configs.show import to_yaml
    from deltactl.errors import ConfigError

    if name in stages() and name not in preset_names():
        click.echo(to_yaml(resolve(stage_model(name), assignments=assignments), name), nl=False)
        return
    preset = load_preset(name)
    if preset.stage is None:
        raise ConfigError(f"{name} does not say what it is for; add a line `stage: {'|'.join(stages())}`")
    settings = resolve(stage_model(preset.stage), config=name, assignments=assignments)
    click.echo(to_yaml(settings, preset.stage, preset.summary), nl=False)
