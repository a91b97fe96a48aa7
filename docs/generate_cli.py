"""Writes `docs/cli.md` from the commands themselves: python docs/generate_cli.py > docs/cli.md (or `make docs`)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from deltactl.cli import COMMANDS, program
from deltactl.commands.options import SHARED_SECTIONS, Command

GENERAL = SHARED_SECTIONS["General"]
HEAD = """\
# Command reference

Made by `make docs` from the commands themselves; `deltactl COMMAND --help` prints the same. A test keeps it up to date.

Every command also takes `--verbose` and `--quiet` (more or less of a log, on stderr), `--debug` (a traceback with an
error) and `--help`. Exit codes: 0 done; 1 failed, with one line `error: …` on stderr; 2 wrong usage; 130 after
Ctrl-C, 143 after SIGTERM, with a line that says how to go on.
"""


def reference() -> str:
    """Return the whole page."""
    context = click.Context(program, info_name="deltactl")
    lines = [HEAD]
    for heading, commands in COMMANDS.items():
        there = [name for name in program.list_commands(context) if name in commands]
        if there:
            lines.append(f"## {heading}\n")
        for name in there:
            command = program.get_command(context, name)
            assert command is not None, name
            lines.extend(describe(command, f"deltactl {name}", depth=3))
    return "\n".join(lines)


def describe(command: click.Command, path: str, depth: int) -> Iterator[str]:
    """Yield the lines about a command and those inside it."""
    yield f"{'#' * depth} {path}\n"
    yield inspect.cleandoc(command.help or "").replace("\b\n", "") + "\n"
    positional = [f" [{_shown(each)}]" if not each.required else f" {_shown(each)}" for each in _arguments(command)]
    more = " COMMAND" if isinstance(command, click.Group) else ""
    yield f"```\n{path} [OPTIONS]{''.join(positional)}{more}\n```\n"
    yield from _options(command)
    example = getattr(command, "example", "")
    if example:
        yield "Example:\n\n```sh\n" + "\n".join(line.strip() for line in example.strip().splitlines()) + "\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.commands[name]
            yield from describe(inner, f"{path} {name}", depth + 1)


def _options(command: click.Command) -> Iterator[str]:
    assert isinstance(command, Command), command.name
    rows: dict[str, list[str]] = {name: [] for name in command.headings()}
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden and option.name not in GENERAL:
            names = ", ".join([*option.opts, *option.secondary_opts])
            value = "" if option.is_flag or option.count else f" {_shown(option)}"
            text = " ".join(f"{option.help or ''} {_in_brackets(option)}".split())
            cells = [cell.replace("|", "\\|") for cell in (f"`{names}{value}`", text)]
            rows[command.heading_of(option)].append(f"| {cells[0]} | {cells[1]} |")
    for heading, lines in rows.items():
        if lines:
            yield "\n".join([f"| {heading} | |", "|---|---|", *lines]) + "\n"


def _in_brackets(option: click.Option) -> str:
    """Return what stands behind the help: environment variables and the default, or that there must be a value."""
    extra = option.get_help_extra(click.Context(program))
    parts = [f"environment: {', '.join(extra['envvars'])}"] if "envvars" in extra else []
    parts += [f"default: {extra['default']}"] if "default" in extra else []
    parts += ["required"] if "required" in extra else []
    return f"[{'; '.join(parts)}]" if parts else ""


def _arguments(command: click.Command) -> list[click.Argument]:
    return [each for each in command.params if isinstance(each, click.Argument)]


def _shown(parameter: click.Parameter) -> str:
    """Return the placeholder of a parameter's value; click's own differs between its versions."""
    if parameter.metavar:
        text = parameter.metavar
    elif isinstance(parameter.type, click.Choice):
        file = getattr(parameter.type, "file", "")  # what may stand in place of a name
        text = "|".join([*map(str, parameter.type.choices), *([file] if file else [])])
    elif isinstance(parameter, click.Argument):
        text = (parameter.name or "").upper()
    else:
        text = {"integer": "N", "integer range": "N", "float": "X", "float range": "X"}.get(parameter.type.name, "TEXT")
    return text


if __name__ == "__main__":
    sys.stdout.write(reference())
