"""Writes the tables of costs into the pages, each by the command that stands above it: python docs/generate_plans.py.

A table is made by the comment before it, `<!-- made by: deltactl plan … -->`; what lies between that and the next empty
line is replaced. (`make docs` does this too.)
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from deltactl.commands.plan import command

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "docs" / "published.md", ROOT / "docs" / "reproduce.md")
TABLE = re.compile(r"^(?P<mark><!-- made by: deltactl plan (?P<words>.*?) -->)\n(?P<table>(?:\|.*\n)*)", re.MULTILINE)


def filled(text: str) -> str:
    """Return a page's text with its tables made anew."""
    return TABLE.sub(lambda match: f"{match['mark']}\n{table_of(match['words'])}", text)


def table_of(words: str) -> str:
    """Return what `deltactl plan` prints."""
    result = CliRunner().invoke(command, shlex.split(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
