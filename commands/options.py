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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

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


# --- the help page ---------------------------------------------------------------------------------------------------


class _Page:
    """Options under headings, then an example; what `Command` and `Group` share."""

    example: str
    sections: Mapping[str, tuple[str, ...]]

    def _set_up(self, command: click.Command, example: str, sections: Mapping[str, tuple[str, ...]] | None) -> None:
        """Keep the example and the headings, those that options bring with them too; add the general options."""
        self.example = example
        self.sections = dict(sections or {})
        for parameter in command.params:
            if heading := getattr(parameter, "heading", None):
                self.sections[heading] = (*self.sections.get(heading, ()), parameter.name or "")
        command.params.extend(_general_options())

    def _quick_help(self, option: click.Option | None) -> click.Option | None:
        """Let `--help` print the page as it is: its long names would be searched for tokens, a third of a second."""

        def show(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
            from deltactl.redaction import own_words

            if value and not context.resilient_parsing:
                with own_words():
                    click.echo(context.get_help(), color=context.color)
                context.exit()

        if option is not None:
            option.callback = show
        return option

    def _write_options(self, command: click.Command, context: click.Context, page: click.HelpFormatter) -> None:
        headings = {**self.sections, **SHARED_SECTIONS}
        order = ("Arguments", *self.sections, "Options", *SHARED_SECTIONS)
        rows: dict[str, list[tuple[str, str]]] = {name: [] for name in order}
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and any(record[1:]):
                name = parameter.name or ""
                form = re.sub("INTEGER( RANGE)?", "N", re.sub("FLOAT( RANGE)?", "X", record[0]))
                default = "Arguments" if isinstance(parameter, click.Argument) else "Options"
                rows[next((each for each, names in headings.items() if name in names), default)].append(
                    (form, record[1])
                )
        for heading, records in rows.items():
            if records:
                with page.section(heading):
                    page.write_dl(records)

    def _write_example(self, page: click.HelpFormatter) -> None:
        if self.example:
            with page.section("Example"):
                for line in self.example.strip().splitlines():
                    page.write(f"{'':>{page.current_indent}}{line.strip()}\n")


class Command(_Page, click.Command):
    """A click command with `example` and `sections` (heading to parameter names) on its help page."""

    def __init__(
        self,
        *arguments: Any,
        example: str = "",
        sections: Mapping[str, tuple[str, ...]] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self._set_up(self, example, sections)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return `--help`."""
        return self._quick_help(super().get_help_option(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        self._write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example after the options."""
        self._write_example(formatter)
        super().format_epilog(ctx, formatter)


class Group(_Page, click.Group):
    """A click group with `example` and `sections` on its help page; a misspelt command names the nearest one."""

    command_class = Command

    def __init__(
        self,
        *arguments: Any,
        example: str = "",
        sections: Mapping[str, tuple[str, ...]] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self._set_up(self, example, sections)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return `--help`."""
        return self._quick_help(super().get_help_option(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options under their headings."""
        self.format_commands(ctx, formatter)
        self._write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example after the options."""
        self._write_example(formatter)
        super().format_epilog(ctx, formatter)

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
