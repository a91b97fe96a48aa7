"""Compares reports of one data set: their rows beside each other, and by how much each is above the first.

Takes folders of reports, returns tables and figures. Reports of the same clips are paired: their sums by video
(`videos.npz`) are drawn alike, so that an interval of a difference is of that difference. Reports of different data
sets do not compare; reports of other clips are shown beside each other, and no difference is told.

Cost: that of the intervals of a row (`protocol.intervals`) for each row of each report; nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from deltactl.artifacts import read_header
from deltactl.configs.evaluate import CLIP_FRAMES
from deltactl.datasets.known import labelled_set
from deltactl.errors import ArtifactError, ConfigError, DamagedError
from deltactl.evaluate.protocol.figures import Figures, measures_of
from deltactl.evaluate.protocol.intervals import Resampling
from deltactl.evaluate.protocol.predictions import Row
from deltactl.evaluate.protocol.videos import VideoSums
from deltactl.evaluate.report.describe import METRICS_FILE, VIDEOS_FILE, read_metrics
from deltactl.evaluate.report.json_file import METHODS
from deltactl.evaluate.report.table import single_measures
from deltactl.locations import Location
from deltactl.reading import Limit

SETTINGS = ("size", "frames", "context", "samples", "seeds", "encoding")
"""What evaluations of one data set may differ in; it is told, since numbers may differ for that reason."""
KEYS = ("method", "horizon", "step", "select", "value", "loss")
"""Of a row; what other versions add may be absent."""
SUMS = Limit(2_000_000_000, "what each video adds to the rows of a report")

RowName = tuple[int, str, str]
"""Horizon, method and choice of sample of a row about the last frame of its horizon."""


@dataclass(frozen=True)
class Report:
    """One report, read."""

    name: str
    """What it is called beside the others."""
    metrics: Mapping[str, Any]
    """The content of `metrics.json`."""
    sums: VideoSums | None
    """None of a report that an earlier version made."""
    backbone: str | None = None
    """Hash of the backbone whose features it is about, where the report says it."""

    @property
    def rows(self) -> dict[RowName, Mapping[str, Any]]:
        """The rows about the last frame of each horizon."""
        return {
            (row["horizon"], row["method"], row["select"] or ""): row
            for row in self.metrics["rows"]
            if row["step"] == row["horizon"]
        }


@dataclass(frozen=True)
class Comparison:
    """Several reports of one data set."""

    reports: tuple[Report, ...]
    names: tuple[RowName, ...]
    """The rows that any of them has, in the order of the tables."""
    measures: tuple[Mapping[str, Any], ...]
    """What all of them measure."""
    differences: Mapping[tuple[str, RowName], Mapping[str, Any]]
    """By the name of a report after the first and that of a row: figures, as in `metrics.json`, of that report less the
    first. Empty where the reports are of other clips."""
    notes: tuple[str, ...]
    """Why there are no differences, and which settings are not the same, in sentences."""

    def to_json(self) -> dict[str, Any]:
        """Return the differences and the rows for programs."""
        return {
            "dataset": self.reports[0].metrics["dataset"],
            "measures": list(self.measures),
            "notes": list(self.notes),
            "reports": [
                {
                    "name": report.name,
                    **{key: report.metrics.get(key) for key in ("clips", "videos", *SETTINGS, "networks")},
                    "rows": [_named(name) | {"figures": figures_of(row)} for name, row in report.rows.items()],
                }
                for report in self.reports
            ],
            "differences": [
                {"report": report, "minus": self.reports[0].name, **_named(name), "figures": dict(figures)}
                for (report, name), figures in self.differences.items()
            ],
        }


def _named(name: RowName) -> dict[str, Any]:
    horizon, method, select = name
    return {"horizon": horizon, "method": method, "select": select or None}


def figures_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the figures of a row; of an earlier version's its value and loss, without intervals."""
    plain = {row.get("metric"): row["value"], "loss": row["loss"]}
    found: Mapping[str, Any] = row.get("figures") or {
        name: {"value": value, "low": None, "high": None} for name, value in plain.items() if name and value is not None
    }
    return found


def compare(places: Sequence[str]) -> Comparison:
    """Return the comparison of reports, the first of which is what the others are compared with.

    Raises:
        ArtifactError: one is not a report.
        ConfigError: they are fewer than two, one is named twice, or they are of different data sets.
        DamagedError: a file of one is damaged.
    """
    if len(places) < 2:
        raise ConfigError(f"{len(places)} report is named; expected two at least: deltactl compare REPORT REPORT")
    locations = [Location.of(place) for place in places]
    for number, location in enumerate(locations):
        if str(location) in map(str, locations[:number]):
            raise ConfigError(f"{location} is named twice; expected different reports")
    reports = tuple(map(_read, locations, _names(locations)))
    first = reports[0]
    for place, report in zip(places, reports, strict=True):
        if report.metrics["dataset"] != first.metrics["dataset"]:
            raise ConfigError(
                f"{places[0]} is of {first.metrics['dataset']}, {place} of {report.metrics['dataset']}: numbers of "
                "different data sets do not compare; expected reports of one"
            )
    measures = _common_measures(reports)
    notes = []
    if len({report.backbone for report in reports}) > 1:
        # Their features are not of one space, so distances in them are not of one measure.
        measures = tuple(each for each in measures if each["name"] not in ("cosine", "loss"))
        notes.append("the backbones differ: distances of features do not compare, and are left out")
        if not measures:
            raise ConfigError(
                "the reports are of different backbones, and one has no values of the metric: nothing of them "
                "compares; give each evaluation a head (--head)"
            )
    unpaired = [note for report in reports[1:] if (note := _why_unpaired(first, report))]
    differing = [
        f"{setting} differs: {', '.join(f'{_shown(report, setting)} ({report.name})' for report in reports)}"
        for setting in SETTINGS
        if len({_shown(report, setting) for report in reports}) > 1
    ]
    every = {name for report in reports for name in report.rows}
    return Comparison(
        reports=reports,
        names=tuple(sorted(every, key=lambda name: (name[0], METHODS.index(name[1]), name[2]))),
        measures=measures,
        differences={} if unpaired else _differences(reports, {each["name"] for each in measures}),
        notes=(*notes, *unpaired, *differing),
    )


def _shown(report: Report, setting: str) -> str:
    # What earlier versions did not tell, since it could not be chosen.
    value = report.metrics.get(setting, {"frames": CLIP_FRAMES, "seeds": [report.metrics.get("seed")]}.get(setting))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _names(locations: Sequence[Location]) -> list[str]:
    """Return what reports are called: the least of the ends of their paths that tells them apart."""
    parts = [PurePosixPath(str(location)).parts for location in locations]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(location) for location in locations]


def _read(root: Location, name: str) -> Report:
    if not (root / METRICS_FILE).exists():
        raise ArtifactError(f"{root} is not a report: it has no {METRICS_FILE}; expected a folder that eval wrote")
    metrics = read_metrics(root)
    for row in metrics["rows"]:
        if not isinstance(row, dict) or any(key not in row for key in KEYS) or row["method"] not in METHODS:
            raise DamagedError(f"{root / METRICS_FILE} is not what deltactl eval writes: a row is {str(row)[:100]}")
    place = root / VIDEOS_FILE
    sums = VideoSums.from_bytes(place.read_bytes(SUMS), str(place)) if place.exists() else None
    weights = read_header(root).identity.values.get("weights")
    return Report(name, metrics, sums, str(weights.get("backbone")) if isinstance(weights, Mapping) else None)


def _why_unpaired(first: Report, other: Report) -> str | None:
    """Return why the difference of two reports cannot be told; None where it can."""
    for report in (first, other):
        if report.sums is None:
            return (
                f"{report.name} has no {VIDEOS_FILE}, as an earlier version made it: evaluate it anew for differences"
            )
    clips, others = first.metrics["clips"], other.metrics["clips"]
    if first.metrics.get("clips_sha256") != other.metrics.get("clips_sha256"):
        return f"{other.name} is of other clips ({others}) than {first.name} ({clips}): no difference of both is told"
    assert first.sums is not None
    assert other.sums is not None
    if sorted(first.sums.videos) != sorted(other.sums.videos):
        return f"{other.name} has its clips from other videos than {first.name}: no difference of both is told"
    return None


def _common_measures(reports: Sequence[Report]) -> tuple[Mapping[str, Any], ...]:
    """Return the measures that all reports have; the metric or the loss alone where one does not tell."""
    told = [single_measures(report.metrics) for report in reports if report.metrics.get("measures")]
    if not told:
        named = {row.get("metric") for report in reports for row in report.metrics["rows"]} - {None}
        name = min(named) if named else "loss"
        return ({"name": name, "title": name, "better": "lower", "classes": None},)
    shared = set.intersection(*({each["name"] for each in measures} for measures in told))
    return tuple(each for each in told[0] if each["name"] in shared)


def _differences(reports: Sequence[Report], names: Collection[str]) -> dict[tuple[str, RowName], Mapping[str, Any]]:
    """Return the figures of every report after the first, less those of the first, row by row."""
    record = labelled_set(reports[0].metrics["dataset"])
    counts = {len(report.metrics.get("seeds", [None])) for report in reports}
    seeds = counts.pop() if len(counts) == 1 else 1  # else the first seed of each
    known = [report.sums for report in reports if report.sums is not None]
    resampling = Resampling(len(known[0].videos), seeds)
    figures = []
    for sums in known:
        in_order = sums.of_videos(known[0].videos)
        figures.append(Figures(in_order, measures_of(record, (), labelled=sums.summed), seeds, resampling))
    found: dict[tuple[str, RowName], Mapping[str, Any]] = {}
    for report, own in zip(reports[1:], figures[1:], strict=True):
        for name in report.rows:
            if name in reports[0].rows:
                horizon, method, select = name
                row = Row("rows", method, horizon, horizon, select)  # type: ignore[arg-type]
                found[report.name, name] = {
                    key: figure.to_json()
                    for key, figure in own.difference(row, row, figures[0]).items()
                    if key in names
                }
    return found
