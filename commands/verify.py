"""`deltactl verify PATH`: parse, call the room, print."""

from __future__ import annotations

import click

from deltactl.commands.from_config import option_of
from deltactl.commands.options import Command, yes_option
from deltactl.configs.shared import DeviceConfig


@click.command(
    cls=Command,
    example="""
        deltactl verify workspace/features/kinetics-vitb16-256 --repair
        deltactl verify workspace/tokens/kinetics-vitb16-256 --live 100
    """,
    sections={"Repair": ("repair",), "Live": ("live", "seed", "tokenizer"), "Both": ("shards", "backbone")},
)
@click.argument("path")
@click.option("--repair", is_flag=True, help="Make again what is damaged or missing, and nothing else.")
@click.option(
    "--live",
    type=click.IntRange(min=1),
    metavar="N",
    help="Make N random clips of a store again, and compare them with what it holds.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Which clips are drawn.  [default: 0]")
@click.option("--tokenizer", metavar="CKPT", help="Tokenizer that made the tokens, where it was moved.")
@click.option(
    "--shards",
    metavar="DIR",
    help="Shards, or videos, that a store is made again from.  [default: those it was made from]",
)
@click.option("--backbone", metavar="NAME|DIR", help="Backbone to make a store again with, likewise.")
@option_of(DeviceConfig, "device", default=None)
@yes_option
def command(
    path: str,
    repair: bool,
    live: int | None,
    seed: int | None,
    tokenizer: str | None,
    shards: str | None,
    backbone: str | None,
    device: str | None,
    yes: bool,
) -> None:
    """Read every byte of an artifact against its checksum.

    PATH is a folder or URL of shards, features, tokens or a run. Each thing that is damaged, missing or left over is
    named; exit code 1 if data is damaged or missing and not repaired, or the stage that makes it has not ended. What is
    left over does no harm and is never removed. Where --repair has to take something out (damaged shards, damaged
    tokens), it names it and asks; --yes answers. It never completes what is unfinished: the stage's own command does.

    --live N also asks whether the bytes are the right ones: it decodes, crops and computes N clips anew, from the
    shards or videos that the store was made from, and prints by how much a frame differs at most and on average,
    relative to its norm. More than 0.015 (0.04 where numbers are stored, or were multiplied, in bfloat16) counts as
    damage, and so do other times or another crop. Of a part's store it takes the part's clips.
    """
    from deltactl.commands.consent import consent
    from deltactl.errors import ConfigError, DamagedError
    from deltactl.featurize.verify import Verification
    from deltactl.redaction import printable
    from deltactl.train.checkpoints.verify import verify_run

    for option, value in {"--shards": shards, "--backbone": backbone, "--device": device}.items():
        if value is not None and not repair and live is None:
            raise ConfigError(
                f"{option} {value} has no effect: it goes with --repair or --live; leave it out, or add one of them"
            )
    for option, given in {"--tokenizer": tokenizer, "--seed": seed}.items():
        if given is not None and live is None:
            raise ConfigError(f"{option} {given} has no effect: it goes with --live; leave it out, or add that")
    verification = Verification.of(path, verify_run)
    if live is not None and verification.kind not in ("features", "tokens"):
        raise ConfigError(f"--live {live} has no effect: {path} holds {verification.kind}; it goes with a store")
    findings = verification.run()
    line = None
    if live is not None:
        from deltactl.tokenization.live import verify_live

        check = verify_live(
            verification.root,
            live,
            seed=seed or 0,
            place=shards,
            backbone=backbone,
            tokenizer=tokenizer,
            device=device or "auto",
            skip={finding.unit for finding in findings},
        )
        findings += check.findings
        line = check.line()
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
    if line is not None:
        click.echo(line)
    click.echo(verification.summary(findings))
    unfinished = [finding for finding in harmful if finding.kind == "unfinished"]
    if len(unfinished) < len(harmful):
        remedy = "" if repair else f"; to make it again: deltactl verify {path} --repair"
        raise DamagedError(f"{path}: {len(harmful) - len(unfinished)} damaged or missing{remedy}")
    if unfinished:
        raise DamagedError(unfinished[0].reason if path in unfinished[0].reason else f"{path}: {unfinished[0].reason}")
