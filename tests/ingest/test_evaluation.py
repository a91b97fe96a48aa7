"""Evaluation clips in shards: lossless frames, untouched labels, and what happens to files that cannot be used."""

from __future__ import annotations

import gc
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset
from PIL import Image

from deltactl.configs.ingest import IngestConfig
from deltactl.errors import ConfigError
from deltactl.ingest.evaluation import plan_evaluation
from deltactl.ingest.settle import resolved
from deltactl.ingest.shards.format import Clip, write_shard
from deltactl.ingest.shards.images import decode_frame, decode_label
from deltactl.ingest.units import Plan, UnitLog
from deltactl.locations import Location

TREES = {"vspw": "VSPW", "cityscapes": "cityscapes", "kitti": "kitti"}
DRIVE = "2011_09_26_drive_0002_sync"


@pytest.fixture
def tree(trees: Path, tmp_path: Path) -> Path:
    """A copy of all trees that a test may damage."""
    return Path(shutil.copytree(trees, tmp_path / "trees"))


def plan_of(root: Path, dataset: str, shard_clips: int = 2) -> Plan:
    split_file = str(root / "kitti" / "eigen_test.txt") if dataset == "kitti" else None
    source = str(root / TREES[dataset])
    config = resolved(
        IngestConfig(dataset=dataset, source=source, size=64, split_file=split_file, shard_clips=shard_clips)
    )
    return plan_evaluation(config)


def clips_of(plan: Plan) -> tuple[list[Clip], dict[str, str]]:
    """The clips, and by source the reasons of those that are lacking."""
    log = UnitLog()
    clips = [clip for unit in plan.units for clip in plan.maker.clips(unit, log)]
    return clips, {entry.source: entry.reason for entry in log.quarantined}


@pytest.mark.parametrize(
    ("dataset", "clips", "sizes"),
    [
        ("vspw", 5, {(64, 116), (64, 64), (113, 64)}),
        ("cityscapes", 2, {(64, 128)}),
        ("kitti", 3, {(64, 128)}),
    ],
)
def test_frames_are_stored_at_the_evaluation_size_without_loss(
    trees: Path, dataset: str, clips: int, sizes: set[tuple[int, int]]
) -> None:
    plan = plan_of(trees, dataset)
    made, bad = clips_of(plan)
    assert (len(made), plan.clips, bad) == (clips, clips, {})
    items = [item for unit in plan.units for item in unit.items]
    found = set()
    for clip, item in zip(made, items, strict=True):
        for data, path in zip(clip.frames, item.frames, strict=True):
            frame = cv2.imread(str(trees / TREES[dataset] / path), cv2.IMREAD_COLOR_RGB)
            assert clip.meta.original_size == frame.shape[:2]
            if dataset == "kitti":
                frame = frame[-352:, 13 : 13 + 1216]
            stored = decode_frame(data)
            found.add(stored.shape[:2])
            height, width = stored.shape[:2]
            np.testing.assert_array_equal(stored, cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR))
    assert found == sizes


@pytest.mark.parametrize(("dataset", "per_clip"), [("vspw", 7), ("cityscapes", 1), ("kitti", 7)])
def test_labels_are_the_very_files_of_the_data_set(trees: Path, dataset: str, per_clip: int) -> None:
    plan = plan_of(trees, dataset)
    items = [item for unit in plan.units for item in unit.items]
    for clip, item in zip(clips_of(plan)[0], items, strict=True):
        assert len(clip.labels) == per_clip
        for label in item.labels:
            root = trees / TREES[dataset]
            path = next(root / path for path in label.paths if (root / path).exists())
            assert clip.labels[label.frame] == path.read_bytes()
            assert decode_label(clip.labels[label.frame]).shape == clip.meta.original_size


def test_times_are_the_number_of_the_frame_over_its_rate(trees: Path) -> None:
    expected = {"vspw": (15, 3), "cityscapes": (16, 3), "kitti": (10, 2)}
    for dataset, (fps, step) in expected.items():
        for clip in clips_of(plan_of(trees, dataset))[0]:
            assert clip.meta.times == tuple(index / fps for index in clip.meta.indices)
            assert np.diff(clip.meta.indices).tolist() == [step] * 6


# webdataset leaves closing its files to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("dataset", ["vspw", "cityscapes", "kitti"])
def test_plain_webdataset_reads_every_tar(trees: Path, tmp_path: Path, dataset: str) -> None:
    plan = plan_of(trees, dataset)
    for unit in plan.units:
        write_shard(Location.of(tmp_path), unit.name, plan.maker.clips(unit, UnitLog()), [], {})
    tars = sorted(str(path) for path in tmp_path.glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    made, _ = clips_of(plan)
    assert [sample["__key__"] for sample in samples] == [clip.key for clip in made]
    kind = "depth" if dataset == "kitti" else "mask"
    for sample, clip in zip(samples, made, strict=True):
        assert sample["000.png"] == clip.frames[0]
        label = sample[f"006.{kind}.png"]
        assert label == clip.labels[6]
        # Outside a decoder of 8 bits, nothing of 16-bit depth is lost.
        depth = np.asarray(Image.open(io.BytesIO(label)))
        assert depth.max() > 255 if dataset == "kitti" else depth.dtype == np.uint8
    gc.collect()


def test_a_plan_depends_on_names_and_settings_only(tree: Path, tmp_path: Path) -> None:
    plan = plan_of(tree, "vspw")
    assert plan_of(tree, "vspw").units == plan.units
    moved = tree.rename(tmp_path / "elsewhere")
    assert plan_of(moved, "vspw").identity == plan.identity
    (moved / "VSPW" / "val.txt").write_text("100_clip\n102_clip\n")
    other = plan_of(moved, "vspw")
    assert other.identity["sources"] != plan.identity["sources"]
    assert {key for key in plan.identity if other.identity[key] != plan.identity[key]} == {"sources"}


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_size(path: Path) -> None:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), picture[:-3])


def sixteen_bits(path: Path) -> None:
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16))


def eight_bits(path: Path) -> None:
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint8))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("origin/00000010.jpg", Path.unlink, "frame {} is missing"),
        ("origin/00000010.jpg", cut_in_half, "{} is truncated"),
        ("origin/00000010.jpg", empty, "{} is empty"),
        ("origin/00000010.jpg", a_folder, "{} is a directory"),
        ("origin/00000010.jpg", other_size, "frame {} is 64 × 121 pixels but data/100_clip/origin/00000001.jpg is 67"),
        ("mask/00000019.png", Path.unlink, "label {} is missing"),
        ("mask/00000019.png", cut_in_half, "{} is truncated"),
        ("mask/00000019.png", other_size, "label {} is 64 × 121 pixels but its frame is 67 × 121"),
        ("mask/00000019.png", sixteen_bits, "label {} has uint16 pixels"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_costs_its_clip_alone(
    tree: Path, file: str, damage: Callable[[Path], None], reason: str
) -> None:
    path = f"data/100_clip/{file}"
    damage(tree / "VSPW" / path)
    plan = plan_of(tree, "vspw")
    made, bad = clips_of(plan)
    assert len(made) == plan.clips - 1 == 4
    (source, found), *others = bad.items()
    assert not others
    assert source == "data/100_clip/origin/00000019.jpg"
    assert found.startswith(reason.format(path)), found


def rename(folder: Path, old: str, new: str) -> None:
    """Put `new` in place of `old` in the names of all that lies below a folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rename(path.with_name(path.name.replace(old, new)))


@pytest.mark.parametrize(
    ("dataset", "old", "new", "left", "bad"),
    [
        ("vspw", "00000019", "00000019.x", 2, ["100_clip", "101_clip", "102_clip"]),
        ("vspw", "101_clip", "101.clip", 3, ["101.clip", "101.clip"]),
        ("cityscapes", "lindau", "st.lindau", 1, ["st.lindau"]),
        ("kitti", "2011_09_28_drive", "2011.09_28_drive", 2, ["2011.09_28_drive"]),
    ],
)
def test_a_name_with_a_dot_costs_its_clips_alone(
    tree: Path, dataset: str, old: str, new: str, left: int, bad: list[str]
) -> None:
    rename(tree / TREES[dataset], old, new)
    for file in tree.rglob("*.txt"):
        file.write_text(file.read_text().replace(old, new))
    made, found = clips_of(plan_of(tree, dataset))
    assert len(made) == left
    for (source, reason), part in zip(sorted(found.items()), bad, strict=True):
        assert part in source
        assert "holds a dot, which would end the key in a WebDataset; rename the file or folder" in reason


def test_a_name_that_is_not_utf8_costs_its_clip_alone(tree: Path) -> None:
    rename(tree / "VSPW" / "data" / "102_clip", "00000019", os.fsdecode(b"0000001\xff"))
    made, bad = clips_of(plan_of(tree, "vspw"))
    assert len(made) == 4
    ((source, reason),) = bad.items()
    assert os.fsencode(source) == b"data/102_clip/origin/0000001\xff.jpg"
    assert "'102_clip_0000001\\udcff', which is not UTF-8" in reason


def test_depth_may_lack_before_the_last_frame_only(tree: Path) -> None:
    depth = tree / "kitti" / "val" / DRIVE / "proj_depth" / "groundtruth" / "image_02"
    (depth / "0000000024.png").unlink()
    (depth / "0000000022.png").unlink()
    made, bad = clips_of(plan_of(tree, "kitti"))
    assert sorted(made[0].labels) == [0, 1, 4, 5, 6]
    (source,) = bad
    assert source.endswith("0000000022.png")
    assert "22.png or train/" in bad[source]
    assert bad[source].endswith("is missing")


def test_depth_of_eight_bits_and_frames_too_small_to_cut_are_refused(tree: Path) -> None:
    images = tree / "kitti" / "2011_09_28" / "2011_09_28_drive_0002_sync" / "image_02" / "data"
    for path in images.glob("*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path))[:300])
    eight_bits(tree / "kitti" / "val" / DRIVE / "proj_depth/groundtruth/image_02/0000000030.png")
    _, bad = clips_of(plan_of(tree, "kitti"))
    reasons = sorted(bad.values())
    assert "a frame of 300 × 1242 pixels has no box of 352 × 1216" in reasons[0]
    assert "has uint8 pixels" in reasons[1]


def test_sources_without_clips_are_counted_and_placed_in_a_unit(tree: Path) -> None:
    shutil.rmtree(tree / "VSPW" / "data" / "102_clip")
    plan = plan_of(tree, "vspw")
    assert (plan.sources, plan.clips) == (5, 4)
    (entry,) = plan.quarantined
    assert (entry.source, entry.unit) == ("data/102_clip", "000001")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "cityscapes", "split_file": "x.txt"}, "--split-file is .*x.txt, but cityscapes"),
        ({"dataset": "vspw", "exclude": "x.txt"}, "--exclude is x.txt"),
        ({"dataset": "kitti"}, "KITTI needs --split-file"),
    ],
)
def test_options_that_do_not_go_with_the_set_are_refused(trees: Path, settings: dict[str, str], message: str) -> None:
    config = resolved(IngestConfig(source=str(trees / TREES[settings["dataset"]]), **settings))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        plan_evaluation(config)


def test_a_tree_without_clips_is_refused(tree: Path) -> None:
    for video in ("100_clip", "101_clip", "102_clip"):
        shutil.rmtree(tree / "VSPW" / "data" / video / "mask")
    with pytest.raises(ConfigError, match="no clips of 7 frames of vspw val; .*data/100_clip/mask holds no masks"):
        plan_of(tree, "vspw")
