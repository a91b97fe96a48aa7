"""`deltactl demo`: the whole pipeline on videos it makes itself."""

from __future__ import annotations

import click

from deltactl.commands.options import Command, Session, yes_option


@click.command(cls=Command, example="deltactl demo\ndeltactl demo --out /tmp/demo --seed 1")
@click.option(
    "--out", metavar="DIR", default="deltactl-demo", show_default=True, help="Folder for everything it makes."
)
@click.option(
    "--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the world."
)
@click.option(
    "--steps",
    metavar="N",
    type=click.IntRange(min=1),
    help="Steps of the trainings of tokenizer, world model and decoder, to see them run.",
)
@yes_option
@click.pass_obj
def command(session: Session, out: str, seed: int, steps: int | None, yes: bool) -> None:
    """Run the whole pipeline on videos it makes itself.

    A small world whose future is uncertain is filmed; then the real commands run on it, each printed before it runs,
    from videos to futures. No network, no GPU, no account; a few minutes on two cores. Run it again and it goes on
    where it was stopped.
    """
    from pathlib import Path

    from deltactl.demo.page import write_page
    from deltactl.demo.run import run_demo
    from deltactl.demo.table import result_lines

    assert session.program is not None, "the program hands itself to its commands"
    settings = () if steps is None else (f"steps={steps}",)
    result = run_demo(Path(out), session.program, seed=seed, settings=settings, yes=yes)
    write_page(result)
    click.echo("\n" + "\n".join(result_lines(result)))
