"""The table of a plan, for people: what each stage takes, in units that they read, and how the rates are known.

Takes the costs of `recipes.costs`, returns a rich table and the notes under it. A stage's row has its time, the part
that sets the pace, what of the machine it takes (GPU-hours, or CPU-hours if networks run on the CPU), and what it reads
and writes. `as_text` writes it for a terminal, `as_markdown` for a page.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from deltactl.progress import counted, format_bytes, format_hours, format_number, format_seconds
from deltactl.recipes.costs import Cost, Machine
from deltactl.recipes.rates import DECODED_FRAMES_PER_CORE_SECOND, INGESTED_CLIPS_PER_CORE_SECOND, SHARD_BYTES_PER_PIXEL

WIDEST = 10_000
"""Characters; wider than any table."""


def cost_table(costs: Sequence[Cost], machine: Machine) -> Table:
    """Return the table: a row for each stage, then their sum."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("time", "pace set by", f"{machine.rates.device}-hours", "writes", "reads", "to keep up", "repeats")
    for name in ("step", "what", *columns, "a cache pays"):
        table.add_column(name, justify="left" if name in ("step", "what", "pace set by") else "right")
    for cost in costs:
        table.add_row(cost.name, cost.what, *_figures(cost, machine), end_section=cost is costs[-1])
    seconds = sum(cost.seconds(machine) for cost in costs)
    hours = sum(cost.device_seconds(machine) for cost in costs) / 3600
    written = format_bytes(sum(cost.written_bytes for cost in costs))
    on = counted(machine.gpus, f"{machine.rates.device}s")
    table.add_row("all", f"on {on}", format_seconds(seconds), "", format_hours(hours), written, "", "", "", "")
    return table


def _figures(cost: Cost, machine: Machine) -> tuple[str, ...]:
    busy = max(seconds for part, seconds in cost.parts(machine).items() if part != "reading")
    hours = cost.device_seconds(machine) / 3600
    repeats = (
        "" if cost.repeats is None else format_number(cost.repeats) + (", fresh crops" if cost.fresh_crops else "")
    )
    return (
        format_seconds(cost.seconds(machine)),
        cost.bottleneck(machine),
        format_hours(hours) if hours else "",
        format_bytes(cost.written_bytes) if cost.written_bytes else "",
        format_bytes(cost.read_bytes) if cost.read_bytes else "",
        f"{format_bytes(cost.read_bytes / busy)}/s" if cost.read_bytes else "",
        repeats,
        "" if cost.break_even_steps is None else f"from step {cost.break_even_steps:,.0f}",
    )


def notes(machine: Machine) -> list[str]:
    """Return what the columns mean and how each rate is known, a sentence each."""
    rates = machine.rates
    each = rates.device
    found = [
        "to keep up: what must be read for reading not to set the pace; repeats: how often training sees each sample "
        "(each clip, where crops are fresh); a cache pays: steps from which on it is less work than training live",
        f"rates: {format_number(rates.forward / 1e12)} TFLOP/s forward and {format_number(rates.training / 1e12)} "
        f"TFLOP/s in training on each {each}, {rates.basis}",
    ]
    if rates.launch:
        found.append(
            f"besides, best-of-many moves {format_number(rates.moved_bytes / 1e12)} TB/s between its products and "
            f"takes {format_number(1e6 * rates.launch)} µs for each small kernel: reckoned from the compiled step, not "
            "measured"
        )
    nodes = counted(machine.gpus_per_node, f"{each}s")
    return [
        *found,
        f"assumed: each node of {nodes} reads {format_number(machine.read_bytes_per_second / 1e9)} GB/s; "
        f"{counted(machine.cores_per_gpu, 'cores')} a {each}; a core decodes "
        f"{counted(DECODED_FRAMES_PER_CORE_SECOND, 'frames')} or ingests "
        f"{counted(INGESTED_CLIPS_PER_CORE_SECOND, 'clips')} a second; shards take {SHARD_BYTES_PER_PIXEL:g} bytes a "
        "pixel; ingest --dry-run and featurize --dry-run measure theirs",
    ]


def as_text(table: Table, width: int | None = None) -> str:
    """Return the table as text, with cells folded to `width` characters; as wide as it needs to be if it is None."""
    file = io.StringIO()
    console = Console(file=file, width=width or WIDEST, force_terminal=False, color_system=None)
    console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines() if line.strip())


def as_markdown(table: Table) -> str:
    """Return the table as Markdown."""
    rules = ["---" if column.justify == "left" else "---:" for column in table.columns]
    rows = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    lines = [[str(column.header) for column in table.columns], rules, *map(list, rows)]
    return "".join(f"| {' | '.join(cells)} |\n".replace("  ", " ") for cells in lines)
