"""All samples of a set of shards have the same members, as readers of WebDataset that build tables ask for."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from evaluations import ROOTS, SPLIT_FILE
from PIL import Image
from small_shards import make_clip, write_shards

from deltactl.configs.ingest import IngestConfig
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import NO_DEPTH, Clip, ShardSet
from deltactl.ingest.shards.images import decode_label
from deltactl.ingest.shards.random_access import RandomAccess


def fields(root: Path) -> dict[str, set[str]]:
    """Return the names of the members of each sample, without the key."""
    found: dict[str, set[str]] = {}
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                key, _, field = name.partition(".")
                found.setdefault(key, set()).add(field)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """KITTI's tree, where two frames before the last of a clip have no depth."""
    tree = Path(shutil.copytree(ROOTS["kitti"], tmp_path / "kitti"))
    depths = sorted(tree.rglob("proj_depth/groundtruth/image_02/*.png"))
    for path in depths[1:3]:
        path.unlink()
    return tree


@pytest.mark.parametrize("dataset", ["vspw", "cityscapes", "kitti"])
def test_every_sample_of_an_evaluation_set_has_the_same_members(tree: Path, tmp_path: Path, dataset: str) -> None:
    root, split = (tree, str(SPLIT_FILE)) if dataset == "kitti" else (ROOTS[dataset], None)
    values = {"dataset": dataset, "source": str(root), "split_file": split, "out": str(tmp_path / "out")}
    run_ingest(IngestConfig(**values, size=64, workers=0, max_bad=0.5))
    found = fields(tmp_path / "out")
    assert len(found) > 1
    assert len({frozenset(names) for names in found.values()}) == 1


def test_a_frame_without_depth_has_no_label_though_it_has_a_member(tree: Path, tmp_path: Path) -> None:
    values = {"dataset": "kitti", "source": str(tree), "split_file": str(SPLIT_FILE), "out": str(tmp_path / "out")}
    run_ingest(IngestConfig(**values, size=64, workers=0, max_bad=0.5))
    shards = ShardSet.open(str(tmp_path / "out"))
    clips = [clip for unit in shards.units for clip in shards.read(unit)]
    assert any(0 < len(clip.labels) < len(clip.frames) for clip in clips)
    assert all(decode_label(data).max() > 0 for clip in clips for data in clip.labels.values())
    there = [(clip.key, frame) for clip in clips for frame in clip.labels]
    tars = RandomAccess(shards)
    assert sorted(there) == [pair for unit in shards.units for pair in tars.labels(unit)]


def test_the_depth_of_a_frame_without_measurements_is_a_picture_of_none() -> None:
    image = Image.open(io.BytesIO(NO_DEPTH))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("I;16", (1, 1), 0)
    assert decode_label(NO_DEPTH).dtype == np.uint16


def test_shards_of_earlier_versions_without_those_members_are_read_alike(tmp_path: Path) -> None:
    whole = make_clip("a", frame_format="png")
    label = np.full((80, 112), 300, np.uint16)
    data = io.BytesIO()
    Image.fromarray(label).save(data, format="PNG")
    clip = Clip("a", whole.meta, whole.frames, "png", {2: data.getvalue()}, "depth", "a.mp4")
    shards = write_shards(tmp_path / "now", [[clip]], dataset="kitti")
    assert fields(tmp_path / "now")["a"] >= {"000.depth.png", "001.depth.png", "002.depth.png"}
    (read,) = shards.read("000000")
    assert read == clip
