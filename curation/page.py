"""The report as one HTML page that needs nothing else: how many, a histogram for each threshold, pictures of extremes.

Takes findings, returns the text of the page, from `curation.html.jinja` beside this file and the tables of
`evaluate/report`. Of each kind are shown the surest clips and those on both sides of the threshold, for it is there
that one sees whether it lies well.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from deltactl.curation.findings import SMALLEST_DISTANCE, Findings
from deltactl.curation.frames import Frames
from deltactl.curation.lists import TITLES
from deltactl.curation.read import Measured
from deltactl.evaluate.report.charts import POLICY, inline_svg
from deltactl.evaluate.report.page import page_environment
from deltactl.featurize.pictures.clip_frames import Picture
from deltactl.featurize.store.reader import ClipStore
from deltactl.progress import counted

SUREST, BESIDE = 3, 2
"""Clips that are shown of each kind: the surest, and those on either side of the threshold."""
INCHES = (6.4, 2.6)
BINS = 48
FOUND, OTHER = "#d55e00", "#0072b2"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Shown:
    """One clip, or two that are alike."""

    title: str
    note: str
    rows: tuple[tuple[str, list[Picture], list[str]], ...]
    """Label, frames and their times of each clip."""
    cut: int | None = None
    """The column before which the shot ends."""


@dataclass(frozen=True)
class Section:
    """What is said of one kind."""

    kind: str
    title: str
    found: int
    text: str
    chart: str
    """SVG, or nothing where there is nothing to draw."""
    groups: tuple[tuple[str, tuple[Shown, ...]], ...] = field(default_factory=tuple)


def curation_page(
    store: ClipStore, measured: Measured, findings: Findings, frames: Frames, facts: Mapping[str, Any], made_by: str
) -> str:
    """Return the page; `facts` are those of the summary."""
    return (
        page_environment(HERE)
        .get_template("curation.html.jinja")
        .render(
            policy=POLICY,
            name=store.root.name,
            store=str(store.root),
            kind=store.kind,
            facts=facts,
            made_by=made_by,
            frames=frames.there,
            sections=sections(store, measured, findings, frames),
        )
    )


def sections(store: ClipStore, measured: Measured, findings: Findings, frames: Frames) -> list[Section]:
    """Return what is said of each kind, with a chart and pictures."""
    best, step = findings.scores.max(1), findings.scores.argmax(1)
    show = _Show(store, measured, findings, frames, step)
    made = [
        Section(
            "cut",
            TITLES["cut"],
            int(findings.cuts.sum()),
            "The step of each clip that exceeds its other steps most, in robust standard deviations of the store; a "
            f"cut is one of {findings.cut:g} or more.",
            histogram("Cuts", best, findings.cut, "robust standard deviations", above=True),
            show.groups(best, findings.cuts, findings.cut, lambda clip: f"{best[clip]:.1f} deviations"),
        )
    ]
    if np.isfinite(measured.movement).all():
        usual = float(np.median(measured.movement))
        made.append(
            Section(
                "still",
                TITLES["still"],
                int(findings.stills.sum()),
                f"The largest step of each clip; a still is one of at most {findings.still:.3g}, which is "
                f"{findings.still / usual if usual else 0:.2g} of the median ({usual:.3g}).",
                histogram("Stills", measured.movement, findings.still, "movement", log=True),
                show.groups(
                    -measured.movement,
                    findings.stills,
                    -findings.still,
                    lambda clip: f"movement {measured.movement[clip]:.3g}",
                ),
            )
        )
    for kind, mask, earlier in (
        ("copy", findings.copies, findings.elsewhere),
        ("repeat", findings.repeats, findings.within),
    ):
        compared = np.isfinite(earlier.cosine) & (mask | ~findings.copies)
        if not compared.any():
            continue
        distance = 1 - earlier.cosine
        made.append(
            Section(
                kind,
                TITLES[kind],
                int(mask.sum()),
                f"The distance of each clip to the most similar earlier one; alike is {findings.alike:.3g} or less "
                f"({findings.alike_by}).",
                histogram(
                    {"copy": "Copies", "repeat": "Repeats"}[kind],
                    np.maximum(distance[compared], SMALLEST_DISTANCE),
                    findings.alike,
                    "distance",
                    log=True,
                ),
                show.groups(
                    np.where(compared, -distance, -np.inf),
                    mask,
                    -findings.alike,
                    lambda clip, distance=distance: f"distance {max(float(distance[clip]), 0):.3g}",
                    earlier.number,
                ),
            )
        )
    return made


class _Show:
    """Chooses clips of a kind, and finds their pictures."""

    def __init__(
        self, store: ClipStore, measured: Measured, findings: Findings, frames: Frames, step: np.ndarray
    ) -> None:
        self._store, self._measured, self._findings, self._frames, self._step = store, measured, findings, frames, step

    def groups(
        self,
        scores: Float[np.ndarray, " N"],
        mask: np.ndarray,
        threshold: float,
        note: Any,
        partner: np.ndarray | None = None,
    ) -> tuple[tuple[str, tuple[Shown, ...]], ...]:
        """Return the surest clips of a kind and those beside its threshold; higher scores are surer."""
        order = np.argsort(-scores, kind="stable")
        found = order[mask[order]]
        others = order[~mask[order] & np.isfinite(scores[order]) & (scores[order] < threshold)]
        surest = found[:SUREST]
        last = found[len(surest) :][-BESIDE:]
        chosen = (
            ("the surest", surest),
            ("found, nearest to the threshold", last),
            ("not found, nearest to the threshold", others[:BESIDE]),
        )
        return tuple(
            (heading, tuple(self._shown(int(clip), note(clip), partner) for clip in clips))
            for heading, clips in chosen
            if len(clips)
        )

    def _shown(self, clip: int, note: str, partner: np.ndarray | None) -> Shown:
        both = [clip] if partner is None else [clip, int(partner[clip])]
        rows = []
        for each in both:
            sample = int(self._measured.samples[each])
            times = [f"{time:.4g} s" for time in self._store.times([sample])[0].tolist()]
            rows.append((self._store.key_of(sample), self._frames.of_clip(sample), times))
        cut = int(self._step[clip]) + 1 if partner is None and self._findings.cuts[clip] else None
        return Shown(rows[0][0], note, tuple(rows), cut)


def histogram(
    title: str,
    values: Float[np.ndarray, " n"],
    threshold: float,
    name: str,
    *,
    log: bool = False,
    above: bool = False,
) -> str:
    """Return how values are spread, and on which side of the threshold they lie, as an `<svg>` element.

    `above`: those at or above the threshold count as found, else those at or below it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown = np.maximum(values, 1e-6) if log else np.clip(values, None, max(4 * threshold, float(np.median(values))))
    edge = max(threshold, 1e-6) if log else threshold
    low, high = min(float(shown.min()), edge), max(float(shown.max()), edge)
    if high <= low:
        high = low + 1
    bins = np.geomspace(low, high * 1.001, BINS + 1) if log else np.linspace(low, high, BINS + 1)
    found = shown >= threshold if above else shown <= threshold
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "deltactl", "font.size": 9}):
        figure = Figure(figsize=INCHES, layout="constrained")
        axes = figure.subplots()
        parts = [(shown[~found], OTHER, "other"), (shown[found], FOUND, "found")]
        axes.hist(
            [part for part, _, _ in parts],
            bins=bins.tolist(),
            stacked=True,
            color=[colour for _, colour, _ in parts],
            label=[f"{label} ({len(part):,})" for part, _, label in parts],
        )
        axes.axvline(edge, color="#000000", linestyle="--", linewidth=1, label=f"threshold {threshold:.3g}")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_xscale("log" if log else "linear")
        axes.set(title=title, xlabel=name, ylabel="clips")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return inline_svg(text.getvalue(), title)


def summary_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return what was found, for a terminal."""
    found: Mapping[str, int] = facts["found"]
    names = {"cut": "cuts", "still": "stills", "copy": "copies", "repeat": "repeats"}
    lines = [
        f"{counted(facts['clips'], 'clips')} of {counted(facts['videos'], 'videos')}: "
        + ", ".join(f"{count:,} {names[kind]}" for kind, count in found.items())
    ]
    lines += [f"{names[kind]}: {text}" for kind, text in facts["thresholds_in_words"].items()]
    left: Sequence[str] = facts["left_out"]["kinds"]
    lines.append(
        f"to leave out ({', '.join(names[kind] for kind in left)}): {counted(facts['left_out']['clips'], 'clips')}, "
        f"and with them all of {counted(facts['left_out']['videos'], 'videos')}"
    )
    return lines
