"""`deltactl eval`: the published table from a data set and checkpoints."""

from __future__ import annotations

import click

from deltactl.commands.from_config import configured
from deltactl.commands.options import Command, yes_option
from deltactl.configs.evaluate import EvaluateConfig


@click.command(
    cls=Command,
    example="deltactl eval --dataset vspw --tokenizer Amazon-FAR/deltatok-kinetics "
    "--world Amazon-FAR/deltaworld-kinetics\n"
    "deltactl eval --dataset kitti --root ~/kitti --split-file eigen_test.txt --head head.bin --no-cache",
)
@configured(
    EvaluateConfig,
    {
        "Data": ("dataset", "root", "split_file", "backbone", "layers", "norm", "size", "cache", "dtype"),
        "Checkpoints": ("tokenizer", "world", "dinoworld", "head", "rgb_head"),
        "Protocol": ("frames", "horizons", "context", "samples", "seeds", "encoding", "extras"),
        "Report": ("pictures", "per_class", "against"),
    },
    ("seed", "device", "precision", "batch_size", "workers", "out", "limit", "max_bad", "retry_failed"),
    required=("dataset",),
)
@yes_option
def command(config: EvaluateConfig, yes: bool) -> None:
    """Compute the published table from a data set and checkpoints.

    Makes shards and features of the set first, where the workspace does not have them, after saying what disk they
    take. Rows whose checkpoint is not given are left out. The tables go to the terminal, all numbers to metrics.json;
    report.html, a page that needs nothing else, has both with charts and pictures.
    """
    from rich.console import Console

    from deltactl.commands.consent import consent
    from deltactl.evaluate.report.table import class_tables, tables
    from deltactl.evaluate.run import run as run_evaluate

    report = run_evaluate(config, lambda line: click.echo(line, err=True), consent(yes))
    console = Console()
    for table in (*tables(report.metrics), *(class_tables(report.metrics) if config.per_class else ())):
        console.print(table)
    for line in report.lines():
        click.echo(line, err=True)
    click.echo(f"metrics: {report.folder / 'metrics.json'}")
    click.echo(f"report: {report.folder / 'report.html'}")
