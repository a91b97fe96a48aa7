"""Asks before something that a user made is removed or overwritten: `--yes`, or a question on a terminal.

A command hands `consent(yes)` to its room, which calls it with names and sizes (`removal.Removal`) before anything is
touched. They are printed in every case; without `--yes` and without a terminal that is all that happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from deltactl.removal import Consent, Removal


def consent(yes: bool) -> Consent:
    """Return who is asked: nobody with `--yes`, else the person at the terminal."""

    def ask(removals: Sequence[Removal]) -> None:
        """Print what would be gone.

        Raises:
            ConfigError: nobody says yes.
        """
        from deltactl.redaction import printable
        from deltactl.removal import listed

        if not removals:
            return
        for removal in removals:
            click.echo(printable(f"{'removes' if yes else 'would remove'} {removal}"), err=True)
        agreed(
            yes, "Remove or overwrite this?", f"nothing was removed or overwritten: {listed(removals)} would be gone"
        )

    return ask


def agreed(yes: bool, question: str, refusal: str) -> None:
    """Go on with `--yes`, or after a yes to the question on a terminal.

    Raises:
        ConfigError: the answer was no, or there is no terminal; the message begins with `refusal`.
    """
    import sys

    from deltactl.errors import ConfigError

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{refusal}; add --yes, or give the command on a terminal, which asks")
    if not click.confirm(question, default=False, err=True):
        raise ConfigError(f"{refusal}, and the answer was no")
