"""The command line: commands are found and named, and every failure is one line and the right exit code."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from programs import caller

from deltactl import __version__, cli
from deltactl.cli import COMMANDS, program
from deltactl.commands.from_config import configured
from deltactl.commands.options import Command, dry_run_option
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.errors import ConfigError, IdentityError, StoppedError

ROOT = Path(cli.__file__).parent
SHARED = {"__init__", "consent", "from_config", "options"}
"""Files beside the commands that are none."""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the program in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


@pytest.fixture
def with_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Put a command `act` into the program that does what it is given."""

    def put(action: Callable[[], None]) -> None:
        command = click.command("act", cls=Command, example="deltactl act")(action)
        monkeypatch.setattr(cli.Program, "list_commands", lambda self, ctx: ["act"])
        monkeypatch.setattr(cli.Program, "get_command", lambda self, ctx, name: command if name == "act" else None)

    return put


def raising(error: BaseException) -> Callable[[], None]:
    """Return an action that raises."""

    def act() -> None:
        raise error

    return act


def every_command() -> list[tuple[str, click.Command]]:
    """Return the path and object of every command there is."""

    def walk(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
        found = [(path, command)]
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                found += walk(inner, f"{path} {name}")
        return found

    return walk(program, "deltactl")


# --- commands and their help -----------------------------------------------------------------------------------------


def test_every_command_file_is_listed_once_and_shown(run: Run) -> None:
    files = {path.stem for path in (ROOT / "commands").glob("*.py")} - SHARED
    listed = [name for commands in COMMANDS.values() for name in commands]
    assert files <= set(listed)
    assert len(listed) == len(set(listed))
    code, out, _ = run("--help")
    assert code == 0
    for name in files:
        assert f"  {name} " in out
    for name in set(listed) - files:
        assert f"  {name} " not in out


@pytest.mark.parametrize(
    ("path", "command"), every_command(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_help_page_has_a_summary_an_example_and_explained_options(path: str, command: click.Command) -> None:
    summary = (command.help or "").strip().splitlines()[0]
    assert summary.endswith("."), f"{path}: {summary!r}"
    assert len(summary) <= 80
    with click.Context(command, info_name=path) as context:
        page = command.get_help(context)
    assert "\nExample:\n" in page, path
    assert f"\n  {path}" in page, f"the example of {path} does not show {path}"
    assert "--debug" in page
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            text = re.sub(r"\s*\[(default: [^]]*|required)\]$", "", (parameter.help or "").strip())
            assert text.endswith("."), f"{path} {parameter.opts[0]}: {parameter.help!r}"


@pytest.mark.parametrize("name", sorted({path.stem for path in (ROOT / "commands").glob("*.py")} - SHARED))
def test_the_summary_in_the_list_is_the_commands_own(name: str) -> None:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    summary = next(commands[name] for commands in COMMANDS.values() if name in commands)
    assert (command.help or "").strip().splitlines()[0] == summary


def test_options_of_one_name_are_written_the_same_everywhere() -> None:
    shared: dict[str, tuple[object, ...]] = {}
    for path, command in every_command():
        for option in command.params:
            if isinstance(option, click.Option) and option.name in ("config", "assignments", "part", "device"):
                form = (option.opts, option.metavar, option.multiple)
                assert shared.setdefault(option.name, form) == form, f"{option.opts[0]} of {path}"


def test_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"deltactl {__version__}\n", "")


def test_completion_prints_a_script(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DELTACTL_COMPLETE", "zsh_source")
    code, out, _ = run()
    assert code == 0
    assert "#compdef deltactl" in out
    monkeypatch.setenv("_DELTACTL_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", "deltactl con")
    monkeypatch.setenv("COMP_CWORD", "1")
    _, out, _ = run()
    assert "config" in out


# --- wrong usage: exit 2 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["confg"], "no such command 'confg'; did you mean 'config'?"),
        (["config", "shw"], "no such command 'shw'; did you mean 'show'?"),
        (["zzzz"], "no such command 'zzzz'; commands: "),
        (["--versoin"], "did you mean"),
        (["config", "show", "--sett", "a=1"], "did you mean"),
        (["config", "show"], "missing argument"),
    ],
)
def test_wrong_usage_names_the_nearest_and_exits_2(run: Run, words: list[str], expected: str) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert expected.lower() in err.lower()
    assert err.count("\n") == 1
    assert "--help)" in err


def test_no_command_shows_the_help_and_exits_2(run: Run) -> None:
    code, _, err = run()
    assert code == 2
    assert "Usage: deltactl" in err


@pytest.mark.parametrize("value", ["0/3", "4/3", "1", "1/0", "a/b", "1/2/3", "-1/2", "", "١/٢"])
def test_a_part_that_is_none_is_refused(run: Run, with_command: Callable[..., None], value: str) -> None:
    with_command(configured(FeaturizeConfig, {}, ("part",))(lambda config: click.echo(config.part)))
    code, _, err = run("act", "--part", value)
    assert code == 2
    assert "--part" in err
    assert run("act", "--part", "3/8")[:2] == (0, "3/8\n")


@pytest.mark.parametrize("value", ["gpu", "cuda:", "cuda:x", "cpu:0", "tpu"])
def test_a_device_that_is_none_is_refused(run: Run, with_command: Callable[..., None], value: str) -> None:
    with_command(configured(FeaturizeConfig, {}, ("device",))(lambda config: click.echo(config.device)))
    assert run("act", "--device", value)[0] == 2
    assert run("act", "--device", "cuda:1")[:2] == (0, "cuda:1\n")


def test_a_setting_counts_as_set_where_its_option_is_given(run: Run, with_command: Callable[..., None]) -> None:
    fields = ("device", "part", "size", "max_bad")

    def act(config: FeaturizeConfig, dry_run: bool) -> None:
        values = [str(getattr(config, name)) for name in fields]
        click.echo(f"{values} {sorted(config.model_fields_set)} {dry_run}")

    with_command(configured(FeaturizeConfig, {}, fields)(dry_run_option(act)))
    assert run("act")[:2] == (0, "['auto', 'None', '512', '0.05'] [] False\n")
    given = ("--device", "auto", "--size", "64", "--dry-run", "--set", "max_bad=0.5")
    assert run("act", *given)[:2] == (0, "['auto', 'None', '64', '0.5'] ['device', 'max_bad', 'size'] True\n")


def test_the_help_of_a_setting_is_its_docstring_with_default_limits_and_variable() -> None:
    command = program.get_command(click.Context(program), "eval")
    assert command is not None
    page = " ".join(command.get_help(click.Context(command)).split())
    assert "--samples N Futures that DeltaWorld draws for each clip and horizon. [default: 20; x>=1]" in page
    assert "[default: as at hand, else 512]" in page
    assert "[env var: VSPW_HEAD_PATH, CITYSCAPES_HEAD_PATH, KITTI_HEAD_PATH]" in page
    assert "[default: cache]" in page
    assert "that tells of one (`deltactl config show dataset`). [required]" in page


# --- failures: exit 1, one line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("the seed is odd"), "error: the seed is odd\n"),
        (IdentityError("one\n  two\r\n\x1b[31mthree"), "error: one two \\x1b[31mthree\n"),
        (ConfigError(), "error: ConfigError\n"),
        (ValueError("a\nb"), "error: ValueError: a b; run again with --debug for a traceback\n"),
        (KeyError(), "error: KeyError; run again with --debug for a traceback\n"),
        (EOFError("cut"), "error: EOFError: cut; run again with --debug for a traceback\n"),
        (RecursionError("deep"), "error: RecursionError: deep; run again with --debug for a traceback\n"),
        (click.ClickException("no file"), "error: no file\n"),
        (OSError(errno.EIO, "broken", "/x"), "error: OSError: [Errno 5] broken: '/x'; run again with --debug"),
        (OSError(errno.ENOSPC, "full", "/x/y"), "error: no space left on the disk for /x/y; make room"),
        (OSError(errno.EDQUOT, "quota"), "error: no space left on the disk; make room"),
        (PermissionError(errno.EACCES, "no", "/x"), "error: permission denied for /x; check who may"),
        (BrokenPipeError(errno.EPIPE, "a worker's pipe"), "error: BrokenPipeError: [Errno 32] a worker's pipe"),
    ],
)
def test_every_failure_is_one_line_and_exit_1(
    run: Run, with_command: Callable[..., None], error: BaseException, expected: str
) -> None:
    with_command(raising(error))
    code, out, err = run("act")
    assert code == 1
    assert out == ""
    assert err.startswith(expected)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("end", "code", "by"),
    [
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (StoppedError(signal.SIGTERM), 143, " by SIGTERM"),
        (StoppedError(signal.SIGHUP), 129, " by SIGHUP"),
    ],
)
def test_what_ends_by_a_signal_says_so_and_has_the_code_of_a_shell(
    run: Run, with_command: Callable[..., None], end: BaseException, code: int, by: str
) -> None:
    with_command(raising(end))
    assert run("act") == (code, "", f"stopped{by}; finished work is kept; run the same command again to go on\n")


def test_a_model_misused_in_python_is_still_one_line(run: Run, with_command: Callable[..., None]) -> None:
    with_command(lambda: EvaluateConfig(samples=0) and None)
    code, _, err = run("act")
    assert code == 1
    assert err == "error: the setting 'samples' is 0; expected a value greater than or equal to 1\n"


@pytest.mark.parametrize("words", [("--debug", "act"), ("act", "--debug")])
def test_debug_shows_the_traceback_and_the_line(
    run: Run, with_command: Callable[..., None], words: tuple[str, ...]
) -> None:
    with_command(raising(ValueError("why")))
    code, _, err = run(*words)
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert err.endswith("\nerror: ValueError: why\n")


def test_an_exit_code_of_a_library_passes_through(run: Run, with_command: Callable[..., None]) -> None:
    with_command(raising(SystemExit(3)))
    with pytest.raises(SystemExit, match="3"):
        run("act")


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_no_secret_reaches_a_message(
    run: Run, with_command: Callable[..., None], monkeypatch: pytest.MonkeyPatch, debug: tuple[str, ...]
) -> None:
    secrets = {
        "HF_TOKEN": "hf_abcdefghijkl",
        "WANDB_API_KEY": "0123456789abcdef",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t/pl+x",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    text = " and ".join([*secrets.values(), "https://me:pass-word@host/x", "hf_other12345678", "--api-key qwertyuiop"])
    with_command(raising(ConfigError(f"the store refused {text}")))
    _, _, err = run("act", *debug)
    for value in (*secrets.values(), "pass-word", "hf_other12345678", "qwertyuiop"):
        assert value not in err
    assert "the store refused *** and ***" in err


# --- the log, the environment, the terminal --------------------------------------------------------------------------


def log() -> None:
    """Say something at each level."""
    import logging

    logger = logging.getLogger("deltactl.somewhere")
    logger.debug("detail")
    logger.info("plain, with hf_abcdefghijkl in it")
    logger.warning("careful")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("", "INFO: plain, with *** in it\nWARNING: careful\n"),
        ("--quiet", "WARNING: careful\n"),
        ("--verbose", "DEBUG: detail\nINFO: plain, with *** in it\nWARNING: careful\n"),
    ],
)
def test_the_log_goes_to_stderr_as_loud_as_asked(
    run: Run, with_command: Callable[..., None], flag: str, expected: str
) -> None:
    with_command(log)
    for words in (["act", flag], [flag, "act"]):
        assert run(*filter(None, words)) == (0, "", expected)


def test_dotenv_fills_what_the_environment_leaves_open(
    run: Run, with_command: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VSPW_ROOT", "/from/the/environment")
    # Set, then removed at once, so that what the program sets is undone after the test.
    monkeypatch.setenv("KITTI_ROOT", "")
    monkeypatch.delenv("KITTI_ROOT")
    (tmp_path / ".env").write_text('# roots\nVSPW_ROOT=/from/the/file\nexport KITTI_ROOT="/data/kitti raw"\nHALF\n')
    with_command(lambda: click.echo(f"{os.environ['VSPW_ROOT']} {os.environ['KITTI_ROOT']}"))
    assert run("act") == (0, "/from/the/environment /data/kitti raw\n", "")


def test_a_dotenv_that_is_no_text_is_one_clear_error(
    run: Run, with_command: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe\x00")
    with_command(lambda: None)
    code, _, err = run("act")
    assert code == 1
    assert err.startswith(f"error: {tmp_path / '.env'} is not text: ")
    assert err.count("\n") == 1
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert run("act")[0] == 0


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    """Start an interpreter that runs the code."""
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=folder)


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    code = (
        "import sys, deltactl.cli as cli, click\n"
        "command = click.Command('act', callback=lambda: [click.echo('x' * 1000) for _ in range(10_000)])\n"
        "cli.Program.list_commands = lambda self, ctx: ['act']\n"
        "cli.Program.get_command = lambda self, ctx, name: command\n"
        "sys.exit(cli.main(['act']))\n"
    )
    with start(code, tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 1


@pytest.mark.parametrize(
    ("number", "by"), [(signal.SIGINT, ""), (signal.SIGTERM, " by SIGTERM"), (signal.SIGHUP, " by SIGHUP")]
)
def test_a_signal_unwinds_the_program_which_says_how_to_go_on(tmp_path: Path, number: signal.Signals, by: str) -> None:
    code = (
        "import signal, sys, time, deltactl.cli as cli, click\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "def act():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('tidied', flush=True)\n"
        "command = click.Command('act', callback=act)\n"
        "cli.Program.list_commands = lambda self, ctx: ['act']\n"
        "cli.Program.get_command = lambda self, ctx, name: command\n"
        "sys.exit(cli.main(['act']))\n"
    )
    with start(code, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert out == "tidied\n"
        assert err == f"stopped{by}; finished work is kept; run the same command again to go on\n"


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, deltactl.cli as cli, click\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as nohup does
        "command = click.Command('act', callback=lambda: os.kill(os.getpid(), signal.SIGHUP))\n"
        "cli.Program.list_commands = lambda self, ctx: ['act']\n"
        "cli.Program.get_command = lambda self, ctx, name: command\n"
        "sys.exit(cli.main(['act']))\n"
    )
    with start(code, tmp_path) as process:
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error_and_no_file_takes_their_number(tmp_path: Path, closed: str) -> None:
    code = (
        "import os, sys, deltactl.cli as cli, click\n"
        "def act():\n"
        "    with open('data', 'w') as file:\n"
        "        print('for nobody', flush=True)\n"
        "        print('for nobody', file=sys.stderr, flush=True)\n"
        "        os.system('echo for nobody; echo for nobody >&2')\n"
        "        file.write('data')\n"
        "command = click.Command('act', callback=act)\n"
        "cli.Program.list_commands = lambda self, ctx: ['act']\n"
        "cli.Program.get_command = lambda self, ctx, name: command\n"
        "sys.exit(cli.main(['act']))\n"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "data").read_text() == "data"
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "for nobody\n" * 2)
    assert done.stderr == ("" if "2>&-" in closed else "for nobody\n" * 2)


# --- deltactl config -------------------------------------------------------------------------------------------------


def test_config_list_has_a_line_for_every_preset(run: Run) -> None:
    code, out, _ = run("config", "list")
    assert code == 0
    for name in ("deltatok-1-pretrain-256", "deltaworld", "dinoworld", "demo-world", "published"):
        assert f"\n  {name} " in out


def test_config_show_prints_a_file_that_works_and_takes_settings(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("config", "show", "deltaworld", "--set", "trainer.devices=4", "--set", "lr=2e-4")
    assert code == 0
    assert "\n# Queries tried for each target frame, of which" in out
    (tmp_path / "mine.yaml").write_text(out)
    code, again, _ = run("config", "show", "mine.yaml")
    assert (code, again) == (0, out)


def test_config_show_of_a_stage_prints_its_defaults(run: Run) -> None:
    code, out, _ = run("config", "show", "evaluate")
    assert code == 0
    assert "stage: evaluate\n" in out
    assert "samples: 20\n" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["deltawrld"], "error: there is no preset or file 'deltawrld'; did you mean 'deltaworld'?\n"),
        (["stageless.yaml"], "error: stageless.yaml does not say what it is for; add a line `stage: "),
        (
            ["deltaworld", "--set", "qeries=1"],
            "error: unknown setting 'qeries' (from --set); did you mean 'queries'?\n",
        ),
    ],
)
def test_config_show_of_what_is_not_there_is_one_line(
    run: Run, tmp_path: Path, words: list[str], expected: str
) -> None:
    (tmp_path / "stageless.yaml").write_text("lr: 1\n")
    code, out, err = run("config", "show", *words)
    assert (code, out) == (1, "")
    assert err.startswith(expected)
    assert err.count("\n") == 1


# --- the environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (["featurize", "shards"], "deltactl.featurize.run.run"),
        (["tokenize", "shards", "--tokenizer", "t.bin"], "deltactl.tokenization.run.run"),
        (["train", "tokenizer", "shards"], "deltactl.train.run.train"),
        (["train", "world", "shards"], "deltactl.train.run.train"),
        (["eval", "--dataset", "vspw", "--root", "tree"], "deltactl.evaluate.run.run"),
        (["predict", "a.mp4", "--tokenizer", "t.bin", "--world", "w.bin"], "deltactl.evaluate.predict.run.run_predict"),
    ],
)
def test_the_environment_names_the_backbone_below_flags_and_above_presets(
    words: list[str], called: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = {"eval": "evaluate"}.get(words[0], words[1] if words[0] == "train" else words[0])
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"stage: {stage}\nbackbone: of-the-preset\n")
    module, _, name = called.rpartition(".")
    seen: list[str] = []

    def remember(config: Any, *_arguments: object, **_more: object) -> None:
        seen.append(config.backbone)
        raise ConfigError("that was all")

    monkeypatch.setattr(importlib.import_module(module), name, remember)
    monkeypatch.setenv("DELTACTL_BACKBONE", "of-the-environment")
    for more in ([], ["--backbone", "of-the-flag"], ["--set", "backbone=of-a-set"]):
        assert run(*words, "--config", str(preset), *more)[0] == 1
    monkeypatch.delenv("DELTACTL_BACKBONE")
    assert run(*words, "--config", str(preset))[0] == 1
    assert seen == ["of-the-environment", "of-the-flag", "of-a-set", "of-the-preset"]
