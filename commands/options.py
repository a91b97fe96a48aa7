"""The help page that all commands have, and options that are no setting's; those of settings: `from_config.py`.

A command is built with `cls=Command` (or `Group`), which prints its options under headings and an example at the end:

    @click.command(cls=Command, example="deltactl verify shards/kinetics", sections={"Repair": ("repair", "shards")})
    @click.option("--repair", is_flag=True, help="Make again what is damaged or missing.")
    @yes_option
    def command(repair: bool, yes: bool, ...) -> None:

Shared options have headings of their own. Importing this costs no more than click.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deltactl.configs.frame_size import FrameSize

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

SHARED_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Settings": ("config", "assignments", "seed"),
    "Machine": ("device", "precision", "batch_size", "workers", "engine", "address", "part"),
    "Run": ("out", "max_bad", "retry_failed", "limit", "dry_run", "yes"),
    "General": ("verbose", "quiet", "debug", "version", "help", "_click_default_help"),
}


@dataclass
class Session:
    """What the general options ask of one call of the program; the context's `obj`."""

    debug: bool = False
    """Print a traceback with an error."""
    program: Callable[[Sequence[str]], int] | None = None
    """The program itself, for a command that runs commands: arguments in, exit code out."""


# --- the help page ---------------------------------------------------------------------------------------------------


class Command(click.Command):
    """A click command with `example` and `sections` (heading to parameter names) on its help page."""

    def __init__(
        self,
        *arguments: Any,
        example: str = "",
        sections: Mapping[str, tuple[str, ...]] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self.example = example
        self.sections = dict(sections or {})
        for parameter in self.params:
            if heading := getattr(parameter, "heading", None):
                self.sections[heading] = (*self.sections.get(heading, ()), parameter.name or "")
        self.params.extend(_general_options())

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return `--help`, which prints the page as it is: its long names would be searched for tokens, for 0.3 s."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _print_page
        return option

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        rows: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", *self.headings())}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and any(record[1:]):
                form = re.sub("INTEGER( RANGE)?", "N", re.sub("FLOAT( RANGE)?", "X", record[0]))
                heading = "Arguments" if isinstance(parameter, click.Argument) else self.heading_of(parameter)
                rows[heading].append((form, record[1]))
        for heading, records in rows.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def headings(self) -> list[str]:
        """Return the headings of options in their order."""
        return list(dict.fromkeys((*self.sections, "Options", *SHARED_SECTIONS)))

    def heading_of(self, parameter: click.Parameter) -> str:
        """Return the heading that an option stands under."""
        headings = {**self.sections, **SHARED_SECTIONS}
        return next((each for each, names in headings.items() if parameter.name in names), "Options")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example after the options."""
        if self.example:
            with formatter.section("Example"):
                for line in self.example.strip().splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line.strip()}\n")
        super().format_epilog(ctx, formatter)


class Group(Command, click.Group):
    """A click group with the same help page; a misspelt command names the nearest one."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options under their headings."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names, or say which one is nearest."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(known)}"
            raise click.UsageError(f"no such command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


def _print_page(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    from deltactl.redaction import own_words

    if value and not context.resilient_parsing:
        with own_words():
            click.echo(context.get_help(), color=context.color)
        context.exit()


def _general_options() -> list[click.Parameter]:
    def keep(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value and parameter.name == "debug":
            context.ensure_object(Session).debug = True
        elif value:
            level = logging.DEBUG if parameter.name == "verbose" else logging.WARNING
            logging.getLogger("deltactl").setLevel(level)

    options = (
        (("-v", "--verbose"), "Log more, on stderr."),
        (("-q", "--quiet"), "Log warnings and errors only."),
        (("--debug",), "Print a traceback with an error."),
    )
    return [
        click.Option(names, is_flag=True, expose_value=False, is_eager=True, callback=keep, help=text)
        for names, text in options
    ]


# --- completion by the shell -----------------------------------------------------------------------------------------


def preset_names_for(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the presets that go on so, for the shell."""
    from deltactl.completion import complete_preset

    return complete_preset(context, parameter, incomplete)


def settings_for(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the settings, or the values of one, that go on so, for the shell."""
    from deltactl.completion import complete_assignment

    return complete_assignment(context, parameter, incomplete)


# --- decorators ------------------------------------------------------------------------------------------------------


def config_option(command: Decorated) -> Decorated:
    """Add `--config`: where the settings start from."""
    return click.option(
        "--config",
        metavar="NAME|FILE",
        shell_complete=preset_names_for,
        help="Preset to start from; `deltactl config list` shows them.",
    )(command)


def set_option(command: Decorated) -> Decorated:
    """Add `--set`, the parameter `assignments`: any setting by its dotted name."""
    return click.option(
        "--set",
        "assignments",
        metavar="KEY=VALUE",
        multiple=True,
        shell_complete=settings_for,
        help="Set any setting, such as trainer.devices=4; repeatable.",
    )(command)


def dry_run_option(command: Decorated) -> Decorated:
    """Add `--dry-run`."""
    return click.option("--dry-run", is_flag=True, help="Print the plan and what it costs; do nothing.")(command)


def yes_option(command: Decorated) -> Decorated:
    """Add `--yes`."""
    return click.option("--yes", is_flag=True, help="Do not ask before starting, removing or overwriting.")(command)


def one_or_more(
    context: click.Context,  # noqa: ARG001 (click passes it)
    parameter: click.Parameter,  # noqa: ARG001
    named: tuple[str, ...],
) -> str | tuple[str, ...] | None:
    """Return what an argument that may be repeated names: one, several, or None."""
    return named[0] if len(named) == 1 else named or None


class Sizes(click.ParamType[FrameSize]):
    """The size of frames, `N` or `HxW`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> FrameSize:
        """Return the size."""
        try:
            return FrameSize.of(value)
        except ValueError as error:
            self.fail(f"{value!r}; {error}", param, ctx)
