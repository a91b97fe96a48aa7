"""`deltactl convert OLD NEW`: a store of an earlier format as one of the present format."""

from __future__ import annotations

import click

from deltactl.commands.options import Command


@click.command(
    cls=Command,
    example="deltactl convert features/kinetics-vitb16-256 features/kinetics-256",
)
@click.argument("old")
@click.argument("new")
def command(old: str, new: str) -> None:
    """Make a store of an earlier format one of the present format.

    OLD is a folder or URL of features or tokens of format 1, 2 or 3, in which a group of 256 clips takes 151 files and
    folders (of tokens 27); NEW will hold the same numbers under the same identity, at 8 a group, of tokens for 64
    groups. No GPU is needed: every byte is read against its checksum and written again. OLD stays as it is. What is in
    NEW already is kept, so the same command goes on where it was stopped; several processes may run it at once.
    """
    from deltactl.featurize import convert

    for line in convert.run(old, new).lines():
        click.echo(line)
