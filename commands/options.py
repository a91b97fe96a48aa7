"""The options that several commands share, and the help page that all of them have.

A command is built with `cls=Command` (or `Group`), which prints its options under headings and an example at the end:

    @click.command(cls=Command, example="deltactl ingest ~/videos", sections={"Sampling": ("frames", "clips")})
    @config_option
    @set_option
    def command(config: str | None, assignments: tuple[str, ...], ...) -> None:

Shared options have headings of their own. Options default to None (not given), so that presets and the environment
count; `deltactl.configs.load.resolve` puts them together. Importing this costs no more than click.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
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
    program: Callable[[Sequence[str]], int] | None = None
    """The program itself, for a command that runs commands: arguments in, exit code out."""


# --- the help page ---------------------------------------------------------------------------------------------------


class _Page:
    """Options under headings, then an example; what `Command` and `Group` share."""

    example: str
    sections: Mapping[str, tuple[str, ...]]

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
        self.example = example
        self.sections = sections or {}
        self.params.extend(_general_options())

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
        self.example = example
        self.sections = sections or {}
        self.params.extend(_general_options())

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


# --- values ----------------------------------------------------------------------------------------------------------


def check_part(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return `I/N`, the I-th of N parts counted from 1, as it is; wrong usage where it is something else."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is not I/N with 1 <= I <= N, such as 3/8", context, parameter)
    return value


def check_device(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return `auto`, `cpu`, `cuda` or `cuda:N` as it is; wrong usage where it is something else."""
    if value is not None and not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value):
        raise click.BadParameter(f"{value!r} is not one of auto, cpu, cuda, cuda:N", context, parameter)
    return value


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


def out_option(command: Decorated) -> Decorated:
    """Add `--out`: where the artifact goes."""
    return click.option("--out", metavar="DIR", help="Folder or URL to write to.  [default: in the workspace]")(command)


def seed_option(command: Decorated) -> Decorated:
    """Add `--seed`."""
    return click.option("--seed", type=click.IntRange(min=0), help="Seed of every random draw.  [default: 0]")(command)


def device_option(command: Decorated) -> Decorated:
    """Add `--device`."""
    return click.option(
        "--device", callback=check_device, metavar="NAME", help="auto, cpu, cuda or cuda:N.  [default: auto]"
    )(command)


def precision_option(command: Decorated) -> Decorated:
    """Add `--precision`: auto, float32 or bfloat16."""
    return click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        help="auto is bfloat16 on a GPU, float32 on a CPU.  [default: auto]",
    )(command)


def batch_size_option(command: Decorated) -> Decorated:
    """Add `--batch-size`."""
    return click.option("--batch-size", type=click.IntRange(min=1), help="Items computed at once.")(command)


def workers_option(command: Decorated) -> Decorated:
    """Add `--workers`."""
    return click.option("--workers", type=click.IntRange(min=0), help="Worker processes; 0 works in this one.")(command)


def engine_options(command: Decorated) -> Decorated:
    """Add `--engine` and `--address`: this machine, or a Ray cluster."""
    command = click.option(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster; auto: this machine's.  [default: RAY_ADDRESS, else its own]",
    )(command)
    return click.option(
        "--engine", type=click.Choice(["local", "ray"]), help="Where the workers run.  [default: local]"
    )(command)


def part_option(command: Decorated) -> Decorated:
    """Add `--part`: one of N shares of the work, for job arrays."""
    return click.option("--part", callback=check_part, metavar="I/N", help="Do the I-th of N parts only (job arrays).")(
        command
    )


def max_bad_option(command: Decorated) -> Decorated:
    """Add `--max-bad`: the share of sources that may be unreadable."""
    return click.option(
        "--max-bad", type=click.FloatRange(0, 1), help="Share of sources that may be unreadable.  [default: 0.05]"
    )(command)


def limit_option(command: Decorated) -> Decorated:
    """Add `--limit`."""
    return click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Use the first N only.")(command)


def dry_run_option(command: Decorated) -> Decorated:
    """Add `--dry-run`."""
    return click.option("--dry-run", is_flag=True, help="Print the plan and what it costs; do nothing.")(command)


def yes_option(command: Decorated) -> Decorated:
    """Add `--yes`."""
    return click.option("--yes", is_flag=True, help="Do not ask before starting, removing or overwriting.")(command)
