"""Fill the table of docs/benchmarks.md with what `gpu.py` measured.

Run: python benchmarks/gpu_table.py LINES.jsonl [--page docs/benchmarks.md]

Each line that `gpu.py` printed is a result on some card; of each section its last run on a card counts. The table has a
column for each card. A cell stays empty where nothing was measured, and where a section failed the table
does not hide it: the failures stand below. Lines of `--smoke` are left out. The table lies between two markers, and the
rest of the page stays as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- gpu: begin (made by benchmarks/gpu_table.py) -->", "<!-- gpu: end -->"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
NO_CARD = "none"

Lines = Mapping[tuple[str, str], Mapping[str, Any]]
"""The results on one card, by section and what was measured."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    aim: str
    reckoned: str
    """From bytes, products and assumed rates; see the page."""
    cell: Callable[[Lines], str]
    """What was measured, in words; empty where it was not."""


def figure(section: str, what: str, name: str, unit: str = "") -> Callable[[Lines], str]:
    """Return the reader of one figure."""

    def read(lines: Lines) -> str:
        value = lines.get((section, what), {}).get(name)
        return "" if value is None else f"{shown(value)}{unit}"

    return read


def share(section: str, what: str, name: str) -> Callable[[Lines], str]:
    """Return the reader of a figure that is a share, in per cent."""

    def read(lines: Lines) -> str:
        value = lines.get((section, what), {}).get(name)
        return "" if value is None else f"{100 * value:.2f} %"

    return read


def of_matrix_rate(section: str, what: str) -> Callable[[Lines], str]:
    """Return the reader of a rate as a share of the card's own matrix rate."""

    def read(lines: Lines) -> str:
        rate = lines.get((section, what), {}).get("tflops")
        matrix = lines.get(("facts", "matrix"), {}).get("tflops")
        return f"{100 * rate / matrix:.0f} %" if rate and matrix else ""

    return read


def over_live(what: str) -> Callable[[Lines], str]:
    """Return the reader of how much faster a sample is from tokens; both sides compiled and in the same precision."""

    def read(lines: Lines) -> str:
        cached, live = lines.get(("world", what)), lines.get(("live", "live, batch 32"))
        if not cached or not live:
            return ""
        alike = all(cached.get(name) == live.get(name) for name in ("precision", "compiled", "commit"))
        return f"{live['ms_per_sample'] / cached['ms_per_sample']:.1f} ×" if alike else ""

    return read


def tests_cell(section: str) -> Callable[[Lines], str]:
    """Return the reader of how tests ended."""

    def read(lines: Lines) -> str:
        return " ".join(lines.get((section, "tests"), {}).get("ended", [])).strip("= ")

    return read


ROWS = (
    Row("bf16 product of 8192³", "", "788 TFLOP/s (assumed)", figure("facts", "matrix", "tflops", " TFLOP/s")),
    Row(
        "attention over 1,029 tokens, heads of 64",
        "",
        "450–550 TFLOP/s (assumed)",
        figure("facts", "attention", "tflops", " TFLOP/s"),
    ),
    Row("read and written by kernels", "", "4.0 TB/s (assumed)", figure("facts", "memory", "tb_per_second", " TB/s")),
    Row(
        "backbone, ViT-B at 512 px, batch 128, plain",
        "",
        "1,150–1,300 frames/s",
        figure("backbone", "plain", "frames_per_second", " frames/s"),
    ),
    Row(
        "backbone, compiled",
        "",
        "1,700–2,150 frames/s",
        figure("backbone", "compiled", "frames_per_second", " frames/s"),
    ),
    Row("its share of the matrix rate", "", "46–58 %", of_matrix_rate("backbone", "compiled")),
    Row(
        "featurize, shards to published groups, OpenCV",
        "2,000 frames/s",
        "1,700–2,150 frames/s",
        figure("featurize", "opencv", "frames_per_second", " frames/s"),
    ),
    Row(
        "featurize, JPEGs decoded by DALI",
        "2,000 frames/s",
        "1,700–2,150 frames/s",
        figure("featurize", "dali", "frames_per_second", " frames/s"),
    ),
    Row("featurize, share of the matrix rate", "55 %", "46–58 %", of_matrix_rate("featurize", "opencv")),
    Row(
        "tokens from features",
        "",
        "85–100 clips/s",
        figure("world", "tokens from features", "clips_per_second", " clips/s"),
    ),
    Row(
        "world model from tokens, a clip, batch 32",
        "",
        "0.70–0.85 ms",
        figure("world", "from tokens, batch 32", "ms_per_sample", " ms"),
    ),
    Row(
        "world model from tokens, a clip, batch 128",
        "",
        "0.62–0.69 ms",
        figure("world", "from tokens, batch 128", "ms_per_sample", " ms"),
    ),
    Row(
        "the same at 32, replayed as a CUDA graph",
        "",
        "0.60–0.75 ms",
        figure("world", "from tokens, batch 32, CUDA graphs", "ms_per_sample", " ms"),
    ),
    Row("world model live, a clip, batch 32", "", "12–13 ms", figure("live", "live, batch 32", "ms_per_sample", " ms")),
    Row("tokens over live, both at the published batch of 32", "15 ×", "14–19 ×", over_live("from tokens, batch 32")),
    Row("tokens at 128 over live at 32", "15 ×", "17–21 ×", over_live("from tokens, batch 128")),
    Row(
        "tokenizer from features, 512 px, a step of 64 pairs",
        "",
        "400–550 ms",
        figure("tokenizer", "from features, batch 64", "ms_per_step", " ms"),
    ),
    Row(
        "GPU memory of that step",
        "",
        "88–92 GB",
        figure("tokenizer", "from features, batch 64", "peak_gb", " GB"),
    ),
    Row(
        "waiting for data, tokens at 32",
        "< 2 %",
        "0 %",
        share("world", "from tokens, batch 32", "waiting"),
    ),
    Row("waiting for data, live", "see below", "", share("live", "live, batch 32", "waiting")),
    Row(
        "JPEGs on the card beside OpenCV: least cosine of features",
        "0.9999",
        "",
        figure("dali", "jpeg", "least_cosine"),
    ),
    Row("videos by PyAV, one process", "", "", figure("video", "pyav", "frames_per_second", " frames/s")),
    Row("videos on NVDEC, one process", "", "", figure("video", "dali", "frames_per_second", " frames/s")),
    Row("tests marked gpu", "all pass", "", tests_cell("tests")),
)


def shown(value: Any) -> str:
    """Return a number as the page writes numbers."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def read_lines(texts: Iterable[str]) -> list[dict[str, Any]]:
    """Return the results, without those of a CPU; ValueError for a line that is no result."""
    found = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            card, _ = line["card"], (line["section"], line["what"], line["date"], line["commit"], line["command"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} is no result of gpu.py ({error!r}): {text.strip()[:80]}") from error
        if card != NO_CARD:
            found.append(line)
    return found


def latest(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the results of the last run of each section on one card; a section that was skipped did not run."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    ended: set[str] = set()
    for line in lines:
        section = line["section"]
        if section in ended and line["what"] != "skipped":
            ended.remove(section)
            found = {key: each for key, each in found.items() if key[0] != section}
        if line["what"] == "took":
            ended.add(section)
        found[section, line["what"]] = line
    return found


def table(lines: list[dict[str, Any]]) -> str:
    """Return the table, and what is below it, from the results of all cards."""
    cards = list(dict.fromkeys(line["card"] for line in lines))
    by_card = {card: latest(line for line in lines if line["card"] == card) for card in cards}
    columns = [f"measured, {card}" for card in cards] or ["measured"]
    made = [f"| what | aim | reckoned | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    for row in ROWS:
        cells = [row.what, row.aim, row.reckoned, *([row.cell(by_card[card]) for card in cards] or [""])]
        made.append("| " + " | ".join(cells) + " |")
    made.append("")
    if not lines:
        made.append("Nothing was measured yet: the cells are empty.")
    for card in cards:
        ran = [each for each in by_card[card].values() if "skipped" not in each]
        runs = dict.fromkeys((each["date"], each["commit"], each["command"]) for each in ran)
        made += [f"{card}, {date}, commit {commit}: `python {command}`" for date, commit, command in runs]
        failures = [each for each in by_card[card].values() if "failed" in each]
        made += [f"- failed: {each['section']}, {each['what']}: {each['failed'].splitlines()[0]}" for each in failures]
        skipped = [each["section"] for each in by_card[card].values() if "skipped" in each]
        made += [f"- skipped for want of time: {', '.join(skipped)}"] if skipped else []
    return "\n".join(made)


def fill(page: str, lines: list[dict[str, Any]]) -> str:
    """Return the page with the table of these results between its markers; ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the table: put {BEGIN} and {END} where it belongs")
    return f"{before}{BEGIN}\n\n{table(lines)}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="what gpu.py --out wrote")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    results = read_lines(options.lines.read_text().splitlines())
    options.page.write_text(fill(options.page.read_text(), results))
    print(f"{options.page}: {len(results)} results")


if __name__ == "__main__":
    main()
