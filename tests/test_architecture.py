"""The house stays as drawn: imports run one way, packages are listed, files stay small, nothing private leaks in."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TIERS = (
    {"errors", "hub", "main_memory", "per_process", "redaction", "progress", "publication", "reading", "signals"},
    {"locations", "configs", "completion", "drafts", "fields", "registry", "staging"},
    {
        "artifacts",
        "claims",
        "compilation",
        "devices",
        "engine",
        "generations",
        "gpu_faults",
        "processor",
        "removal",
        "stages",
        "unit_claims",
        "verification",
    },
    {"ingest", "datasets"},  # a data set is told with what ingest knows of geometry and sources
    {"featurize"},
    {"train", "tasks"},  # a task has a network, and heads are trained for one
    {"tokenization"},
    {"evaluate", "recipes", "curation"},
    {"share", "watch"},
    {"machine"},
    {"commands", "demo", "cli", "__main__"},
)
"""Lowest first: a room imports from its own tier and those below."""
TIER_OF = {room: tier for tier, rooms in enumerate(TIERS) for room in rooms}
NOT_PACKAGED = {"tests", "benchmarks", "docs", "build", "dist", "workspace", "wandb", "lightning_logs"}
LARGEST_LINES = 500


def modules() -> dict[str, Path]:
    """Return the dotted name, without `deltactl.`, and file of every module of the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in NOT_PACKAGED and not parts[0].startswith("."):
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Return the modules of this package, without `deltactl.`, that a file imports, wherever in it.

    Imports inside functions count, and so do those under TYPE_CHECKING: what is only needed for a type is still known
    to this file, and moving an import does not end a ring. So do `import_module` calls whose name is written out, or
    begins with a package that is: they may reach every file of it. Importing a file also runs the `__init__` of its
    packages, which does not count: of those only that of `engine` imports anything, and no file of `engine` imports it.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and node.args:
            names = named_by_call(node)
        found |= {name.removeprefix("deltactl.") for name in names if name.startswith("deltactl.")}
    return found & MODULES.keys()


def named_by_call(call: ast.Call) -> list[str]:
    """Return what a call of `import_module` may import; nothing for other calls."""
    function = call.func
    if (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) != "import_module":
        return []
    match call.args[0]:
        case ast.Constant(value=str(name)):
            return [name]
        case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):
            return [name for name in (f"deltactl.{module}" for module in MODULES) if name.startswith(start)]
    return []


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def ring(edges: dict[str, set[str]]) -> list[str]:
    """Return the names along one ring of imports, the first once more at the end; nothing where there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        found: list[str] = []
        if name not in done:
            for other in sorted(edges.get(name, set()) - {name}):
                if found := visit(other, [*trail, name]):
                    break
            done.add(name)
        return found

    return next((found for name in sorted(edges) if (found := visit(name, []))), [])


def test_the_walk_finds_the_package() -> None:
    assert {"cli", "errors", "configs.base", "train.networks.deltatok", "ingest.shards.format"} <= MODULES.keys()
    assert "train.networks.layers" in IMPORTS["train.networks.deltatok"]
    assert "configs.load" in IMPORTS["commands.config"]  # imported inside a function
    assert "commands.demo" in IMPORTS["cli"]  # whose name is put together when it is called


def test_the_walk_sees_imports_for_types_and_by_name(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "if TYPE_CHECKING:\n    from deltactl.errors import DeltactlError\n"
        "def load(name):\n    return importlib.import_module('deltactl.devices')\n"
        "def find(name):\n    return import_module(f'deltactl.configs.{name}')\n"
    )
    found = imports(file)
    assert {"errors", "devices"} <= found
    assert {name for name in MODULES if name.startswith("configs.")} == found - {"errors", "devices"}


def test_a_ring_is_named() -> None:
    assert ring({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert ring({"a": {"a", "b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])
def test_imports_run_one_way(module: str) -> None:
    room = module.split(".")[0]
    assert room in TIER_OF, f"{module} belongs to no room; add it to TIERS and to docs/architecture.md"
    for imported in IMPORTS[module]:
        other = imported.split(".")[0]
        assert TIER_OF[other] <= TIER_OF[room], f"{module} imports {imported}, which lies above it"


def test_no_files_import_each_other_in_a_ring() -> None:
    assert not ring(IMPORTS), " → ".join(ring(IMPORTS))


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_importing_a_package_costs_nothing(module: str) -> None:
    imported = [node for node in MODULES[module].read_text().splitlines() if node.startswith(("import ", "from "))]
    assert module == "engine" or not imported, f"{module} imports at once what may not be needed: {imported[0]}"


def test_the_package_list_is_the_tree() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {"deltactl"} | {
        f"deltactl.{path.parent.relative_to(ROOT).as_posix().replace('/', '.')}"
        for path in MODULES.values()
        if path.parent != ROOT
    }
    assert set(listed) == there
    for path in MODULES.values():
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


def test_data_lie_in_a_listed_package() -> None:
    """Setuptools takes a folder of data that is not listed for a package by mistake, warns, and will leave it out."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package, patterns in settings["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        assert package in settings["packages"]
        for pattern in patterns:
            assert "/" not in pattern, f"{pattern} lies in a folder below {package}; make that a package"
            assert list(folder.glob(pattern)), f"{package} has no {pattern}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("commands.")])
def test_a_command_imports_its_room_only_when_called(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    standard = {"__future__", "collections", "dataclasses", "difflib", "functools", "logging", "re", "typing"}
    light = ("deltactl.commands", "deltactl.configs", "deltactl.errors")
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            allowed = name.split(".")[0] in {*standard, "click", "pydantic", "deltactl"}
            assert allowed, f"{module} imports {name} before it is called"
            assert not name.startswith("deltactl.") or name.startswith(light), name


@pytest.mark.parametrize("module", list(MODULES))
def test_files_have_one_subject_and_say_which(module: str) -> None:
    text = MODULES[module].read_text()
    assert len(text.splitlines()) < LARGEST_LINES, f"{module} is long; give its parts files of their own"
    assert MODULES[module].stem not in ("utils", "helpers", "common", "misc"), f"{module} says nothing by its name"
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{module} does not say what it does"


def test_nothing_unfinished_or_private_is_left_in_the_sources() -> None:
    # Written in halves, so that this file does not hold what it looks for.
    words = [
        "/wo" + "rk/",
        "TO" + "DO",
        "FIX" + "ME",
        "XX" + "X ",
        r"\bissue" + r" #?\d",
    ]
    words += ["chat" + "gpt", "clau" + "de", "anthro" + "pic", "open" + "ai", r"\bllm" + r"s?\b", "AI as" + "sistant"]
    pattern = re.compile("|".join(words), re.IGNORECASE)
    kinds = {".py", ".md", ".yaml", ".toml", ".example", ".svg", ".cfg", ".json"}
    looked_at = 0
    for path in ROOT.rglob("*"):
        inside = path.relative_to(ROOT).parts
        hidden = inside[0].startswith(".") and inside[0] not in (".ci", ".env.example", ".gitignore")
        if hidden or inside[0] in {"workspace", "build", "dist"} or inside[0].endswith(".egg-info"):
            continue
        if path.is_file() and (path.suffix in kinds or path.name in ("Makefile", "run", "LICENSE", ".gitignore")):
            looked_at += 1
            text = path.read_text(errors="replace")
            for match in pattern.finditer(text):
                line = text[: match.start()].count("\n") + 1
                pytest.fail(f"{path.relative_to(ROOT)}:{line} holds {match[0]!r}")
    assert looked_at > 50
