"""Intervals over videos: equal to a direct computation, right as often as they promise, paired where rows are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import quiet, tiny
from jaxtyping import Float64
from told_sets import folders, of

from deltactl.datasets.known import labelled_set
from deltactl.errors import ConfigError, DamagedError
from deltactl.evaluate.protocol.figures import Figures, Measure, measures_of
from deltactl.evaluate.protocol.intervals import REPEATS, Resampling, student_t, tail
from deltactl.evaluate.protocol.predictions import Row
from deltactl.evaluate.protocol.videos import CLIPS, METRIC, VideoSums
from deltactl.evaluate.run import run as run_evaluate
from deltactl.tasks.segmentation import ClassOverlaps, mean_iou

pytestmark = pytest.mark.usefixtures("one_thread", "shared_cache")

BEST, COPY = Row("rows", "deltaworld", 1, 1, "best"), Row("rows", "copy_last", 1, 1)
CLASSES = 6


def sums_of(folder: Path) -> VideoSums:
    return VideoSums.from_bytes((folder / "videos.npz").read_bytes(), "videos.npz")


def rows_of(metrics: dict[str, Any]) -> dict[tuple[str, str | None, int, int], dict[str, Any]]:
    return {(row["method"], row["select"], row["horizon"], row["step"]): row for row in metrics["rows"]}


# --- against a direct computation ------------------------------------------------------------------------------------


def made_up(videos: int, seed: int = 0) -> VideoSums:
    """Sums of two rows over videos that hold some of the classes; the second row is wrong a little more often."""
    return VideoSums(
        tuple(f"video {number}" for number in range(videos)),
        (BEST, COPY),
        np.stack(drawn_videos(np.random.default_rng(seed), videos)),
    )


def drawn_videos(generator: np.random.Generator, videos: int) -> list[Float64[np.ndarray, "V M"]]:
    """Return the sums of some videos drawn from a world of them, for both rows."""
    there = generator.random((videos, CLASSES)) < np.linspace(1.0, 0.5, CLASSES)
    pixels = there * generator.integers(100, 2000, (videos, CLASSES))
    hard = generator.normal(0, 0.6, (videos, 1))  # for both rows alike
    rows = []
    for better in (0.4, 0.0):
        right = 1 / (1 + np.exp(-(better - hard + generator.normal(0.5, 0.5, (videos, CLASSES)))))
        intersection = np.floor(pixels * right)
        clips = np.ones((videos, 1))
        losses = (1 - right).mean(axis=1, keepdims=True)
        rows.append(np.concatenate([losses, losses / 2, clips, intersection, 2 * pixels - intersection], axis=1))
    return rows


MEASURES = (Measure("miou", "mIoU, %", "higher", lambda sums: mean_iou(sums[..., METRIC:])),)


def test_an_interval_is_what_drawing_videos_one_by_one_gives() -> None:
    sums = made_up(12)
    figures = Figures(sums, MEASURES)
    overlaps = {
        row: [ClassOverlaps(*each[METRIC:].astype(np.int64).reshape(2, CLASSES)) for each in sums.of(row)]
        for row in (BEST, COPY)
    }
    generator, drawn = np.random.default_rng(0), []
    for chosen in generator.multinomial(12, np.full(12, 1 / 12), REPEATS):
        values = {}
        for row, videos in overlaps.items():
            total = ClassOverlaps.empty(CLASSES)
            for video, times in zip(videos, chosen.tolist(), strict=True):
                for _ in range(times):
                    total += video
            values[row] = total.value() or 0.0
        drawn.append((values[BEST], values[BEST] - values[COPY]))
    share = tail(12)
    for number, figure in enumerate((figures.of(BEST)["miou"], figures.difference(BEST, COPY)["miou"])):
        low, high = np.quantile([each[number] for each in drawn], [share, 1 - share])
        assert figure.interval is not None
        assert (figure.interval.low, figure.interval.high) == pytest.approx((low, high), rel=1e-12)
    whole = sum(overlaps[BEST][1:], overlaps[BEST][0])
    assert figures.of(BEST)["miou"].value == pytest.approx(whole.value(), rel=1e-12)


def test_a_difference_is_paired() -> None:
    figures = Figures(made_up(40), MEASURES)

    def width(figure: Any) -> float:
        return float(figure.interval.high - figure.interval.low)

    alone = [width(figures.of(row)["miou"]) for row in (BEST, COPY)]
    assert width(figures.difference(BEST, COPY)["miou"]) < 0.8 * math.hypot(*alone)
    same = figures.difference(BEST, BEST)["miou"]
    assert (same.value, same.interval and same.interval.low, same.interval and same.interval.high) == (0, 0, 0)


def test_students_t_and_the_share_beyond_the_interval() -> None:
    for freedom, expected in ((4, 2.776), (9, 2.262), (27, 2.052), (342, 1.967)):
        assert student_t(freedom) == pytest.approx(expected, abs=1e-3)
    assert tail(10**9) == pytest.approx(0.025, rel=1e-6)
    assert tail(28) < tail(343) < 0.025


# --- how often they are right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("videos", "seed"), [(28, 1), (100, 2), (343, 3)])
def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent_of_400_sets(videos: int, seed: int) -> None:
    """Sets of videos are drawn from one world; the truth is what all its videos come to."""
    world = np.stack(drawn_videos(np.random.default_rng(99), 100_000)).sum(axis=1)
    best, copied = (float(mean_iou(row[METRIC:])[0]) for row in world)
    generator, resampling = np.random.default_rng(seed), Resampling(videos)
    held = np.zeros(2)
    for _ in range(400):
        sums = VideoSums(tuple(map(str, range(videos))), (BEST, COPY), np.stack(drawn_videos(generator, videos)))
        figures = Figures(sums, MEASURES, resampling=resampling)
        for number, (figure, truth) in enumerate(
            [(figures.of(BEST)["miou"], best), (figures.difference(BEST, COPY)["miou"], best - copied)]
        ):
            assert figure.interval is not None
            held[number] += figure.interval.low <= truth <= figure.interval.high
    assert all(0.93 <= share <= 0.97 for share in held / 400), held / 400


def test_intervals_over_seeds_and_videos_hold_the_truth_as_often() -> None:
    """A number that moves by the video and by the seed; the truth is 0."""
    videos, seeds, held = 30, 4, 0
    rows = tuple(Row("rows", "deltaworld", 1, 1, "best", draw=draw) for draw in range(seeds))
    measure = Measure("x", "x", "higher", lambda sums: sums[..., METRIC:] / sums[..., CLIPS : CLIPS + 1])
    generator, resampling = np.random.default_rng(4), Resampling(videos, seeds)
    for _ in range(400):
        values = generator.normal(0, 1, (1, videos)) + generator.normal(0, 0.2, (seeds, 1))
        sums = np.zeros((seeds, videos, METRIC + 1))
        sums[..., CLIPS], sums[..., METRIC] = 1, values + generator.normal(0, 0.3, (seeds, videos))
        figure = Figures(VideoSums(tuple(map(str, range(videos))), rows, sums), (measure,), seeds, resampling).of(
            rows[0]
        )
        over = figure["x"].seeds
        assert over is not None
        assert over.interval is not None
        assert over.mean == pytest.approx(sums[..., METRIC].mean())
        held += over.interval.low <= 0 <= over.interval.high
    assert 0.93 <= held / 400 <= 0.97


# --- of evaluations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
def test_the_sums_of_a_video_are_those_of_an_evaluation_of_it_alone(tmp_path: Path, cache: bool) -> None:
    whole = run_evaluate(tiny("vspw", extras=False, dinoworld=None, cache=cache, out=str(tmp_path / "all")), quiet)
    sums = sums_of(whole.folder.path)
    assert sums.videos == ("100_clip", "101_clip", "102_clip")
    for number, video in enumerate(sums.videos):
        (tmp_path / video).write_text(f"{video}\n")
        settings = {"split_file": str(tmp_path / video), "cache": False, "out": str(tmp_path / f"{video}-report")}
        alone = run_evaluate(tiny("vspw", extras=False, dinoworld=None, **settings), quiet).metrics
        assert sums.clips[number] == alone["clips"]
        for (method, select, horizon, step), row in rows_of(alone).items():
            of_video = sums.of(Row("rows", method, horizon, step, select or ""))[number]  # type: ignore[arg-type]
            assert row["value"] == pytest.approx(float(mean_iou(of_video[METRIC:])[0]), abs=0.3)
            assert row["loss"] == pytest.approx(of_video[0] / of_video[CLIPS], rel=1e-3)


@pytest.mark.parametrize("dataset", ["vspw", "cityscapes", "kitti"])
def test_every_row_has_its_figures_and_the_old_fields_stand_as_they_were(dataset: str) -> None:
    report = run_evaluate(tiny(dataset), quiet)
    metrics, sums = report.metrics, sums_of(report.folder.path)
    names = {
        "vspw": {"miou", "cosine", "loss"},
        "cityscapes": {"miou", "miou_movable", "cosine", "loss"},
        "kitti": {"rmse", "abs_rel", "delta1", "cosine", "loss"},
    }[dataset]
    assert {each["name"] for each in metrics["measures"] if not each["classes"]} == names
    measures = {each.name: each for each in measures_of(labelled_set(dataset), (), labelled=True)}
    for table in ("rows", "best_of_k", "drift"):
        for row in metrics[table]:
            assert row["figures"].keys() == (names if row["value"] is not None else {"cosine", "loss"})
            assert row["figures"]["loss"]["value"] == row["loss"]
            if row["value"] is not None:
                assert row["figures"][row["metric"]]["value"] == row["value"]
    for (method, select, horizon, step), row in rows_of(metrics).items():
        total = sums.of(Row("rows", method, horizon, step, select or "")).sum(axis=0)  # type: ignore[arg-type]
        for name, figure in row["figures"].items():
            assert figure["value"] == pytest.approx(float(measures[name].of(total)[0]), rel=1e-12)
            assert figure["low"] <= figure["high"]
    present = rows_of(metrics)["present", None, 1, 1]["figures"]
    assert present["cosine"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert metrics["videos"] == len(sums.videos)
    assert (
        len({(each["horizon"], each["method"], each["select"], each["minus"]) for each in metrics["differences"]}) == 10
    )


def test_classes_have_values_of_their_own(tmp_path: Path) -> None:
    metrics = run_evaluate(tiny("cityscapes", extras=False), quiet).metrics
    (measure,) = (each for each in metrics["measures"] if each["classes"])
    assert measure["classes"][11:] == [*("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")]
    rows = rows_of(metrics)
    for each in metrics["per_class"]:
        row = rows[each["method"], each["select"], each["horizon"], each["horizon"]]
        there = [value for value in each["values"] if value is not None]
        assert sum(there) / len(there) == pytest.approx(row["value"], rel=1e-12)
        movable = [value for value in each["values"][11:] if value is not None]
        assert sum(movable) / len(movable) == pytest.approx(row["figures"]["miou_movable"]["value"], rel=1e-12)
        assert len(each["low"]) == len(each["high"]) == 19


def test_several_seeds_are_each_what_an_evaluation_with_it_gives() -> None:
    several = run_evaluate(tiny("cityscapes", seeds="3:5", dinoworld=None), quiet).metrics
    assert (several["seed"], several["seeds"]) == (3, [3, 4])
    alone = [run_evaluate(tiny("cityscapes", seed=seed, dinoworld=None), quiet).metrics for seed in (3, 4)]
    for table in ("rows", "best_of_k", "diversity", "drift"):
        for row, first in zip(several[table], alone[0][table], strict=True):
            old = {name: value for name, value in row.items() if name != "figures"}
            assert old == {name: value for name, value in first.items() if name != "figures"}
    for key, row in rows_of(several).items():
        for name, figure in row["figures"].items():
            if row["method"] in ("deltaworld", "noise_null"):
                each = [rows_of(metrics)[key]["figures"][name]["value"] for metrics in alone]
                assert figure["seeds"]["values"] == pytest.approx(each, rel=1e-12)
                assert figure["seeds"]["mean"] == pytest.approx(sum(each) / 2, rel=1e-12)
                assert figure["seeds"]["low"] <= figure["seeds"]["high"]
            else:
                assert "seeds" not in figure


def test_longer_clips_have_further_horizons_and_other_contexts() -> None:
    config = tiny("vspw", frames=12, horizons=(1, 3, 8), context=3, dinoworld=None)
    metrics = run_evaluate(config, quiet).metrics
    rows = rows_of(metrics)
    assert ("deltaworld", "best", 8, 8) in rows
    assert ("copy_last", None, 8, 8) in rows
    drift = {(row["method"], row["step"]) for row in metrics["drift"]}
    assert max(step for method, step in drift if method == "deltaworld") == 9
    assert max(step for method, step in drift if method == "deltatok") == 11
    assert metrics["frames"] == 12
    assert "12 frames in a clip (published: 7)" in metrics["departures"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"horizons": (1, 3, 10)},
            "horizon 10 is beyond the 7 frames of a clip; give clips more of them, such as --frames 14",
        ),
        ({"context": 7}, "context is 7, which leaves none of the 7 frames"),
        ({"frames": 60, "cache": False}, "has no clips of 60 frames of vspw val"),
        ({"seeds": "5"}, "expected 2 to 100 seeds"),
        ({"seeds": "5:5"}, "expected 2 to 100 seeds"),
        ({"seeds": "1,1"}, "expected 2 to 100 seeds"),
        ({"seeds": "0:2", "seed": 7}, "seed is 7, but seeds are 0:2; give one of them"),
        ({"per_class": True}, "--per-class has no effect: it prints a table of classes, and kitti has none"),
        ({"seeds": "0:2", "world": None}, "--seeds 0:2 has no effect"),
    ],
)
def test_what_cannot_be_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message.replace("(", r"\(")):
        run_evaluate(tiny("kitti" if "per_class" in settings else "vspw", **settings), quiet)


def test_a_file_names_movable_classes_and_shards_do_not_depend_on_them(tmp_path: Path) -> None:
    plain, told = (of(folders(tmp_path / name, **more)) for name, more in (("a", {}), ("b", {"movable": ["block"]})))
    assert (plain.movable, told.movable) == ((), (1,))
    assert plain.told_hash == told.told_hash
    assert "miou_movable" not in {each.name for each in measures_of(plain, plain.class_names(None), labelled=True)}
    measures = {each.name: each for each in measures_of(told, told.class_names(None), labelled=True)}
    assert measures["iou"].classes == ("ground", "block")
    sums = np.array([0.5, 0.25, 1, 90, 30, 100, 60])
    assert float(measures["miou"].of(sums)[0]) == pytest.approx(70)
    assert float(measures["miou_movable"].of(sums)[0]) == pytest.approx(50)
    with pytest.raises(ConfigError, match="movable has 'blok', which is none of the classes"):
        of(folders(tmp_path / "c", movable=["blok"]))


def test_sums_are_read_back_and_damage_is_said() -> None:
    sums = made_up(5)
    data = sums.to_bytes()
    assert data == sums.to_bytes()
    read = VideoSums.from_bytes(data, "videos.npz")
    assert (read.videos, read.rows) == (sums.videos, sums.rows)
    assert np.array_equal(read.sums, sums.sums)
    damage: list[Callable[[bytes], bytes]] = [lambda data: data[:-30], lambda _: b"", lambda _: b"PK\3\4" + bytes(80)]
    for damaged in damage:
        with pytest.raises(DamagedError, match=r"videos\.npz"):
            VideoSums.from_bytes(damaged(data), "videos.npz")


def test_one_video_has_no_interval_and_neither_has_a_class_of_one_video() -> None:
    alone = Figures(made_up(1), MEASURES).of(BEST)["miou"]
    assert alone.interval is None
    sums = made_up(20)
    sums.sums[:, 1:, METRIC] = 0  # class 0 is in the first video only
    sums.sums[:, 1:, METRIC + CLASSES] = 0
    measure = next(each for each in measures_of(labelled_set("vspw"), (), labelled=True) if each.classes)
    ((_, values, intervals),) = Figures(sums, (measure,)).of_classes(BEST)
    assert values[0] is not None
    assert intervals[0] is None
    assert all(each is not None for each in intervals[1:])
