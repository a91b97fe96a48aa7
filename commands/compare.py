"""`deltactl compare`: several reports of one data set beside each other, with paired intervals."""

from __future__ import annotations

import click

from deltactl.commands.options import Command, yes_option


@click.command(
    cls=Command,
    example="deltactl compare reports/tokens-1 reports/tokens-4\n"
    "deltactl compare reports/base reports/long reports/wide --page comparison.html",
)
@click.argument("reports", nargs=-1, required=True, metavar="REPORT REPORT...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of tables.")
@click.option("--page", metavar="FILE", help="Write tables and a chart as one HTML page that needs nothing else, too.")
@yes_option
def command(reports: tuple[str, ...], as_json: bool, page: str | None, yes: bool) -> None:
    """Compare reports of one data set: runs, tokenizers, backbones.

    The rows of all of them stand beside each other; then by how much each is above the first one, with paired 95 %
    intervals where they hold the same clips; then what their networks cost to train, where their runs say so. Nothing
    is evaluated anew.
    """
    import json

    from rich.console import Console

    from deltactl.evaluate.compare import compare
    from deltactl.evaluate.report.comparison import comparison_page, comparison_tables

    comparison = compare(reports)
    if page is not None:
        from deltactl.commands.consent import consent
        from deltactl.locations import Location
        from deltactl.removal import Removal

        place = Location.of(page)
        if place.exists():
            consent(yes)([Removal.of(place, "to be written anew")])
        place.write_bytes(comparison_page(comparison).encode())
    if as_json:
        click.echo(json.dumps(comparison.to_json(), indent=1, ensure_ascii=False))
        return
    console = Console()
    for table in comparison_tables(comparison):
        console.print(table)
    if page is not None:
        click.echo(f"page: {page}")
