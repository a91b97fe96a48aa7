"""The command line: parse, call one room, print; and turn every failure into one line and an exit code.

Commands live in `commands/NAME.py` as the attribute `command` and are imported when called, so that `--help` stays
quick. To add one, add its file there and its line here. Exit codes: 0 done, 1 failed (`error: …` on stderr), 2 wrong
usage, 128 and the signal's number if a signal ended it (130 after Ctrl-C, 143 after SIGTERM).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from deltactl import __version__
from deltactl.commands.options import Group, Session
from deltactl.errors import STOPPED_CODE, ConfigError, DeltactlError, StoppedError, StorageError
from deltactl.redaction import RedactingFormatter, one_line, terminal
from deltactl.signals import unwinding

COMMANDS = {
    "Pipeline": {
        "ingest": "Turn videos and data sets into shards.",
        "featurize": "Run the frozen backbone over shards or videos into a feature store.",
        "tokenize": "Turn features, shards or videos into delta tokens.",
        "train": "Train the tokenizer, the world model and the heads.",
        "eval": "Compute the published table from a data set and checkpoints.",
        "predict": "Roll out futures of a video.",
        "watch": "Show a training's curves, its newest figures and what is not healthy.",
        "surprise": "Say how surprising the frames of videos or clips are.",
        "demo": "Run the whole pipeline on videos it makes itself.",
    },
    "Artifacts and checkpoints": {
        "curate": "Find cuts, stills and copies among the clips of a store.",
        "nearest": "Find the clips of a store that look most like one of them.",
        "probe": "Say how well a linear probe tells the classes of held-out videos.",
        "compare": "Compare reports of one data set: runs, tokenizers, backbones.",
        "info": "Say what an artifact or checkpoint is and how complete.",
        "verify": "Read every byte of an artifact against its checksum.",
        "convert": "Make a store of an earlier format one of the present format.",
        "export": "Write a checkpoint in the published format.",
        "push": "Send an artifact, a run or exported weights to the Hub.",
        "pull": "Fetch an artifact, a run or exported weights from the Hub.",
    },
    "Settings and machine": {
        "config": "List and show presets.",
        "plan": "Say what a recipe costs before it runs.",
        "doctor": "Say what this machine has and what is missing.",
    },
}
"""Heading to command to summary."""

STOPPED = "stopped{by}; finished work is kept; run the same command again to go on"
COMPLETION = 'eval "$(_DELTACTL_COMPLETE=bash_source deltactl)"    (zsh_source, fish_source for other shells)'


class Program(Group):
    """The top-level group, which imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, in the order of `COMMANDS`."""
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None if there is none of this name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"deltactl.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands and their summaries, without importing them."""
        for heading, commands in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example and how to get shell completion."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Shell completion"):
            formatter.write(f"  {COMPLETION}\n")


@click.command(
    cls=Program,
    example="deltactl ingest ~/videos --dry-run",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "auto_envvar_prefix": None},
)
@click.version_option(__version__, message="deltactl %(version)s")
def program() -> None:
    """World models on frozen video features, preprocessing first."""
    read_dotenv(Path(".env"))
    from deltactl.main_memory import too_small_limit

    if warning := too_small_limit():
        logging.getLogger("deltactl").warning("%s", warning)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are printed, not raised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if instruction := os.environ.get("_DELTACTL_COMPLETE"):
        from deltactl.completion import complete

        return complete(program, instruction)
    session = Session(program=main)
    _open_standard_streams()
    _print_any_name()
    with terminal():
        return _run(words, session)


def _run(words: list[str], session: Session) -> int:
    try:
        with unwinding(), _logging(), program.make_context("deltactl", words, obj=session) as context:
            program.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        _print_usage_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as stop:
        number = stop.number if isinstance(stop, StoppedError) else signal.SIGINT
        _say(STOPPED.format(by="" if number == signal.SIGINT else f" by {signal.Signals(number).name}"))
        return STOPPED_CODE + number
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            return 1
        return _report(error, session)
    return 0


# --- failures --------------------------------------------------------------------------------------------------------


def _report(error: Exception, session: Session) -> int:
    """Print an error as one line, or with its traceback, and return the exit code."""
    known = _as_known(error)
    if session.debug:
        import traceback

        _say("".join(traceback.format_exception(error)).rstrip())
    if known is not None:
        message, code = str(known) or type(known).__name__, known.exit_code
    else:
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        message, code = what + ("" if session.debug else "; run again with --debug for a traceback"), 1
    _say("error: " + one_line(message))
    return code


def _as_known(error: Exception) -> DeltactlError | None:
    """Return the error that a user should read for an exception that was not foreseen where it arose."""
    import errno

    if isinstance(error, DeltactlError):
        return error
    from deltactl.main_memory import memory_fault

    if (full := memory_fault(error)) is not None:
        return full
    if isinstance(error, click.ClickException):
        return DeltactlError(error.format_message())
    if type(error).__module__.startswith("pydantic"):  # so pydantic is loaded already
        from pydantic import ValidationError

        from deltactl.configs.base import explain

        return ConfigError(explain(error)) if isinstance(error, ValidationError) else None
    if isinstance(error, OSError):
        place = f" for {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageError(
                f"no space left on the disk{place}; make room and run the same command again: finished work is kept"
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StorageError(f"permission denied{place}; check who may read and write there")
    return None


def _print_usage_error(error: click.UsageError) -> None:
    message = one_line(error.format_message())
    path = error.ctx.command_path if error.ctx else "deltactl"
    _say(f"error: {message[:1].lower()}{message[1:].rstrip('.')} (see {path} --help)")


def _reader_has_gone() -> bool:
    """Whether stdout leads nowhere (`deltactl … | head`); if so, keep the interpreter from flushing it at exit."""
    import select

    try:
        stdout = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file of the system
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return True


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# --- surroundings ----------------------------------------------------------------------------------------------------


def read_dotenv(file: Path) -> None:
    """Put the variables of a `.env` file into the environment, if they are not set already."""
    if not file.exists() or file.is_dir():
        return
    from dotenv import dotenv_values

    from deltactl.reading import SETTINGS, read_text, reason_of

    try:
        values = dotenv_values(stream=io.StringIO(read_text(file, SETTINGS)))
    except OSError as error:
        raise ConfigError(f"{file.absolute()} {reason_of(error)}; expected lines of NAME=VALUE") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file.absolute()} is not text: {error}; expected lines of NAME=VALUE") from error
    for name, value in values.items():
        if value is not None and name not in os.environ:
            os.environ[name] = value


def _open_standard_streams() -> None:
    """Let what is printed vanish if stdout or stderr is closed (`>&-`), and no file take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _print_any_name() -> None:
    """Let stdout escape what a file name that is not UTF-8 holds, as stderr does, where Python would raise instead."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Send deltactl's log to stderr, without keys and tokens; what libraries warn about is left out."""
    logger = logging.getLogger("deltactl")
    if any(isinstance(each.formatter, RedactingFormatter) for each in logger.handlers):
        yield  # a command that runs commands: once is enough
        return
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logger.removeHandler(handler)
