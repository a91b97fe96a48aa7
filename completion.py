"""What the shell completes: presets after `--config` and `--recipe`, and the settings and values of `--set`.

Candidates come from the presets and configuration models alone; nothing heavier than pydantic is imported. `Bash`,
`Zsh` and `Fish` are click's, with files if there is nothing else to complete, and for bash with `KEY=VALUE` mended.
"""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    shell_complete,
)

from deltactl.configs.load import COMMAND_STAGES, STAGES, load_preset, preset_names, stage_model

EXAMPLES = ("dataset",)
"""What `config show` shows besides presets and stages."""
STAGE_OF = {**COMMAND_STAGES, "train": "recipe", "plan": "recipe"}
"""The stage of each command that is not named after it."""


def complete_preset(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the presets for this command; for `config show` those of all stages, and the stages."""
    presets = [load_preset(name) for name in preset_names() if name.startswith(incomplete)]
    if isinstance(parameter, click.Option):
        stage = _stage_of_command(context)
        found = [CompletionItem(each.name, help=each.summary) for each in presets if each.stage == stage]
    else:
        found = [CompletionItem(each.name, help=each.summary) for each in presets]
        names = {each.name for each in presets}
        found += [
            CompletionItem(stage, help="the defaults of this stage")
            for stage in STAGES
            if stage.startswith(incomplete) and stage not in names
        ]
        found += [
            CompletionItem(each, help="an example of a file for --dataset")
            for each in EXAMPLES
            if each.startswith(incomplete)
        ]
    return found


def complete_assignment(
    context: click.Context,
    parameter: click.Parameter,  # noqa: ARG001  (the signature is click's)
    incomplete: str,
) -> list[CompletionItem[Any]]:
    """Return `KEY=` for each setting of the command's stage that goes on so; behind `KEY=` the values it may have."""
    from deltactl.configs.base import settings

    stage = _stage_of_command(context) or _stage_of_preset(context)
    if stage is None:
        return []
    model = stage_model(stage)
    key, equals, value = incomplete.partition("=")
    if equals:
        return [CompletionItem(f"{key}={each}") for each in values_of(model, key) if each.startswith(value)]
    known = dict(settings(model))
    groups = {name.rpartition(".")[0] for name in known}
    return [
        CompletionItem(f"{name}=", help=doc)
        for name, doc in known.items()
        if name.startswith(incomplete) and name not in groups
    ]


def values_of(model: type[Any], key: str) -> list[str]:
    """Return the values of a setting that has few: those of a choice, true and false, null if it may be absent."""
    from deltactl.configs.base import inner_model
    from deltactl.configs.values import choices

    *folders, name = key.split(".")
    for folder in folders:
        field = model.model_fields.get(folder)
        inner = inner_model(field.annotation) if field is not None else None
        if inner is None:
            return []
        model = inner
    field = model.model_fields.get(name)
    return choices(field) if field is not None else []


def _stage_of_command(context: click.Context) -> str | None:
    """Return the stage whose settings the command takes; None for `config show`, whose preset says it."""
    name = context.info_name or ""
    stage = STAGE_OF.get(name, name)
    return stage if stage in STAGES else None


def _stage_of_preset(context: click.Context) -> str | None:
    from deltactl.errors import DeltactlError

    # Parsing ends at a `--set` whose value is not there yet; the name then still stands among the words.
    name = context.params.get("name") or next(iter(context.args), None)
    if not isinstance(name, str):
        return None
    name = COMMAND_STAGES.get(name, name)
    try:
        return name if name in STAGES and name not in preset_names() else load_preset(name).stage
    except (DeltactlError, OSError):
        return None


class _Files(ShellComplete):
    """Completes files if there is nothing else to complete: most arguments are paths."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        """Return the candidates, or one that stands for files."""
        found = super().get_completions(args, incomplete)
        return found or ([] if incomplete.startswith("-") else [CompletionItem(incomplete, type="file")])


class Bash(_Files, BashComplete):
    """Completion for bash, which splits words at `=` and puts a space after a candidate."""

    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", "COMPREPLY+=($value)\n            [[ $value == *= ]] && compopt -o nospace"
    )

    _before = ""
    """What of the word to complete stands before its `=`, and the `=`."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one to complete, and that one, put together again around each `=`."""
        words, incomplete = super().get_completion_args()
        joined: list[str] = []
        for word in [*words, incomplete]:
            behind_option = bool(joined) and joined[-1].startswith("-")
            if word == "=" and behind_option:
                joined += [""] if word is incomplete else []  # `--config=`: the value is a word of its own
            elif joined and not behind_option and (word == "=" or joined[-1].endswith("=")):
                joined[-1] += word
            else:
                joined.append(word)
        self._before = joined[-1].rpartition("=")[0] + "=" if "=" in joined[-1] else ""
        return joined[:-1], joined[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return the line for the shell, without what stands before `=`, which bash takes for a word of its own."""
        return f"{item.type},{str(item.value).removeprefix(self._before)}"


class Zsh(_Files, ZshComplete):
    """Completion for zsh."""


class Fish(_Files, FishComplete):
    """Completion for fish."""


def complete(program: click.Command, instruction: str) -> int:
    """Do what the shell asks of `_DELTACTL_COMPLETE`: print its script, or candidates; return the exit code."""
    for shell in (Bash, Zsh, Fish):
        add_completion_class(shell)
    return shell_complete(program, {}, "deltactl", "_DELTACTL_COMPLETE", instruction)
