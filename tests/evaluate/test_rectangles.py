"""Frames that are no squares, all the way: ingest, featurize, tokenize, train, eval, predict, each at H x W."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluations import DATASETS, GOLDEN, ROOTS, SPLIT_FILE, quiet, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_training import tokenizer_config, world_config
from videos import make_video

from deltactl.artifacts import read_header
from deltactl.cli import main
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.head import HeadConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.datasets.known import labelled_set
from deltactl.errors import ConfigError
from deltactl.evaluate.run import run as evaluate
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.featurize.views import training_view
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.images import decode_frame, decode_frame_file, decode_label
from deltactl.locations import Location
from deltactl.tasks.depth import DepthErrors
from deltactl.tasks.segmentation import ClassOverlaps
from deltactl.tokenization.run import run as tokenize
from deltactl.train.checkpoints.loading import load
from deltactl.train.checkpoints.trained import trained_of
from deltactl.train.networks.known_kinds import kind_named
from deltactl.train.run import train

HEIGHT, WIDTH = 48, 80
SIZE, GRID = f"{HEIGHT}x{WIDTH}", (3, 5)
BACKBONE = str(GOLDEN / "backbone")
SHORT: dict[str, Any] = {"size": SIZE, "steps": 1, "validate_every": 1, "checkpoint_every": 1, "last_every": 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Clips of four videos of 120 x 160 pixels, which must serve frames of 48 x 80."""
    folder = tmp_path_factory.mktemp("training")
    for name in "abcd":
        make_video(folder / "videos" / f"{name}.mp4", frames=40, width=160, height=120)
    values = {"source": str(folder / "videos"), "dataset": "folder", "out": str(folder / "shards")}
    run_ingest(IngestConfig(**values, size=SIZE, frames=4, clips=2, workers=0))
    return ShardSet.open(values["out"])


@pytest.fixture(scope="module")
def store(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Two random views of them; the size is that of the shards."""
    out = str(tmp_path_factory.mktemp("features") / "store")
    place = str(shards.root)
    featurize(FeaturizeConfig(shards=place, backbone=BACKBONE, views="2", out=out, device="cpu", workers=0))
    return FeatureStore.open(out)


sides = st.integers(64, 1200)


@given(key=st.text(max_size=20), height=sides, width=sides, rows=sides, columns=sides, view=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_random_views_have_about_the_shape_they_become_and_stay_inside(
    key: str, height: int, width: int, rows: int, columns: int, view: int
) -> None:
    target = columns / rows
    box = training_view(0, key, view, height, width, target=target).crop
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width
    # A side is rounded to a pixel, by which the ratio of a thin crop may miss the range.
    assert (box.width + 1) / max(box.height - 1, 0.5) >= 3 / 4 * target
    assert (box.width - 1) / (box.height + 1) <= 4 / 3 * target


def test_a_view_of_a_rectangle_is_the_square_draw_with_another_ratio() -> None:
    square, wide = (training_view(0, "a", 0, 4000, 4000, target=target).crop for target in (1.0, 1.1))
    assert square == training_view(0, "a", 0, 4000, 4000).crop
    assert wide.width / wide.height == pytest.approx(1.1 * square.width / square.height, rel=1e-3)


# --- training video --------------------------------------------------------------------------------------------------


def test_stored_frames_serve_both_sides(shards: ShardSet) -> None:
    assert read_header(shards.root).identity.values["size"] == SIZE
    for clip in shards.read(shards.units[0]):
        for frame in clip.frames:  # 1.3 × 80 columns decide; for squares of 48 it would be 62 × 83
            assert decode_frame(frame).shape == (78, 104, 3)


def test_a_store_holds_random_views_of_the_whole_shape(shards: ShardSet, store: FeatureStore) -> None:
    assert store.identity.values["size"] == SIZE
    assert store.identity.values["crops"] == "augment"
    assert store.grid == GRID
    assert store.black.shape == (15, 128)
    backbone = Backbone.load(BACKBONE, "cpu")
    clip = next(iter(shards.read(shards.units[0])))
    images = np.stack([decode_frame_file(data, "frame") for data in clip.frames])
    for view in (0, 1):
        shown = training_view(0, clip.key, view, *images.shape[1:3], target=WIDTH / HEIGHT)
        box = shown.crop
        cut = torch.from_numpy(images[:, box.top : box.top + box.height, box.left : box.left + box.width].copy())
        frames = crop_resize(cut.permute(0, 3, 1, 2), shown.of_cut, FrameSize(HEIGHT, WIDTH))
        assert frames.shape == (4, 3, HEIGHT, WIDTH)
        found = store.start_clips([store.find(clip.key, view)]).result()[0].float()
        torch.testing.assert_close(found, backbone(frames), rtol=2e-3, atol=2e-3)


def test_tokenizer_tokens_and_world_train_and_remember_the_size(
    shards: ShardSet, store: FeatureStore, tmp_path: Path
) -> None:
    features, tokens = str(store.root), str(tmp_path / "tokens")
    train(tokenizer_config(features, tmp_path / "tokenizer", **SHORT), "run")
    tokenizer = str(tmp_path / "tokenizer")
    assert trained_of(tokenizer).size == FrameSize(HEIGHT, WIDTH)
    train(tokenizer_config(str(shards.root), tmp_path / "live", **SHORT, start="scratch"), "run")
    tokenize(TokenizeConfig(data=features, tokenizer=tokenizer, out=tokens, device="cpu", workers=0))
    live = str(tmp_path / "live-tokens")
    tokenize(
        TokenizeConfig(
            data=str(shards.root), tokenizer=tokenizer, backbone=BACKBONE, views="2", out=live, device="cpu", workers=0
        )
    )
    stores = [TokenStore.open(place) for place in (tokens, live)]
    assert [each.identity.values["size"] for each in stores] == [SIZE, SIZE]
    assert stores[0].identity == stores[1].identity
    first, second = (each.start_clips([each.find(each.keys[0], 1)]).result().float() for each in stores)
    torch.testing.assert_close(first, second, rtol=0.02, atol=0.02)
    train(world_config(tokens, tmp_path / "world", **SHORT), "run")
    train(
        world_config(features, tmp_path / "dinoworld", **SHORT, network={"width": 64, "depth": 1, "kind": "dinoworld"}),
        "run",
    )
    assert "size: 48x80" in (tmp_path / "world" / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"size is set to 64, but .* has 48x80"):
        train(tokenizer_config(features, tmp_path / "other"), "run")


def test_whole_frames_of_training_video_are_one_view(shards: ShardSet, tmp_path: Path) -> None:
    values = {"shards": str(shards.root), "backbone": BACKBONE, "device": "cpu", "workers": 0}
    featurize(FeaturizeConfig(**values, crops="whole", out=str(tmp_path / "whole")))
    whole = FeatureStore.open(str(tmp_path / "whole"))
    assert (whole.identity.values["crops"], whole.views, whole.grid) == ("whole", (0,), GRID)
    with pytest.raises(ConfigError, match="a whole frame has one view"):
        featurize(FeaturizeConfig(**values, crops="whole", views="2", out=str(tmp_path / "two")))
    with pytest.raises(ConfigError, match="crops is square, but --size is 48x80"):
        featurize(FeaturizeConfig(**values, crops="square", out=str(tmp_path / "squares")))
    with pytest.raises(ConfigError, match=r"multiples of the backbone's patch size, 16, such as 48x80 or 64x80"):
        featurize(FeaturizeConfig(**values, size="50x80", out=str(tmp_path / "odd")))
    with pytest.raises(ConfigError, match=r"patch size, 16, such as 48 or 64"):
        featurize(FeaturizeConfig(**values, size=50, out=str(tmp_path / "odd")))


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluation_clips(dataset: str) -> list[Clip]:
    """Return the clips as the data set's files have them, cut but not resized."""
    from deltactl.ingest.evaluation import plan_evaluation
    from deltactl.ingest.settle import resolved
    from deltactl.ingest.units import UnitLog

    split = str(SPLIT_FILE) if dataset == "kitti" else None
    config = IngestConfig(dataset=dataset, source=str(ROOTS[dataset]), size=SIZE, split_file=split)
    plan = plan_evaluation(resolved(config))
    return [clip for unit in plan.units for clip in plan.maker.clips(unit, UnitLog())]


def original_frames(clip: Clip) -> list[np.ndarray]:
    """Return the frames of a clip of VSPW as its owner's files have them, resized by OpenCV, all here."""
    folder = ROOTS["vspw"] / clip.meta.source
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("._"))
    images = [cv2.imread(str(folder / names[index]))[:, :, ::-1] for index in clip.meta.indices]
    return [
        cv2.resize(np.ascontiguousarray(image), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR) for image in images
    ]


@pytest.mark.parametrize("dataset", DATASETS)
def test_evaluation_frames_are_stored_at_exactly_the_size(dataset: str) -> None:
    for clip in evaluation_clips(dataset):
        stored = [decode_frame(frame) for frame in clip.frames]
        assert {frame.shape for frame in stored} == {(HEIGHT, WIDTH, 3)}
        if dataset == "vspw":
            assert all(map(np.array_equal, stored, original_frames(clip)))


@pytest.mark.parametrize("dataset", DATASETS)
def test_an_evaluation_is_what_a_direct_computation_gives(dataset: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "home"))
    config = tiny(dataset, size=SIZE, world=None, tokenizer=None, dinoworld=None, horizons=(1, 3), extras=False)
    said: list[str] = []
    report = evaluate(config, said.append)
    backbone, head = Backbone.load(BACKBONE, "cpu"), load(str(GOLDEN / f"head_{dataset}.bin"), kind_named(dataset))
    clips = evaluation_clips(dataset)
    record = labelled_set(dataset)
    metric: Any = DepthErrors() if dataset == "kitti" else ClassOverlaps.empty(record.classes or 1)
    copied: Any = DepthErrors() if dataset == "kitti" else ClassOverlaps.empty(record.classes or 1)
    losses = []
    with torch.inference_mode():
        for clip in clips:
            frames = torch.from_numpy(np.stack([decode_frame(frame) for frame in clip.frames])).permute(0, 3, 1, 2)
            features = backbone(frames.contiguous()).half().float()
            losses.append(F.smooth_l1_loss(features[5], features[6], beta=0.1).item())
            if 6 not in clip.labels:
                continue
            target = torch.from_numpy(record.target(decode_label(clip.labels[6])).copy())[None]
            for source, kept in ((6, "metric"), (5, "copied")):
                output = head(features[source].T.reshape(1, -1, *GRID))
                output = F.interpolate(output, size=tuple(target.shape[1:]), mode="bilinear", align_corners=False)
                counted = (DepthErrors if dataset == "kitti" else ClassOverlaps).of(output, target)
                if kept == "metric":
                    metric = metric + counted
                else:
                    copied = copied + counted
    rows = {(row["method"], row["horizon"], row["step"]): row for row in report.metrics["rows"]}
    assert rows["present", 1, 1]["value"] == pytest.approx(metric.value(), rel=1e-4)
    assert rows["copy_last", 1, 1]["value"] == pytest.approx(copied.value(), rel=1e-4)
    assert rows["copy_last", 1, 1]["loss"] == pytest.approx(fmean(losses), rel=1e-3)
    assert report.metrics["size"] == SIZE
    assert report.metrics["clips"] == len(clips)
    assert "whole frames at 48x80 px: not the paper's protocol of two square crops a frame" in said
    assert "whole frames at 48x80 px (published: square crops of 512 px)" in report.metrics["departures"]
    store = FeatureStore.open(str(tmp_path / "home" / "features" / f"{dataset}-val-backbone-{SIZE}"))
    assert (store.identity.values["crops"], store.views, store.grid) == ("whole", (0,), GRID)


def test_clips_that_are_streamed_give_the_same_numbers_as_the_cache(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "home"))
    for out, cache in (("cached", True), ("streamed", False)):
        evaluate(tiny("vspw", size=SIZE, cache=cache, out=str(tmp_path / out), samples=2), quiet)
    cached, streamed = (json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("cached", "streamed"))
    assert len(cached["rows"]) > 10
    for one, other in zip(cached["rows"], streamed["rows"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["value"] == pytest.approx(other["value"], rel=1e-2)


def test_the_report_draws_whole_frames_in_their_shape(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "home"))
    out = tmp_path / "report"
    evaluate(tiny("vspw", size=SIZE, pictures=1, samples=2, out=str(out), rgb_head=str(GOLDEN / "head_rgb.bin")), quiet)
    page = (out / "report.html").read_text()
    assert f"--shape: {WIDTH / HEIGHT}" in page
    assert "two square crops" not in page.partition("<h3")[2], "the clip is shown whole"
    with Image.open(out / "picture-1.png") as sheet:
        assert sheet.width > sheet.height / 2


def test_the_paper_stands_beside_it_only_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "--dataset", "vspw", "--root", str(ROOTS["vspw"]), "--backbone", BACKBONE, "--device", "cpu"]
    words += ["--size", SIZE, "--pictures", "0", "--no-cache", "--head", str(GOLDEN / "head_vspw.bin")]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    output = capsys.readouterr().out
    assert "published" not in output.partition("not the published evaluation")[0]
    assert main([*words, "--against", "paper", "--out", str(tmp_path / "b")]) == 0
    assert "published" in capsys.readouterr().out.partition("not the published evaluation")[0]


def test_squares_and_rectangles_of_an_evaluation_set_do_not_mix(tmp_path: Path) -> None:
    made = tmp_path / "shards"
    run_ingest(IngestConfig(dataset="vspw", source=str(ROOTS["vspw"]), size=64, out=str(made), workers=0))
    values = {"shards": str(made), "backbone": BACKBONE, "device": "cpu", "workers": 0, "out": str(tmp_path / "store")}
    with pytest.raises(ConfigError, match=r"--size is 48x80, but .* was ingested at 64; .* ingest with --size 48x80"):
        featurize(FeaturizeConfig(**values, size=SIZE))
    with pytest.raises(ConfigError, match="crops is whole, but --size is 64: .* need --size HxW"):
        featurize(FeaturizeConfig(**values, size=64, crops="whole"))


def test_heads_train_on_whole_frames(tmp_path: Path) -> None:
    for dataset in ("vspw", "kitti"):
        made, store = str(tmp_path / f"{dataset}-shards"), str(tmp_path / f"{dataset}-store")
        split = {"split_file": str(SPLIT_FILE)} if dataset == "kitti" else {}
        source = str(ROOTS[dataset])
        run_ingest(IngestConfig(dataset=dataset, source=source, split="val", size=SIZE, out=made, workers=0, **split))
        featurize(FeaturizeConfig(shards=made, backbone=BACKBONE, out=store, device="cpu", workers=0))
        out = tmp_path / f"{dataset}-head"
        values = {"dataset": dataset, "shards": made, "data": store, "backbone": BACKBONE, "out": str(out)}
        short = {"steps": 2, "batch_size": 4, "effective_batch": 4, "validation_fraction": 0.3, "wandb": "disabled"}
        train(HeadConfig(**values, **short), "run")
        assert trained_of(str(out)).size == FrameSize(HEIGHT, WIDTH)


# --- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crop", "box"), [("centre", (0, 15, 96, 160)), ("whole", (0, 0, 96, 190))])
def test_futures_of_a_video_at_a_rectangle(crop: str, box: tuple[int, ...], tmp_path: Path, capsys: Any) -> None:
    video, out = make_video(tmp_path / "street.mp4", frames=60, width=190, height=96), tmp_path / "out"
    words = ["predict", str(video), "--size", SIZE, "--crop", crop, "--samples", "2", "--device", "cpu"]
    for option, name in (("tokenizer", "deltatok"), ("world", "deltaworld"), ("head", "head_kitti")):
        words += [f"--{option}", str(GOLDEN / f"{name}.bin")]
    words += ["--rgb-head", str(GOLDEN / "head_rgb.bin"), "--backbone", BACKBONE, "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert ("a part of the shape 48x80 in the middle is used" in said) == (crop == "centre")
    with np.load(out / "features.npz") as arrays:
        assert tuple(arrays["grid"]) == GRID
        assert arrays["futures"].shape == (2, 3, 15, 128)
    found = json.loads((out / "prediction.json").read_text())
    assert tuple(found["box"].values()) == box
    assert found["size"] == [HEIGHT, WIDTH]
    assert read_header(Location.of(out)).identity.values["size"] == SIZE
    (depth,) = [path for path in out.rglob("sample0_step1.png") if "kitti" in str(path)]
    with Image.open(depth) as picture:
        assert picture.size == (WIDTH, HEIGHT)
