"""`deltactl doctor`: what this machine has, and what to do about what it has not."""

from __future__ import annotations

import click

from deltactl.commands.options import Command


@click.command(cls=Command, example="deltactl doctor\ndeltactl doctor --json > machine.json")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON list.")
def command(as_json: bool) -> None:
    """Say what this machine has and what is missing.

    Looks at the processor, disk, GPU, decoders (DALI is tried on small videos), data roots, checkpoints and accounts.
    It changes nothing and asks nothing of the network. What is missing may not matter: each line says what it is for.
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
        mark = click.style("ok     ", fg="green") if finding.found else click.style("missing", fg="yellow")
        remedy = f" → {finding.remedy}" if finding.remedy and not finding.found else ""
        click.echo(f"  {mark}  {finding.name:20}  {finding.detail}{remedy}")
