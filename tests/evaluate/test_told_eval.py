"""Data sets that are told in a file, from the command line: ingest, head, evaluation, what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from programs import caller
from told_sets import depths, folders, mask, of, tell, video_files, write

from deltactl.configs.dataset import example, read_dataset
from deltactl.ingest.shards.format import ShardSet
from deltactl.tasks.colours import ClassColours
from deltactl.train.checkpoints.headers import header_of
from deltactl.train.checkpoints.loading import load, read
from deltactl.train.networks.heads import LinearHeadConfig
from deltactl.train.networks.known_kinds import head_of, heads_for

GOLDEN, TREES, PAGES = (Path(__file__).parents[2] / place for place in ("tests/golden", "tests/trees", "docs"))
BACKBONE = GOLDEN / "backbone"
NETWORKS = {"tokenizer": "deltatok.bin", "world": "deltaworld.bin"}
SMALL = ["--backbone", str(BACKBONE), "--size", "64", "--device", "cpu"]
Call = Callable[..., str]


@pytest.fixture
def done(capsys: pytest.CaptureFixture[str]) -> Call:
    """What runs the program, which must succeed, and returns what it printed."""

    def call(*words: object) -> str:
        code, out, error = caller(capsys)(*map(str, words))
        assert code == 0, error
        return out + error

    return call


def rows(report: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((report / "metrics.json").read_text())["rows"]
    return found


def test_a_head_is_trained_and_evaluated_on_folders_of_pictures(done: Call, tmp_path: Path) -> None:
    place = folders(tmp_path / "set")
    shards, features, run, report = (tmp_path / name for name in ("shards", "features", "run", "report"))
    done("ingest", "--dataset", place, "--split", "train", "--size", "64", "--out", shards)
    assert ShardSet.open(str(shards)).identity.values["told_sha256"] == of(place).told_hash
    done("featurize", shards, *SMALL, "--out", features)
    sets = ["wandb=disabled", "warmup_steps=5", "log_every=5", "effective_batch=4", "validation_fraction=0.3"]
    done(
        *("train", "head", "--dataset", place, "--shards", shards, "--store", features, "--out", run),
        *("--steps", "60", "--batch-size", "4", "--lr", "0.01", *(word for each in sets for word in ("--set", each))),
    )
    head: Any = load(run, *heads_for(str(place)))
    assert head.config.outputs == 2
    done("eval", "--dataset", place, *SMALL, "--head", run, "--out", report, "--pictures", "1")
    values = {row["method"]: row["value"] for row in rows(report) if row["metric"] == "miou" and row["horizon"] == 1}
    assert values["present"] > 60  # guessing the larger class everywhere gives under 42
    page = (report / "report.html").read_text()
    assert "blocks-told classes" in page
    assert str(tmp_path / "set") not in json.dumps(json.loads((report / "artifact.json").read_text())["identity"])

    # What was made tells as much of the set as is needed, once its file is gone.
    place.unlink()
    assert read(run).kind == head_of("blocks-told.segmentation.2")
    assert "segmentation head for blocks-told" in done("info", run)
    assert "blocks-told" in done("info", report)
    assert "blocks-told" in done("info", shards)


def test_a_changed_file_takes_no_shards_of_what_it_said_before(
    done: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = folders(tmp_path / "set")
    done("ingest", "--dataset", place, "--split", "train", "--size", "64")
    folders(tmp_path / "set", other_ids="ignore")
    code, _, error = caller(capsys)("ingest", "--dataset", str(place), "--split", "train", "--size", "64")
    assert code == 1
    assert "told_sha256" in error
    code, _, error = caller(capsys)("train", "head", "--dataset", str(place), "--set", "wandb=disabled")
    assert code == 1
    assert f"{place} was changed since" in error


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("make", "clips"), [(video_files, 4), (depths, 2)])
def test_videos_and_depth_are_evaluated(
    done: Call, tmp_path: Path, make: Callable[[Path], Path], clips: int, workers: int
) -> None:
    place, report = make(tmp_path / "set"), tmp_path / "report"
    more = ["--no-cache"] if workers == 0 else ["--workers", workers]
    done("eval", "--dataset", place, *SMALL, "--out", report, "--pictures", "1", *more)
    content = json.loads((report / "metrics.json").read_text())
    assert (content["clips"], content["quarantined"]) == (clips, 0)
    assert all(row["loss"] is not None for row in content["rows"])


def test_a_set_without_labels_is_evaluated_by_its_features(
    done: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folders(tmp_path / "set")
    place = tell(
        tmp_path / "set",
        frames="frames/{video}/{frame}.png",
        splits={"train": {"videos": ["a_*"]}, "val": {"videos": ["b_*"]}},
        task="none",
        clip_every=8,
    )
    report = tmp_path / "report"
    assert "--head" not in done("eval", "--dataset", place, *SMALL, "--out", report, "--pictures", "1")
    assert {(row["method"], row["metric"]) for row in rows(report)} == {("present", None), ("copy_last", None)}
    assert next(row["loss"] for row in rows(report) if row["method"] == "copy_last") > 0
    head = str(BACKBONE.parent / "head_vspw.bin")
    code, _, error = caller(capsys)("eval", "--dataset", str(place), *SMALL, "--head", head)
    assert code == 1
    assert "error: blocks-told has no labels (its task is none), so there is no head for it\n" in error
    assert "labels" not in json.loads(done("info", place, "--json"))["val"]
    done("info", place, "--picture", tmp_path / "samples.png")
    assert cv2.imread(str(tmp_path / "samples.png")) is not None


def test_info_says_what_is_there_and_draws_two_samples(done: Call, tmp_path: Path) -> None:
    place = folders(tmp_path / "set")
    (tmp_path / "set" / "masks" / "b_1").rename(tmp_path / "set" / "masks" / "c_1")
    said = json.loads(done("info", place, "--json"))
    assert said["train"] == {"videos": 2, "frames": 32, "labels": 6, "clips": 4, "labels in clips": 6}
    val = said["val"]
    assert (val["videos"], val["clips"], val["labels"], val["labels in clips"], val["unusable videos"]) == (
        3,
        4,
        9,
        6,
        2,
    )
    assert "c_1: there are 3 labels of it, but no frames by the pattern" in val["reasons"]
    assert said["classes"] == {"0": "ground", "1": "block"}
    picture = tmp_path / "samples.png"
    assert "drew 2 clips" in done("info", place, "--picture", picture)
    colours = {tuple(colour) for colour in cv2.imread(str(picture)).reshape(-1, 3)[::7].tolist()}
    assert {(255, 0, 0), (0, 0, 255)} <= colours  # BGR: both classes in the colours of the file


def test_info_says_how_fast_videos_are(done: Call, tmp_path: Path) -> None:
    val = json.loads(done("info", video_files(tmp_path / "set"), "--json"))["val"]
    assert val["frames per second"] == "10 in videos/a_1.mp4"
    val = json.loads(done("info", video_files(tmp_path / "set", fps=25), "--json"))["val"]
    assert val["frames per second"] == "10 in videos/a_1.mp4, and fps is 25"


def test_info_refuses_a_file_whose_splits_are_all_empty(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = folders(tmp_path / "set", frames="nowhere/{video}/{frame}.png")
    code, _, error = caller(capsys)("info", str(place))
    assert code == 1
    assert "has no frames of the split train by the pattern nowhere/{video}/{frame}.png: " in error
    assert f"{tmp_path / 'set'} has no nowhere; it has frames, masks, set.yaml" in error
    folders(tmp_path / "set")
    place.write_text(f"{place.read_text()}root: none\n")
    code, _, error = caller(capsys)("eval", "--dataset", str(place), *SMALL)
    assert code == 1
    assert f"by the pattern frames/{{video}}/{{frame}}.png: there is no folder {tmp_path / 'set' / 'none'}\n" in error


@pytest.mark.parametrize("name", ["vspw", "cityscapes"])
def test_a_built_in_set_that_a_file_tells_has_the_same_figures(done: Call, tmp_path: Path, name: str) -> None:
    root = TREES / {"vspw": "VSPW", "cityscapes": "cityscapes"}[name]
    networks = [word for option in ("tokenizer", "world") for word in (f"--{option}", GOLDEN / NETWORKS[option])]
    words = ["--root", root, *SMALL, *networks, "--head", GOLDEN / f"head_{name}.bin", "--samples", "2"]
    for dataset, report in ((name, "own"), (PAGES / "datasets" / f"{name}.yaml", "told")):
        done("eval", "--dataset", dataset, *words, "--out", tmp_path / report, "--pictures", "0")
    own, told = rows(tmp_path / "own"), rows(tmp_path / "told")
    assert told == own
    assert len({row["value"] for row in own if row["value"] is not None}) > 4


def test_kitti_can_be_told_though_not_the_part_of_its_frames_that_counts(done: Call, tmp_path: Path) -> None:
    words = ["--root", TREES / "kitti", *SMALL, "--head", GOLDEN / "head_kitti.bin", "--pictures", "0"]
    done("eval", "--dataset", PAGES / "datasets" / "kitti.yaml", *words, "--out", tmp_path / "told")
    assert {row["metric"] for row in rows(tmp_path / "told") if row["value"] is not None} == {"rmse"}


def test_a_head_of_other_classes_is_told(done: Call, tmp_path: Path) -> None:
    place, head = folders(tmp_path / "set"), tmp_path / "head.ckpt"
    network = head_of(str(place)).build(LinearHeadConfig(128, 2))
    header = header_of(network, provenance={"classes": ["block", "ground"]})
    torch.save({"state_dict": dict(network.state_dict()), "deltactl": header}, head)
    said = done("eval", "--dataset", place, *SMALL, "--head", head, "--out", tmp_path / "report", "--pictures", "0")
    assert "was trained for other classes: class 0 was 'block', and is 'ground' in blocks-told" in said


def test_samples_that_cannot_be_used_are_passed_over(done: Call, tmp_path: Path) -> None:
    place = folders(tmp_path / "set")
    write(tmp_path / "set" / "masks" / "a_1" / "0009.png", mask(9)[:32])
    assert "drew 2 clips" in done("info", place, "--picture", tmp_path / "samples.png")


def test_the_example_reads_back_and_is_what_config_show_prints(done: Call) -> None:
    printed = done("config", "show", "dataset")
    assert printed == example()
    page = Path(__file__).parents[2] / "docs" / "datasets.md"
    assert f"```yaml\n{printed}```" in page.read_text()
    told = read_dataset(printed.encode(), "example.yaml")
    assert (told.name, told.classes, told.ignore) == ("streets", ("road", "car", "sky"), (255,))


def test_classes_have_the_colours_that_the_set_gives_them() -> None:
    ids = np.repeat(np.array([0, 1, 2], np.uint8), 12)[None].repeat(12, 0)
    colours = ClassColours.of("x", [ids], ("sky", "sea", "sand"), ((1, 2, 3), None, (7, 8, 9)))
    painted = colours.paint(ids)
    assert painted[0, 5].tolist() == [1, 2, 3]
    assert painted[0, 30].tolist() == [7, 8, 9]
    assert [entry.name for entry in colours.legend()] == ["sky", "sand", "other classes"]
