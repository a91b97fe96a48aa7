"""`deltactl push PATH REPO`: an artifact, a run or exported weights to the Hub."""

from __future__ import annotations

import click

from deltactl.commands.options import Command, dry_run_option


@click.command(
    cls=Command,
    example="""
        deltactl push workspace/tokens/kinetics-vitb16-512 me/kinetics-tokens --dry-run
        deltactl push deltatok-mine me/deltatok-mine --report workspace/reports/vspw --public
    """,
)
@click.argument("path")
@click.argument("repository", metavar="REPO")
@click.option("--public", is_flag=True, help="Make a new repository public. Without it, it is private.")
@click.option("--revision", metavar="BRANCH", help="Branch to send to, made where it is not there.  [default: main]")
@click.option(
    "--report",
    "reports",
    metavar="DIR",
    multiple=True,
    help="A report of eval whose numbers the card gets; repeatable.",
)
@click.option("--licence", metavar="NAME", help="Licence that the card names, as the Hub calls it, such as cc-by-4.0.")
@dry_run_option
def command(
    path: str,
    repository: str,
    public: bool,
    revision: str | None,
    reports: tuple[str, ...],
    licence: str | None,
    dry_run: bool,
) -> None:
    """Send an artifact, a run or exported weights to the Hub.

    PATH is the folder of shards, of a feature or token store, of a run, or of weights that export wrote; REPO is
    owner/name, made private where it is not there. Everything is verified first. Host names, command lines and local
    paths are taken out of what is sent; data and identities stay as they are. A card is written with it. Given again
    after a stop it goes on. A repository that holds something else is refused; its history keeps what it held before.
    """
    from deltactl.progress import counted, format_bytes, format_seconds
    from deltactl.share.push import push

    done = push(path, repository, public=public, revision=revision, reports=reports, licence=licence, dry_run=dry_run)
    if dry_run:
        click.echo(done.card)
    what = f"{done.kind}, {counted(done.files, 'files')}, {format_bytes(done.bytes)}"
    if dry_run:
        click.echo(f"would send to {done.address}: {what}; nothing was sent")
        return
    for removed in done.removed:
        click.echo(f"no longer there: {removed}")
    seen = "private" if done.private else "public"
    click.echo(f"{done.address} ({seen}): {what}, in {format_seconds(done.seconds)}")
