"""`deltactl verify PATH`: parse, call the room, print."""

from __future__ import annotations

import click

from deltactl.commands.from_config import option_of
from deltactl.commands.options import Command, yes_option
from deltactl.configs.shared import DeviceConfig


@click.command(
    cls=Command,
    example="deltactl verify workspace/features/kinetics-vitb16-256 --repair",
    sections={"Repair": ("repair", "shards", "backbone")},
)
@click.argument("path")
@click.option("--repair", is_flag=True, help="Make again what is damaged or missing, and nothing else.")
@click.option("--shards", metavar="DIR", help="Shards to repair a store from.  [default: those it was made from]")
@click.option("--backbone", metavar="NAME|DIR", help="Backbone to repair a store with, likewise.")
@option_of(DeviceConfig, "device", default=None)
@yes_option
def command(path: str, repair: bool, shards: str | None, backbone: str | None, device: str | None, yes: bool) -> None:
    """Read every byte of an artifact against its checksum.

    PATH is a folder or URL of shards, features, tokens or a run. Each thing that is damaged, missing or left over is
    named; exit code 1 if data is damaged or missing and not repaired, or the stage that makes it has not ended. What is
    left over does no harm and is never removed. Where --repair has to take something out (damaged shards, damaged
    tokens), it names it and asks; --yes answers. It never completes what is unfinished: the stage's own command does.
    """
    from deltactl.commands.consent import consent
    from deltactl.errors import ConfigError, DamagedError
    from deltactl.featurize.verify import Verification
    from deltactl.redaction import printable
    from deltactl.train.checkpoints.verify import verify_run

    for option, value in {"--shards": shards, "--backbone": backbone, "--device": device}.items():
        if value is not None and not repair:
            raise ConfigError(f"{option} {value} has no effect: it goes with --repair; leave it out, or add that")
    verification = Verification.of(path, verify_run)
    findings = verification.run()
    for finding in findings:
        click.echo(printable(str(finding)))
    harmful = [finding for finding in findings if finding.harmful]
    if harmful and repair:
        done = verification.repair(
            findings, shards=shards, backbone=backbone, device=device or "auto", consent=consent(yes)
        )
        said = {finding.reason for finding in findings}
        for line in done:
            if line not in said:
                click.echo(printable(line))
        harmful = [finding for finding in verification.run() if finding.harmful]
        for finding in harmful:
            if finding not in findings or finding.kind != "unfinished":
                click.echo(printable(f"still {finding}"))
    click.echo(verification.summary(findings))
    unfinished = [finding for finding in harmful if finding.kind == "unfinished"]
    if len(unfinished) < len(harmful):
        remedy = "" if repair else f"; to make it again: deltactl verify {path} --repair"
        raise DamagedError(f"{path}: {len(harmful) - len(unfinished)} damaged or missing{remedy}")
    if unfinished:
        raise DamagedError(unfinished[0].reason if path in unfinished[0].reason else f"{path}: {unfinished[0].reason}")
