"""`deltactl pull REPO`: an artifact, a run or exported weights from the Hub."""

from __future__ import annotations

import click

from deltactl.commands.options import Command


@click.command(
    cls=Command,
    example="""
        deltactl pull me/kinetics-tokens
        deltactl pull me/deltatok-mine@v1 --out exports/deltatok
    """,
)
@click.argument("repository", metavar="REPO")
@click.option(
    "--out",
    metavar="DIR",
    help="New or empty folder to write to.  [default: the repository's name, where the workspace keeps such things]",
)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit; also behind the name: owner/name@v1.")
def command(repository: str, out: str | None, revision: str | None) -> None:
    """Fetch an artifact, a run or exported weights from the Hub.

    REPO is owner/name, of a repository that push made. It is fetched beside DIR, verified byte by byte, and moved there
    when all of it is whole. Given again after a stop it goes on with the files that are not there yet. Where DIR holds
    the same already, that is verified and nothing is fetched; where it holds something else, it is refused.
    """
    from deltactl.progress import counted, format_bytes, format_seconds
    from deltactl.share.pull import pull

    done = pull(repository, out, revision=revision)
    what = f"{done.kind}, {counted(done.files, 'files')}, {format_bytes(done.bytes)}"
    if not done.fetched:
        click.echo(f"{done.place} is there already, and as it is on the Hub: {what}")
        return
    click.echo(f"{done.place}: {what}, fetched and verified in {format_seconds(done.seconds)}")
