"""`deltactl nearest`: the clips of a store that look most like one of them."""

from __future__ import annotations

import click

from deltactl.commands.options import Command, yes_option


@click.command(
    cls=Command,
    example="""
        deltactl nearest workspace/tokens/kinetics-vitb16-256 --query train__abseiling__a7xK2-0f3c9a1b2d4e
        deltactl nearest workspace/features/videos-vitb16-256 --query KEY --other-videos --picture nearest.png
    """,
)
@click.argument("store", metavar="FEATURES|TOKENS")
@click.option("--query", "queries", metavar="CLIP", multiple=True, required=True, help="Key of a clip; repeatable.")
@click.option("-k", "count", type=click.IntRange(1, 1000), default=8, show_default=True, help="How many to find.")
@click.option("--other-videos", is_flag=True, help="Leave out clips of the video that the query is of.")
@click.option("--view", type=click.IntRange(min=0), metavar="N", help="View to look at.  [default: the first]")
@click.option("--picture", metavar="FILE.png", help="Draw the query and what was found, a clip a row.")
@click.option("--shards", metavar="DIR", help="Shards that the pictures come from, where they were moved.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of lines.")
@yes_option
def command(
    store: str,
    queries: tuple[str, ...],
    count: int,
    other_videos: bool,
    view: int | None,
    picture: str | None,
    shards: str | None,
    as_json: bool,
    yes: bool,
) -> None:
    """Find the clips of a store that look most like one of them.

    By the cosine of what they look like: mean and deviation of a clip's features, or the mean of its tokens, less what
    all clips have in common. Exact; reads one view of the store once, in blocks.
    """
    import json
    from pathlib import Path

    from deltactl.commands.consent import consent
    from deltactl.curation.frames import Frames
    from deltactl.curation.nearest import nearest_clips, sheet, title_of
    from deltactl.curation.read import open_store, samples_of
    from deltactl.errors import ConfigError
    from deltactl.evaluate.report.pictures import write_png
    from deltactl.locations import Location, storage_errors
    from deltactl.redaction import printable
    from deltactl.removal import Removal

    if picture is not None and not picture.lower().endswith(".png"):
        raise ConfigError(f"--picture is {picture}; end it in .png")
    if shards is not None and picture is None:
        raise ConfigError(f"--shards {shards} has no effect: it goes with --picture; leave it out, or add that")
    with open_store(store, view) as opened:
        asked = samples_of(opened, queries)
        if picture is not None and (place := Location.of(picture)).exists():
            consent(yes)([Removal.of(place, "to be drawn anew")])
        found = nearest_clips(opened, asked, count, other_videos=other_videos)
        if as_json:
            content = {
                key: [{"key": opened.key_of(hit.sample), "cosine": round(hit.cosine, 6)} for hit in hits]
                for key, hits in zip(queries, found, strict=True)
            }
            click.echo(json.dumps(content, indent=1, ensure_ascii=False))
        else:
            for sample, hits in zip(asked, found, strict=True):
                click.echo(printable(title_of(opened, sample)))
                for hit in hits:
                    click.echo(printable(f"  {hit.cosine:.3f}  {title_of(opened, hit.sample)}"))
        if picture is not None:
            drawn = sheet(opened, asked, found, Frames.of(opened, shards))
            with storage_errors(Path(picture), "write"):
                write_png(Path(picture), drawn)
            click.echo(f"picture: {picture}", err=True)
