"""What is built can be installed: a source archive, a wheel of it with every file, the program outside the repository,
and the steps of the Dockerfile."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_PACKAGED = {"tests", "benchmarks", "docs", "build", "dist", "workspace", "site", "wandb", "lightning_logs"}
MADE = {".venv", ".git", ".mypy_root", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__"}
IN_NO_ARCHIVE = MADE | {
    "build",
    "dist",
    "workspace",
    "site",
    "wandb",
    "lightning_logs",
    "deltactl-demo",
    ".env",
    ".whl",
}
SHORT_DEMO = """
from pathlib import Path
from deltactl.cli import main
from deltactl.demo.datasets import DemoSizes
from deltactl.demo.page import write_page
from deltactl.demo.run import run_demo
from deltactl.demo.table import result_lines
sizes = DemoSizes(videos=6, heads_videos=4, test_videos=4, drives=1, drive_frames=24)
result = run_demo(Path("demo"), main, sizes=sizes, settings=("steps=2",))
write_page(result)
print("\\n".join(result_lines(result)))
"""


def done(words: list[str], where: Path, **variables: str) -> str:
    """Run a program to its end and return what it printed; of the variables that name modules none are handed on."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    result = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, check=False, timeout=550)
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def sources() -> set[str]:
    """Return the files of the tree that belong to the project, by their path."""
    found = set()
    for folder, folders, files in os.walk(ROOT):
        inside = Path(folder).relative_to(ROOT)
        made = IN_NO_ARCHIVE if folder == str(ROOT) else set()
        folders[:] = [name for name in folders if name not in {*made, "__pycache__"} and not name.endswith(".egg-info")]
        found |= {(inside / name).as_posix() for name in files if name not in made}
    return {name for name in found if not name.endswith((".pyc", ".new"))}


def packaged() -> set[str]:
    """Return the files that the installed package must have: all in folders with modules, but for those at the root."""
    names = {name for name in sources() if name.partition("/")[0] not in NOT_PACKAGED and not name.startswith(".")}
    at_root = {name for name in names if "/" not in name and (name.endswith(".py") or name == "py.typed")}
    return {f"deltactl/{name}" for name in at_root | {name for name in names if "/" in name}}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive, made of a copy of the tree."""
    copy = tmp_path_factory.mktemp("build") / "tree"
    for name in sources():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    build = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    done([sys.executable, "-c", build], copy)
    (made,) = (copy / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(archive: Path) -> Path:
    """A wheel, built from the source archive."""
    out = archive.parents[2] / "wheels"
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done([sys.executable, *words, "--wheel-dir", str(out), str(archive)], archive.parent)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """An environment with nothing but the wheel in it; what that depends on comes from this one."""
    place = wheel.parents[1] / "environment"
    venv.create(place, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but the .pth files in it are not read: the tree itself cannot be found by them.
    folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "what_it_needs.pth").write_text("\n".join(folders) + "\n")
    words = ["-m", "pip", "--python", str(place / "bin/python"), "install", "--quiet", "--no-deps", "--no-index"]
    done([sys.executable, *words, str(wheel)], place)
    return place


def test_the_source_archive_has_every_file(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        inside = {member.name.partition("/")[2] for member in tar if member.isfile()}
    assert sources() - inside == set(), "see MANIFEST.in"


def test_the_wheel_has_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if ".dist-info/" not in name}
    assert inside == packaged(), "see packages and package-data in pyproject.toml"
    assert {"deltactl/py.typed", "deltactl/configs/presets/deltaworld.yaml"} <= inside


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = [each for each in file.namelist() if each.endswith(".dist-info/METADATA")]
        said = file.read(name).decode()
        assert any(each.endswith("/licenses/LICENSE") for each in file.namelist())
    assert f"\nVersion: {PROJECT['version']}\n" in said
    assert "\nLicense-Expression: Apache-2.0\n" in said
    for extra in PROJECT["optional-dependencies"]:
        assert f"\nProvides-Extra: {extra}\n" in said
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["preferred-citation"]["title"] in " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.slow
def test_the_program_runs_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    python, program = str(installed / "bin/python"), str(installed / "bin/deltactl")
    where = done([python, "-c", "import deltactl; print(deltactl.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(installed)
    home = {"HOME": str(tmp_path), "DELTACTL_HOME": str(tmp_path / "workspace"), "WANDB_MODE": "disabled"}
    assert "ingest" in done([program, "--help"], tmp_path, **home)
    assert PROJECT["version"] in done([program, "--version"], tmp_path, **home)
    assert "torch" in done([program, "doctor"], tmp_path, **home)
    assert "deltaworld" in done([program, "config", "list"], tmp_path, **home)
    assert "DeltaWorld, best of 20" in done([python, "-c", SHORT_DEMO], tmp_path, **home)
    assert (tmp_path / "demo/report.html").is_file()


# --- the Dockerfile --------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, each with what follows it, arguments put in."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    arguments: dict[str, str] = {}
    found = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        rest = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], rest)
        if word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        found.append((word, rest))
    return found


def test_the_image_is_of_a_python_that_is_supported_and_of_extras_that_there_are() -> None:
    steps = instructions()
    assert {word for word, _ in steps} <= {"ARG", "FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    (base,) = [rest for word, rest in steps if word == "FROM"]
    version = re.fullmatch(r"python:(3\.\d+)-slim", base)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]
    (install,) = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    extras = re.search(r'"/src\[([\w,-]+)\]"', install)
    assert extras is not None
    assert set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys()
    assert [rest for word, rest in steps if word == "COPY"] == [". /src"]


def test_the_image_has_all_that_the_package_is_built_of() -> None:
    """What `.dockerignore` leaves out is neither packaged nor named in pyproject."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    needed = {name.removeprefix("deltactl/").partition("/")[0] for name in packaged()}
    needed |= {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
    assert not needed & set(ignored)
    assert {".venv", ".env", "workspace", ".git"} <= set(ignored), "nothing private goes into an image"


@pytest.mark.slow
def test_steps_of_the_image_run(installed: Path, archive: Path, tmp_path: Path) -> None:
    """Those that install nothing from outside: pip's with the archive in place of /src, and the program's."""
    ran = 0
    path = f"{installed / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for step in (rest for word, rest in instructions() if word == "RUN"):
        if "pip install" in step:
            source = shutil.unpack_archive(archive, tmp_path / "unpacked") or next((tmp_path / "unpacked").iterdir())
            here = f"--no-deps --no-index --no-build-isolation --target {tmp_path / 'target'} "
            step = step.replace("/src", str(source)).replace('"' + str(source), here + '"' + str(source))
            done(["bash", "-euc", step], tmp_path, PATH=path)
            assert (tmp_path / "target/deltactl/cli.py").is_file()
            ran += 1
        elif step.startswith("deltactl"):
            done(["bash", "-euc", step], tmp_path, PATH=path, HOME=str(tmp_path))
            ran += 1
    assert ran == 2
