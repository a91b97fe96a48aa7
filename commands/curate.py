"""`deltactl curate`: cuts, stills and copies among the clips of a store, as lists and a page."""

from __future__ import annotations

import click

from deltactl.commands.from_config import option_of
from deltactl.commands.options import Command, yes_option
from deltactl.configs.shared import DeviceConfig

KINDS = ("cut", "still", "copy", "repeat")


@click.command(
    cls=Command,
    example="""
        deltactl curate workspace/tokens/kinetics-vitb16-256
        deltactl curate workspace/features/videos-vitb16-256 --leave-out cut,still --cut 8
        deltactl train world workspace/tokens/mine --where workspace/curation/mine/clips.txt
    """,
    sections={
        "Thresholds": ("cut", "still", "alike"),
        "What is compared": ("view", "sample", "shards"),
        "Result": ("leave_out", "as_json"),
    },
)
@click.argument("store", metavar="FEATURES|TOKENS")
@click.option(
    "--cut",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="X",
    help="Robust standard deviations by which a step must exceed the others of its clip.",
)
@click.option(
    "--still",
    type=click.FloatRange(min=0, max=1),
    default=0.05,
    show_default=True,
    metavar="X",
    help="Share of the median movement up to which a clip stands still.",
)
@click.option(
    "--alike",
    type=click.FloatRange(min=0, max=2),
    metavar="X",
    help="Distance (1 - cos) up to which two clips look the same.  [default: the widest gap in the distribution]",
)
@click.option("--view", type=click.IntRange(min=0), metavar="N", help="View to look at.  [default: the first]")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compare N clips, drawn by their keys, with all earlier ones, in place of all with all.",
)
@click.option("--shards", metavar="DIR", help="Shards that the pictures come from, where they were moved.")
@click.option(
    "--leave-out",
    "leave_out",
    default="cut,still,copy",
    show_default=True,
    metavar="KIND,KIND",
    help="What the lists name: of cut, still, copy (of another video) and repeat (within a video).",
)
@option_of(DeviceConfig, "device", default=None)
@click.option(
    "--out", metavar="DIR", help="Folder of the lists and the page.  [default: curation/STORE in the workspace]"
)
@click.option("--json", "as_json", is_flag=True, help="Print thresholds and counts as one JSON object.")
@yes_option
def command(
    store: str,
    cut: float,
    still: float,
    alike: float | None,
    view: int | None,
    sample: int | None,
    shards: str | None,
    leave_out: str,
    device: str | None,
    out: str | None,
    as_json: bool,
    yes: bool,
) -> None:
    """Find cuts, stills and copies among the clips of a store.

    Reads one view of a feature or token store once; no video is decoded and no network runs. Writes clips.txt for
    `train --where`, sources.txt for `ingest --exclude`, and report.html, a page with a histogram for each threshold and
    pictures of what lies on both sides of it. Comparing all clips with each other costs the square of their number:
    --sample takes some of them, --device cuda a GPU.
    """
    import json

    from deltactl.commands.consent import consent
    from deltactl.curation.findings import Thresholds
    from deltactl.curation.page import summary_lines
    from deltactl.curation.run import Settings, curate
    from deltactl.devices import find_devices
    from deltactl.errors import ConfigError
    from deltactl.redaction import printable

    kinds = tuple(dict.fromkeys(part.strip() for part in leave_out.split(",")))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"--leave-out names {unknown[0]!r}; expected some of {', '.join(KINDS)}")
    settings = Settings(
        Thresholds(cut, still, alike), kinds, view, sample, shards, str(find_devices(device or "auto")[0])
    )
    done = curate(store, settings, out, consent(yes))
    if as_json:
        click.echo(json.dumps(done.facts, indent=1, ensure_ascii=False))
        return
    for line in summary_lines(done.facts):
        click.echo(printable(line))
    for name in ("clips.txt", "sources.txt", "report.html"):
        click.echo(f"{name.partition('.')[0]}: {done.folder / name}")
