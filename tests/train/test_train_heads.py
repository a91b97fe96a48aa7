"""Training heads on features of labelled sets: the loss falls, the file is the published format, labels lie right."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_training import BACKBONE

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.head import HeadConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.kitti import list_clips as list_kitti
from deltactl.errors import ConfigError, IdentityError
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.geometry import square_crops
from deltactl.ingest.shards.old_keys import guess_sources
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import Location
from deltactl.tasks.depth import scale_invariant_log
from deltactl.tasks.segmentation import class_loss
from deltactl.train.checkpoints.loading import load
from deltactl.train.data.heads_data import HeadData, LabelledCrops, crop_target, labelled_crops
from deltactl.train.data.validation import InOrder
from deltactl.train.networks.known_kinds import kind_named
from deltactl.train.run import train

TREES = Path(__file__).parents[1] / "trees"
ROOTS = {"vspw": TREES / "VSPW", "cityscapes": TREES / "cityscapes", "kitti": TREES / "kitti"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Shards and features of the three tiny sets."""
    made = {}
    for dataset, root in ROOTS.items():
        folder = tmp_path_factory.mktemp(dataset)
        shards, store = str(folder / "shards"), str(folder / "features")
        split_file = str(root / "eigen_test.txt") if dataset == "kitti" else None
        run_ingest(
            IngestConfig(
                dataset=dataset, source=str(root), split="val", split_file=split_file, size=64, out=shards, workers=0
            )
        )
        featurize(FeaturizeConfig(shards=shards, backbone=str(BACKBONE), size=64, out=store, device="cpu", workers=0))
        made[dataset] = shards, store
    return made


def config(dataset: str, sets: dict[str, tuple[str, str]], out: Path, **changes: Any) -> HeadConfig:
    shards, store = sets[dataset]
    values = {
        "dataset": dataset,
        "shards": shards,
        "data": store,
        "out": str(out),
        "size": 64,
        "steps": 60,
        "batch_size": 4,
        "effective_batch": 4,
        "lr": 1e-2,
        "warmup_steps": 5,
        "log_every": 5,
        "validate_every": 30,
        "validation_fraction": 0.3,
        "wandb": "disabled",
        **changes,
    }
    return HeadConfig(**values)


def rows(run: Path, column: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


@pytest.mark.parametrize("dataset", ["vspw", "cityscapes", "kitti"])
def test_the_loss_falls_and_the_file_is_the_published_format(
    dataset: Any, sets: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    result = train(config(dataset, sets, tmp_path / "run"), "head")
    assert result.step == 60
    losses = rows(tmp_path / "run", "train/loss")
    assert losses[-1] < 0.7 * losses[0]
    state = torch.load(tmp_path / "run" / "pytorch_model.bin", weights_only=True)
    assert {"bn.weight", "bn.running_mean", "head.weight", "head.bias"} <= state.keys()
    for place in (tmp_path / "run", tmp_path / "run" / "pytorch_model.bin"):
        head = load(str(place), kind_named(dataset))
        assert torch.equal(head.state_dict()["head.weight"], state["head.weight"])
    assert rows(tmp_path / "run", "validation/rmse" if dataset == "kitti" else "validation/accuracy")


def test_a_head_resumes_with_the_same_weights(sets: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    train(config("vspw", sets, tmp_path / "whole", steps=10), "head")
    train(config("vspw", sets, tmp_path / "parts", steps=5), "head")
    train(config("vspw", sets, tmp_path / "parts", steps=10, resume="auto"), "head")
    whole, parts = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_every_labelled_frame_is_there_under_every_crop(sets: dict[str, tuple[str, str]]) -> None:
    for dataset, labels in (("vspw", 7), ("cityscapes", 1)):
        shards, store = ShardSet.open(sets[dataset][0]), FeatureStore.open(sets[dataset][1])
        crops = labelled_crops(RandomAccess(shards), store)
        expected = sum(labels * len(store.views_of(key)) for unit in shards.units for key in shards.keys(unit))
        assert len(crops) == expected


def test_held_out_videos_share_no_frame_with_those_that_train(sets: dict[str, tuple[str, str]]) -> None:
    shards, store = ShardSet.open(sets["vspw"][0]), FeatureStore.open(sets["vspw"][1])
    data = HeadData("vspw", shards, store, 0, 0.3)
    video = {clip.key: clip.meta.source for unit in shards.units for clip in shards.read(unit)}
    videos = [
        {video[key] for key in source.keys(np.arange(source.clips, dtype=np.int64))}
        for source in (data.training_source(), data.held_out_source())
    ]
    assert videos[0]
    assert videos[1]
    assert not videos[0] & videos[1]


def test_a_label_lies_under_its_crop_where_the_other_crop_is_not_there(
    sets: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    """The frame's size follows from the label's, not from the crops that happen to have features."""
    shards = ShardSet.open(sets["vspw"][0])
    out = str(tmp_path / "features")
    featurize(
        FeaturizeConfig(
            shards=sets["vspw"][0], backbone=str(BACKBONE), size=64, out=out, views="0:1", device="cpu", workers=0
        )
    )
    found = {}
    for store in (FeatureStore.open(out), FeatureStore.open(sets["vspw"][1])):
        crops = [crop for crop in labelled_crops(RandomAccess(shards), store) if crop.view == 0]
        places = np.arange(len(crops), dtype=np.int64)
        batch = LabelledCrops("vspw", store, RandomAccess(shards), crops, InOrder()).start(places)()
        found[store.root] = batch.labels
    one, both = found.values()
    assert len(one) > 0
    assert torch.equal(one, both)


def test_clips_of_one_video_and_both_cameras_have_one_source(sets: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    """What is recorded is what earlier versions guessed, so that the same videos are held out."""
    left, right, other = (
        f"2011_09_26_drive_{drive}_sync_image_0{camera}_0000000030"
        for drive, camera in (("0002", 2), ("0002", 3), ("0009", 2))
    )
    assert guess_sources([left, right], evaluation=True) == ("2011_09_26_drive_0002_sync",) * 2
    lines = "".join(
        f"2011_09_26/2011_09_26_drive_{drive}_sync/image_0{camera}/data/0000000030.png {depth}.png 1\n"
        for drive, camera, depth in (("0002", 2, "a"), ("0002", 3, "b"), ("0009", 2, "c"))
    )
    (tmp_path / "split.txt").write_text(lines)
    (tmp_path / "2011_09_26/2011_09_26_drive_0002_sync/image_02/data").mkdir(parents=True)
    clips = list_kitti(Location.of(tmp_path), split_file=Location.of(tmp_path / "split.txt")).clips
    assert [clip.key for clip in clips] == [left, right, other]
    assert tuple(clip.video for clip in clips) == guess_sources([left, right, other], evaluation=True)
    for place, _ in sets.values():
        shards = ShardSet.open(place)
        for unit in shards.units:
            assert shards.sources_of(unit) == guess_sources(shards.keys(unit), evaluation=True)


@given(height=st.integers(20, 90), width=st.integers(20, 90), scale=st.integers(1, 3), view=st.integers(0, 1))
def test_labels_lie_under_their_crop(height: int, width: int, scale: int, view: int) -> None:
    """A label that holds its own coordinates, at another scale than the frame."""
    if height == width:
        view = 0
    rows_, columns = np.mgrid[0 : height * scale, 0 : width * scale]
    side = min(height, width)
    for values, start in ((rows_, (height - side) * view), (columns, (width - side) * view)):
        found = crop_target(values.astype(np.float32), (height, width), square_crops(height, width)[view], (8, 8))
        expected = (start + (np.arange(8) + 0.5) / 8 * side) * scale
        found = found[:, 0] if values is rows_ else found[0]
        assert np.abs(found - expected).max() <= 1


def test_points_that_do_not_count_change_nothing() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 6, 6), torch.randint(0, 5, (2, 6, 6), dtype=torch.uint8)
    expected = torch.nn.functional.cross_entropy(logits[:, :, :3], labels[:, :3].long())
    labels[:, 3:] = 255
    assert class_loss(logits, labels) == pytest.approx(float(expected))
    assert class_loss(logits, torch.full_like(labels, 255)) == 0
    predicted, depth = torch.rand(2, 6, 6) + 1, torch.rand(2, 6, 6) + 1
    sparse = depth.clone()
    sparse[:, ::2] = 0
    assert scale_invariant_log(predicted, sparse) == pytest.approx(
        float(scale_invariant_log(predicted[:, 1::2], depth[:, 1::2])), rel=1e-5
    )
    assert scale_invariant_log(predicted, torch.zeros_like(depth)) == 0


def test_a_common_factor_costs_half_of_what_it_would() -> None:
    """λ = 0.5: a depth that is wrong by one factor everywhere has half its squared log as loss."""
    depth = torch.rand(1, 4, 4) + 1
    assert scale_invariant_log(depth * 2, depth) == pytest.approx(0.5 * np.log(2) ** 2, rel=1e-5)


def test_features_of_other_shards_are_refused(sets: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    mixed = {"vspw": (sets["vspw"][0], sets["cityscapes"][1])}
    with pytest.raises(IdentityError, match="was not made from"):
        train(config("vspw", mixed, tmp_path / "run"), "head")
    with pytest.raises(ConfigError, match="holds cityscapes, the head is for vspw"):
        train(config("vspw", {"vspw": sets["cityscapes"]}, tmp_path / "run"), "head")


def test_what_is_missing_is_said_with_the_command_that_makes_it(
    sets: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="deltactl ingest --dataset vspw --split train --size 64"):
        train(config("vspw", sets, tmp_path / "run", shards=None), "head")
    with pytest.raises(ConfigError, match="run: deltactl featurize"):
        train(config("vspw", sets, tmp_path / "run", data=None), "head")
