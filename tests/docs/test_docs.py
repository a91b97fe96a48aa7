"""What the documentation says is so: commands exist, links lead somewhere, marked blocks run."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import pytest
from pages import ROOT, blocks

from deltactl import __version__
from deltactl.cli import program
from deltactl.machine import NETWORKS, ROOTS

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def command_lines(page: Path) -> list[list[str]]:
    """Return the words of every call of deltactl in a page's shell blocks."""
    lines = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            # Variables and what follows a pipe, a redirection or a second command are the shell's.
            words = shlex.split(re.split(r"\s[>|&;]|\s\(", line, maxsplit=1)[0], comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words[:1] == ["deltactl"]:
                lines.append(words[1:])
    return lines


def problem(words: list[str]) -> str | None:
    """Return what is wrong with a call of deltactl, without making it; None where it parses."""
    command: click.Command = program
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(click.Context(command), rest[0])
        if inner is None:
            return f"no command {rest[0]!r}"
        command, rest = inner, rest[1:]
    try:
        command.make_context("deltactl", rest)
    except click.exceptions.Exit:  # --help, --version
        return None
    except click.UsageError as error:
        return error.format_message()
    return None


@pytest.mark.usefixtures("installed")  # the page on extending names what the toy package brings
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_a_page_is_one_that_parses(page: Path) -> None:
    for words in command_lines(page):
        assert problem(words) is None, f"{page.name}: deltactl {' '.join(words)}: {problem(words)}"


def test_a_wrong_command_would_be_found() -> None:
    assert problem(["confg", "list"]) == "no command 'confg'"
    assert "--sett" in (problem(["config", "show", "deltaworld", "--sett", "a=1"]) or "")
    assert problem(["config", "show"]) is not None
    assert problem(["config", "show", "deltaworld"]) is None


def test_the_pages_show_commands_at_all() -> None:
    assert len(command_lines(ROOT / "README.md")) > 5
    assert len(command_lines(ROOT / "docs" / "cli.md")) > 5


def generator(name: str) -> ModuleType:
    """Return the program in docs/ that writes pages, as a module."""
    spec = importlib.util.spec_from_file_location(f"generate_{name}", ROOT / "docs" / f"generate_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli", "files"])
def test_generated_pages_are_current(page: str) -> None:
    # In a process of its own, which knows no packages that other tests brought.
    script = [sys.executable, str(ROOT / "docs" / f"generate_{page}.py")]
    made = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / f"{page}.md").read_text() == made, "run: make docs"


@pytest.mark.parametrize("page", ["docs/published.md", "docs/reproduce.md"])
def test_tables_of_costs_are_what_the_command_beside_them_prints(page: str) -> None:
    plans = generator("plans")
    text = (ROOT / page).read_text()
    tables = list(plans.TABLE.finditer(text))
    assert tables, "there is one"
    for table in tables:
        assert len(table["table"].splitlines()) > 5
    assert plans.filled(text) == text, "run: make docs"


def test_the_reader_sees_the_command_that_makes_the_table_of_costs() -> None:
    text = (ROOT / "docs" / "published.md").read_text()
    for table in generator("plans").TABLE.finditer(text):
        assert f"\ndeltactl plan {table['words']}" in text[: table.start()].rpartition("```sh")[2]


def test_every_file_says_what_it_is() -> None:
    text = (ROOT / "docs" / "files.md").read_text()
    rooms = [ROOT / name for name in ("", "commands", "configs", "ingest", "featurize", "train", "evaluate", "demo")]
    for path in (path for room in rooms for path in room.glob("*.py")):
        if path.read_text().strip():
            assert f"(../{path.relative_to(ROOT)})" in text, f"{path} has no docstring"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def stories() -> dict[str, str]:
    """Return the sections of the architecture that follow something from file to file, by their heading."""
    sections = re.split(r"^## ", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE)[1:]
    named = dict(section.split("\n", 1) for section in sections)
    return {heading: text for heading, text in named.items() if heading.endswith(", file by file")}


def is_defined(path: Path, name: str) -> bool:
    """Whether a file defines a function, a class, or a method such as `Pipeline.run`."""
    found: list[ast.stmt] = [ast.parse(path.read_text())]  # type: ignore[list-item]
    for part in name.split("."):
        inside = [each for outer in found for each in getattr(outer, "body", [])]
        found = [each for each in inside if getattr(each, "name", None) == part]
    return bool(found)


@pytest.mark.parametrize("heading", stories())
def test_files_and_functions_of_the_stories_are_there(heading: str) -> None:
    text = stories()[heading]
    for file in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / file).is_file(), f"{heading} names {file}, which is not there"
    for file, name in re.findall(r"`([\w/]+\.py)`\s`([\w.]+)`", text):
        assert is_defined(ROOT / file, name), f"{heading} names {name} in {file}, which does not define it"


def test_one_clip_is_followed_in_few_stops_and_never_back_to_a_file_but_the_drivers() -> None:
    items = re.findall(r"^(\d+)\. (?:`([\w/]+\.py)` `[\w.]+`)?", stories()["One clip, file by file"], re.MULTILINE)
    files = [file for _, file in items]
    assert [int(number) for number, _ in items] == list(range(1, len(items) + 1))
    assert len(items) <= 35
    assert all(files), "each stop begins with a file and a function"
    for number, file in enumerate(files):
        left = file in files[:number] and files[number - 1] != file
        assert not left or file in ("stages.py", "featurize/run.py"), f"stop {number + 1} goes back to {file}"


def test_marked_blocks_run(tmp_path: Path) -> None:
    """Shell blocks of all pages, and Python of the README (that of the formats has a test of its own)."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    shell = [block for page in pages for block in blocks(page, "sh", marked=True)]
    python = blocks(ROOT / "README.md", "python", marked=True)
    assert len(shell) > 2
    assert python
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "DELTACTL_HOME": str(tmp_path / "workspace"),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    workspace = str(tmp_path / "workspace")
    calls = [["bash", "-euo", "pipefail", "-c", block.replace(" workspace/", f" {workspace}/")] for block in shell]
    calls += [[sys.executable, "-W", "error", "-c", block] for block in python]
    outputs = []
    for call in calls:
        result = subprocess.run(
            call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
        )
        assert result.returncode == 0, f"{call[-1]}\n{result.stdout}\n{result.stderr}"
        outputs.append(result.stdout)
    assert "DeltaWorld, best" in outputs[0]
    assert (tmp_path / "workspace" / "reports").is_dir()


def test_the_environment_example_names_every_variable() -> None:
    text = (ROOT / ".env.example").read_text()
    for name in (*ROOTS, *NETWORKS, "DELTACTL_HOME", "HF_TOKEN", "WANDB_API_KEY"):
        assert re.search(rf"^#{name}=", text, re.MULTILINE), name
    assert not re.search(r"^[A-Z]", text, re.MULTILINE), "an example sets nothing"


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_makefile_has_a_verb_for_each_task_and_none_that_pretends() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    verbs = phony[1].split()
    assert {"test", "lint", "docs", "site", "bench"} <= set(verbs)
    for verb in verbs:
        rule = re.search(rf"^{verb}:.*\n(\t.+)", text, re.MULTILINE)
        assert rule is not None, f"make {verb} does nothing"
    for verb in ("lint", "site", "test"):
        assert f"\nmake {verb}\n" in (ROOT / ".ci" / "run").read_text()


def test_the_picture_is_well_formed_and_described() -> None:
    from xml.etree import ElementTree

    tree = ElementTree.parse(ROOT / "docs" / "flow.svg")
    names = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert {"title", "desc"} <= names
    text = " ".join(tree.getroot().itertext())
    for word in ("ingest", "featurize", "tokenize", "train tokenizer", "train world", "train head", "eval"):
        assert word in text
