"""What the site has besides the pages in docs/: the pages at the root, the reference of the modules, and the sources.

A hook of MkDocs (`mkdocs.yml`). Pages are written for the repository's host, where a link is a path in the repository;
here each is turned into where that lies in the site: README.md is the index, CONTRIBUTING.md and CHANGELOG.md are
pages, the notebook is a page with what its cells printed and drew when they were last run, and what is no page, such as
a module, is text that a browser shows. A link that leads nowhere ends the build.
"""

from __future__ import annotations

import ast
import base64
import html
import json
import posixpath
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
SOURCES = "sources"
AT_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages at the root of the repository, and what they are here."""
TOUR = "tour"
REFERENCE: dict[str, tuple[str, tuple[str, ...]]] = {
    "reading": (
        "Reading",
        (
            "featurize.store.dataset",
            "featurize.store.reader",
            "featurize.store.statistics",
            "ingest.shards.format",
            "ingest.shards.random_access",
            "ingest.shards.columns",
        ),
    ),
    "stages": (
        "Stages",
        (
            "ingest.run",
            "featurize.run",
            "tokenization.run",
            "train.run",
            "evaluate.run",
            "evaluate.predict.run",
            "evaluate.surprise.run",
            "evaluate.probe.run",
        ),
    ),
    "configuration": (
        "Configuration",
        (
            *("configs.load", "configs.ingest", "configs.featurize", "configs.tokenize", "configs.tokenizer"),
            *("configs.world", "configs.head", "configs.rgb", "configs.training", "configs.evaluate"),
            *("configs.predict", "configs.surprise"),
        ),
    ),
    "networks": (
        "Networks",
        (
            *("train.checkpoints.loading", "train.checkpoints.export", "train.networks.deltatok"),
            *("train.networks.deltaworld", "train.networks.dinoworld", "train.networks.heads"),
            "featurize.backbones.backbone",
        ),
    ),
    "extending": (
        "Extending",
        (
            *("registry", "datasets.record", "tasks.record", "featurize.backbones.family"),
            *("train.networks.kinds", "train.networks.losses"),
        ),
    ),
    "artifacts": ("Artifacts and errors", ("artifacts", "locations", "verification", "errors")),
}
"""Pages of the reference: the title, and the modules whose docstrings they show."""

LINK = re.compile(r"(\]\()([^)\s#]+)?(#[^)\s]*)?(\))")
COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
BARS = re.compile(r"`([^`\n]*\\\|[^`\n]*)`")
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Lay the packages out as they are imported, for the reader of docstrings, which follows no links."""
    place = ROOT / "build" / "api"
    shutil.rmtree(place, ignore_errors=True)
    (place / "deltactl").mkdir(parents=True)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {package.split(".")[1] for package in packages if "." in package}
    for path in ROOT.glob("*.py"):
        shutil.copy(path, place / "deltactl")
    for room in rooms:
        shutil.copytree(ROOT / room, place / "deltactl" / room, ignore=shutil.ignore_patterns("__pycache__"))
    if others := sorted({path.name for path in (ROOT / "docs").glob("*.md")} - named(config["nav"])):
        config["nav"].append({"More": list(others)})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what does not lie in docs/."""
    for name, uri in AT_ROOT.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text()))
    for name, (title, modules) in REFERENCE.items():
        files.append(File.generated(config, f"api/{name}.md", content=reference(title, modules)))
    page, pictures = notebook(json.loads((ROOT / "docs" / f"{TOUR}.ipynb").read_text()), TOUR)
    files.append(File.generated(config, f"{TOUR}.md", content=page))
    for name, picture in pictures.items():
        files.append(File.generated(config, name, content=picture))
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in AT_ROOT)]:
        for path in linked(page):
            uri = in_site(path)
            if uri.startswith(f"{SOURCES}/") and uri not in files.src_uris and (ROOT / path).is_file():
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a page into those of the site, and leave out remarks for the tests."""
    uri = page.file.src_uri
    if uri.startswith("api/"):
        return markdown
    origin = next((name for name, other in AT_ROOT.items() if other == uri), f"docs/{uri}")
    parts = FENCE.split(markdown)
    parts[::2] = [BARS.sub(code_with_bars, with_links(COMMENT.sub("", part), origin, uri)) for part in parts[::2]]
    return "".join(parts)


def named(nav: Any) -> set[str]:
    """Return the pages that a part of `nav` names."""
    if isinstance(nav, str):
        return {nav}
    return {name for part in (nav.values() if isinstance(nav, dict) else nav) for name in named(part)}


def reference(title: str, modules: tuple[str, ...]) -> str:
    """Return a page of the reference."""
    lines = [f"# {title}", ""]
    for module in modules:
        path = ROOT / f"{module.replace('.', '/')}.py"
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
        assert first, f"{module} does not say what it does"
        lines += [f"::: deltactl.{module}", ""]
    return "\n".join(lines)


def notebook(content: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as the text of a page, and the pictures in it by their place."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                place = f"{name}/{len(pictures) + 1}.png"
                pictures[place] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell above draws]({place})")
            else:
                text = "".join(output.get("text") or data["text/plain"]).rstrip()
                parts.append(f"```text\n{text}\n```")
    parts.insert(1, f"As a notebook to run: [{name}.ipynb]({name}.ipynb).")
    return "\n\n".join(parts) + "\n", pictures


def with_links(text: str, origin: str, uri: str) -> str:
    """Return text of the page `origin` of the repository, which is `uri` here, with the links of the site."""

    def turned(match: re.Match[str]) -> str:
        target, anchor = match[2] or "", match[3] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        return f"{match[1]}{posixpath.relpath(in_site(path), posixpath.dirname(uri) or '.')}{anchor}{match[4]}"

    return LINK.sub(turned, text)


def code_with_bars(match: re.Match[str]) -> str:
    r"""Return code in a table that holds `\|`, which stands for a bar on the repository's host, but not here."""
    text = html.escape(match[1].replace(r"\|", "|"))
    return f"<code>{text.replace('|', '&#124;')}</code>"


def linked(page: Path) -> set[str]:
    """Return the files of the repository that a page links to, by their path."""
    folder = page.parent.relative_to(ROOT).as_posix()
    targets = (match[2] for match in LINK.finditer(page.read_text()) if match[2] and "://" not in match[2])
    return {posixpath.normpath(posixpath.join(folder, target)) for target in targets}


def in_site(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    if path in AT_ROOT:
        return AT_ROOT[path]
    if path == f"docs/{TOUR}.ipynb":
        return f"{TOUR}.md"
    if path.startswith("docs/") and not path.endswith(".py"):
        return path.removeprefix("docs/")
    return f"{SOURCES}/{path}.txt"
