"""`deltactl watch RUN`: a training's curves and figures in the terminal, or as a page that refreshes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deltactl.commands.options import Command, yes_option

if TYPE_CHECKING:
    from deltactl.locations import Location


@click.command(
    cls=Command,
    example="deltactl watch workspace/runs/NAME\ndeltactl watch s3://bucket/runs/NAME --page watch.html",
)
@click.argument("run")
@click.option("--once", is_flag=True, help="Show how it is now, and do not wait for its end.")
@click.option(
    "--page",
    metavar="FILE",
    help="Write one HTML page that needs nothing else, and refreshes itself, in place of the terminal.",
)
@click.option(
    "--every",
    type=click.FloatRange(min=0.5, max=3600),
    default=5.0,
    show_default=True,
    help="Seconds between looks.",
)
@yes_option
def command(run: str, once: bool, page: str | None, every: float, yes: bool) -> None:
    """Show a training's curves, its newest figures and what is not healthy.

    RUN is the folder of a run, on a disk or in an object store, which is only read. One that is trained is followed
    until it ends, or until Ctrl-C, which leaves the training alone; one that has ended is shown once, and so is all
    where the output is no terminal. Figures are those of metrics.csv; pictures are those of its newest evaluation
    during training.
    """
    from deltactl.errors import StoppedError
    from deltactl.locations import Location
    from deltactl.watch.follow import show, write
    from deltactl.watch.state import Watch

    watch = Watch(Location.of(run))
    try:
        if page is None:
            show(watch, every, once=once)
            return
        place = Location.of(page)
        running = watch.look().is_running and not once
        _may_write(place, yes)
        click.echo(f"page: {page}{f', written anew every {every:g} s until the run ends' if running else ''}")
        moment = write(watch, place, every, once=once)
        click.echo(f"{moment.title()}; {moment.progress()}")
    except KeyboardInterrupt as stop:
        if isinstance(stop, StoppedError):
            raise
        click.echo(f"no longer watching {run}", err=True)


def _may_write(place: Location, yes: bool) -> None:
    """Ask before a file is overwritten that is no page of a run.

    Raises:
        ConfigError: it is a folder, or may not be overwritten.
    """
    from deltactl.commands.consent import consent
    from deltactl.errors import ConfigError
    from deltactl.removal import Removal
    from deltactl.watch.page import is_page

    if place.is_local and place.path.is_dir():
        raise ConfigError(f"--page {place} is a folder; name a file, such as {place}/watch.html")
    if place.exists() and not is_page(place):
        consent(yes)([Removal.of(place, "to be written anew")])
