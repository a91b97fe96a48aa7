"""`deltactl doctor`: what this machine has, and what to do about what it has not."""

from __future__ import annotations

import click

from deltactl.commands.options import Command


@click.command(cls=Command, example="deltactl doctor\ndeltactl doctor --json > machine.json")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON list.")
def command(as_json: bool) -> None:
    """Say what this machine has and what is missing.

    Looks at the processor, disk, GPU, decoders (DALI is tried on small videos), data roots, checkpoints and accounts.
    It changes nothing and asks nothing of the network. What is marked as optional is not there, and all else works
    without it: each line says what it is for.
    """
    import json
    from dataclasses import asdict

    from deltactl.machine import examine
    from deltactl.redaction import redacted

    if as_json:
        click.echo(json.dumps(redacted([asdict(finding) for finding in examine()]), indent=2))
        return
    group = ""
    for finding in examine():
        if finding.group != group:
            group = finding.group
            click.echo(group)
        mark, colour = (
            ("ok", "green") if finding.found else ("optional", None) if finding.optional else ("missing", "red")
        )
        remedy = f" → {finding.remedy}" if finding.remedy and not finding.found else ""
        click.echo(f"  {click.style(f'{mark:8}', fg=colour)}  {finding.name:20}  {finding.detail}{remedy}")
