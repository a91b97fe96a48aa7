"""Training RGB heads: targets are what the backbone saw, pictures come near the frames, runs go on bit for bit."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import Interrupt, assert_same_state, weights
from small_training import BACKBONE, FRAMES, make_features, make_shards
from tiny_vjepa2 import write_vjepa2
from torch import Tensor

from deltactl.cli import main
from deltactl.configs.recipe import RecipeConfig
from deltactl.configs.rgb import RGBConfig, RGBNetworkConfig
from deltactl.errors import ArtifactError, CheckpointError, ConfigError, DamagedError, DeltactlError, IdentityError
from deltactl.evaluate.protocol.networks import read_rgb_head
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pictures.clip_frames import clip_frames, views_of
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.recipes.run import plan_recipe
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.loading import load, read
from deltactl.train.data.live import live_pool
from deltactl.train.data.order import ClipOrder
from deltactl.train.data.rgb_data import StoreFrames
from deltactl.train.data.selection import select
from deltactl.train.data.validation import InOrder
from deltactl.train.networks.losses import psnr
from deltactl.train.networks.rgb_head import RGB, RGBHead
from deltactl.train.run import train

SMALL: dict[str, Any] = {"width": 64, "depth": 1, "heads": 2, "mlp_width": 96}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("rgb") / "shards")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of six clips."""
    return make_shards(tmp_path_factory.mktemp("rgb") / "few", units=2, clips=3)


@pytest.fixture(scope="module")
def store(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two random views of each clip, some of them mirrored."""
    return make_features(shards, tmp_path_factory.mktemp("rgb") / "features", views="2")


@pytest.fixture(scope="module")
def trained(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned something."""
    out = tmp_path_factory.mktemp("rgb") / "run"
    train(config(store, out, steps=150, validate_every=150, warmup_steps=10), "rgb")
    return out


def config(store: str, out: Path, **changes: Any) -> RGBConfig:
    """Return the settings of a head of width 64 and depth 1."""
    values = {
        **{"data": store, "out": str(out), "network": SMALL, "steps": 10, "batch_size": 8, "effective_batch": 8},
        **{"lr": 3e-3, "warmup_steps": 5, "log_every": 5, "validate_every": 5, "last_every": 5},
        **{"validation_fraction": 0.2, "wandb": "disabled"},
    }
    return RGBConfig(**{**values, **changes})


def everything(store: str, shards: str) -> tuple[FeatureStore, StoreFrames]:
    """Return a store, and what reads each of its samples once, in order."""
    opened = FeatureStore.open(store)
    chosen, _ = select(opened, 0, apart=True)
    return opened, StoreFrames(opened, RandomAccess(ShardSet.open(shards)), chosen, InOrder(), 0, live_pool(2))


def column(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "made"),
    [
        ("2", {}),
        ("2", {"flip": 1.0}),
        ("2", {"crops": "square"}),
        ("1", {"crops": "whole", "size": "64x96"}),
    ],
    ids=["random", "mirrored", "square", "whole"],
)
def test_targets_are_the_pixels_that_the_backbone_saw(
    few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: str, made: dict[str, Any]
) -> None:
    seen: set[bytes] = set()
    forward = Backbone.forward

    def look(self: Backbone, clip: Tensor) -> Tensor:
        seen.update(frame.numpy().tobytes() for frame in clip.reshape(-1, *clip.shape[-3:]))
        return forward(self, clip)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "forward", look)
        store, source = everything(make_features(few, tmp_path / "features", views, **made), few)
    batch = source.start(np.arange(len(store), dtype=np.int64))()
    assert batch.pixels is not None
    assert all(frame.numpy().tobytes() in seen for frame in batch.pixels)
    features = Backbone.load(str(BACKBONE), "cpu")(batch.pixels)
    torch.testing.assert_close(batch.data[:, 0].float(), features, atol=5e-3, rtol=5e-3)
    flipped = {view.flip for view in views_of(store, range(len(store)))}
    assert flipped == ({True} if made.get("flip") else {False} if "crops" in made else {True, False})


def test_square_crops_of_clips_that_have_one_view_only_train_too(tmp_path: Path) -> None:
    """A square frame has no second square crop; the clip is there under the first."""
    shards = make_shards(tmp_path / "shards", units=1, clips=4)
    store = FeatureStore.open(make_features(shards, tmp_path / "features", "2", crops="square"))
    store._view, store._unit, store._row = (column[:-3] for column in store.origins)  # three second crops less
    train_, held = select(store, 0, apart=True)
    assert (train_.clips, held.clips) == (5, 0)
    assert sorted(train_.samples[0].tolist()) == list(range(5))
    assert select(store, 0)[0].clips == 1


def test_every_frame_of_every_view_comes_once_in_as_many_epochs_as_a_clip_has_frames(store: str, shards: str) -> None:
    opened = FeatureStore.open(store)
    chosen, _ = select(opened, 0, apart=True)
    access = RandomAccess(ShardSet.open(shards))
    source = StoreFrames(opened, access, chosen, ClipOrder(chosen.shard_sizes, 3), 3, live_pool(1))
    frames = source.frames(np.arange(len(opened) * FRAMES, dtype=np.int64))
    assert sorted(frames) == [(sample, frame) for sample in range(len(opened)) for frame in range(FRAMES)]
    assert {sample for sample, _ in frames[: len(opened)]} == set(range(len(opened)))


def test_of_several_frames_in_a_step_the_last_one_is_the_target(few: str, tmp_path: Path) -> None:
    backbone = str(write_vjepa2(tmp_path / "vjepa2"))
    store, source = everything(make_features(few, tmp_path / "features", "2", backbone=backbone), few)
    assert store.frames == FRAMES // 2
    access = RandomAccess(ShardSet.open(few))
    places = np.arange(len(store), dtype=np.int64)
    pixels = source.start(places)().pixels
    assert pixels is not None
    for (sample, step), target in zip(source.frames(places), pixels, strict=True):
        found = clip_frames(store, access, sample)
        assert found is not None
        assert found[1] is not None
        shown = torch.from_numpy(np.ascontiguousarray(found[1][step])).permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(shown, (64, 64), mode="bilinear")[0]
        assert (resized.int() - target.int()).abs().max() <= 1  # mirrored before it is resized, not after
    result = train(config(str(store.root), tmp_path / "run", steps=2), "rgb")
    assert result.step == 2
    assert load(str(tmp_path / "run"), RGB).config.patch_size == 8


def test_a_frame_that_cannot_be_decoded_is_named(store: str, shards: str, tmp_path: Path) -> None:
    opened, source = everything(store, shards)
    broken = Path(shutil.copytree(shards, tmp_path / "shards"))
    tar = broken / "000000.tar"
    data = bytearray(tar.read_bytes())
    start = data.find(b"\xff\xd8\xff")
    while start >= 0:
        data[start : start + 200] = bytes(200)
        start = data.find(b"\xff\xd8\xff")
    tar.write_bytes(data)
    damaged = StoreFrames(
        opened, RandomAccess(ShardSet.open(str(broken))), source._selection, InOrder(), 0, live_pool(1)
    )
    with pytest.raises(DamagedError, match="frame . of clip .* of shard 000000 cannot be used: .*deltactl verify"):
        damaged.start(np.arange(4, dtype=np.int64))()


# --- what is learned -------------------------------------------------------------------------------------------------


def test_pictures_come_nearer_to_the_frames_than_their_mean_colour(trained: Path, store: str, shards: str) -> None:
    losses = column(trained, "train/loss")
    assert losses[-1] < 0.4 * losses[0]
    (near,), (plain,) = column(trained, "validation/psnr"), column(trained, "validation/plain_psnr")
    assert near > plain + 4
    head = RGBHead.from_pretrained(trained)
    _, source = everything(store, shards)
    batch = source.start(np.arange(16, dtype=np.int64))()
    assert batch.pixels is not None
    frames = batch.pixels.float() / 255
    with torch.no_grad():
        features = batch.data[:, 0].float().mT.unflatten(-1, (4, 4))
        pictures = head(features, Backbone.load(str(BACKBONE), "cpu")).clamp(0, 1)
    mean = frames.mean((2, 3), keepdim=True).expand_as(frames)
    assert psnr(pictures, frames).mean() > psnr(mean, frames).mean() + 4
    assert psnr(pictures, frames).mean() > psnr(pictures.flip(3), frames).mean() + 4


def test_psnr_is_that_of_values_from_0_to_1() -> None:
    frames = torch.full((2, 3, 4, 4), 0.5)
    others = torch.stack((frames[0] + 0.1, frames[1]))
    assert psnr(others, frames).tolist() == pytest.approx([20.0, 100.0])


def test_held_out_videos_share_no_frame_with_those_that_train(store: str) -> None:
    opened = FeatureStore.open(store)
    sources = [
        {opened.keys[sample].rpartition("-")[0] for sample in part.samples[0]}
        for part in select(opened, 0.3, apart=True)
    ]
    assert sources[0]
    assert sources[1]
    assert not sources[0] & sources[1]


def test_a_run_loads_wherever_a_head_is_asked_for(trained: Path, tmp_path: Path) -> None:
    """Its attention heads are two, which the weights do not tell: they show four."""
    export(trained, tmp_path / "export")
    places = [trained, trained / "pytorch_model.bin", tmp_path / "export"]
    places += [tmp_path / "export" / name for name in ("model.safetensors", "pytorch_model.bin")]
    for place in places:
        found = read(place)
        assert (found.kind, found.config.heads, found.config.grid, found.config.mlp_width) == (RGB, 2, 4, 96)
        assert found.content_hash == read(trained).content_hash
    assert json.loads((tmp_path / "export" / "config.json").read_text())["deltactl"]["config"]["heads"] == 2
    backbone = Backbone.load(str(BACKBONE), "cpu")
    head = read_rgb_head(str(trained), str(BACKBONE), backbone.family, backbone.facts)
    assert head.content_hash == read(trained).content_hash
    assert RGBHead.from_pretrained(trained).backbone_hash == backbone.content_hash


def test_a_head_of_other_patches_is_refused(trained: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(write_vjepa2(tmp_path / "vjepa2", hidden_size=128, num_attention_heads=2), "cpu")
    with pytest.raises(CheckpointError, match="makes patches of 16 pixels, but those of the backbone .* have 8"):
        read_rgb_head(str(trained), backbone.name, backbone.family, backbone.facts)


def test_behind_a_norm_that_is_not_known_a_head_undoes_nothing_and_serves_that_backbone_alone(
    few: str, trained: Path, tmp_path: Path
) -> None:
    name = f"{BACKBONE}?layers=1&norm=off"
    store = make_features(few, tmp_path / "features", backbone=name)
    train(config(store, tmp_path / "run", steps=2), "rgb")
    backbone = Backbone.load(name, "cpu")
    assert (backbone.norm_weight == 1).all()
    assert (backbone.norm_bias == 0).all()
    assert not backbone.facts.can_be_undone
    head = read_rgb_head(str(tmp_path / "run"), name, backbone.family, backbone.facts).load()
    assert head(torch.zeros(1, 128, 4, 4), backbone).shape == (1, 3, 64, 64)
    with pytest.raises(CheckpointError, match="has none that is known; .* train one for it: deltactl train rgb"):
        read_rgb_head(str(trained), name, backbone.family, backbone.facts)


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_weights(store: str, tmp_path: Path) -> None:
    train(config(store, tmp_path / "whole"), "rgb")
    stopped = train(config(store, tmp_path / "parts"), "rgb", [Interrupt(5)])
    assert (stopped.stopped, stopped.step) == (True, 6)
    result = train(config(store, tmp_path / "parts", resume="auto"), "rgb")
    assert (result.step, result.stopped) == (10, False)
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert column(tmp_path / "whole", "validation/psnr") == column(tmp_path / "parts", "validation/psnr")


def test_sizes_follow_the_width_the_store_and_the_checkpoint_to_start_from(
    trained: Path, store: str, tmp_path: Path
) -> None:
    plain = {"network": {"width": 128, "depth": 1}, "steps": 1}
    train(config(store, tmp_path / "new", **plain), "rgb")
    found = load(str(tmp_path / "new"), RGB).config
    assert (found.heads, found.mlp_width, found.grid, found.patch_size, found.dim) == (2, 512, 4, 16, 128)
    train(config(store, tmp_path / "more", network={}, init=str(trained), steps=1, lr=1e-12), "rgb")
    before, after = load(str(trained), RGB), load(str(tmp_path / "more"), RGB)
    assert after.config == before.config
    torch.testing.assert_close(after.state_dict(), before.state_dict())
    with pytest.raises(CheckpointError, match="is another network: depth 1 there, 2 here"):
        train(config(store, tmp_path / "other", network={"depth": 2}, init=str(trained), steps=1), "rgb")
    wide = {"network": {"width": 192, "depth": 1}, "steps": 1}
    train(config(store, tmp_path / "wide", **wide), "rgb")  # with three heads, which do not divide the width below
    narrow = config(store, tmp_path / "narrow", **{**plain, "init": str(tmp_path / "wide")})
    refused(CheckpointError, "is another network: .*width 192 there, 128 here", narrow)
    with pytest.raises(ValueError, match="heads is 3; expected a divisor of the width, 64"):
        RGBNetworkConfig(width=64, heads=3)
    assert RGBNetworkConfig(width=256).heads == 6, "which gives way to the width"


def test_frames_that_are_no_squares_have_positions_of_their_longer_side(few: str, tmp_path: Path) -> None:
    store = make_features(few, tmp_path / "features", crops="whole", size="64x96")
    train(config(store, tmp_path / "run", steps=2), "rgb")
    assert load(str(tmp_path / "run"), RGB).config.grid == 6


def test_clips_that_are_left_out_neither_train_nor_validate(store: str, tmp_path: Path) -> None:
    keys = FeatureStore.open(store).keys
    (tmp_path / "clips.txt").write_text(f"{keys[0]}\n{keys[1]}\n")
    train(config(store, tmp_path / "run", steps=1, where=str(tmp_path / "clips.txt")), "rgb")
    data = read(tmp_path / "run").provenance["data"]
    assert data["training_crops"] + data["held_out_crops"] == len(keys) - 4
    with pytest.raises(IdentityError, match="it left out clips"):
        train(config(store, tmp_path / "run", steps=2, resume="auto"), "rgb")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokens(store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    from small_runs import tokens_of

    return tokens_of(store, tmp_path_factory.mktemp("rgb") / "tokens")


def refused(error: type[DeltactlError], match: str, settings: RGBConfig) -> None:
    with pytest.raises(error, match=match):
        train(settings, "rgb")


def test_what_holds_no_features_is_refused(tokens: str, shards: str, tmp_path: Path) -> None:
    refused(ConfigError, "holds tokens; expected features", config(tokens, tmp_path / "run"))
    refused(ConfigError, "holds shards; expected features", config(shards, tmp_path / "run"))
    refused(ArtifactError, "expected features", config(str(tmp_path / "none"), tmp_path / "run"))
    nowhere = config(shards, tmp_path / "run", data=None)
    refused(ConfigError, "nothing to train from in the workspace; expected features", nowhere)


def test_shards_must_be_there_and_those_of_the_store(store: str, few: str, tmp_path: Path) -> None:
    other = make_shards(tmp_path / "other", units=1)
    refused(IdentityError, "was not made from .*other", config(store, tmp_path / "run", shards=other))
    refused(ArtifactError, "does not exist", config(store, tmp_path / "run", shards=str(tmp_path / "none")))
    moved = shutil.copytree(few, tmp_path / "shards")
    copy = make_features(str(moved), tmp_path / "features")
    moved = moved.rename(tmp_path / "moved")
    gone = config(copy, tmp_path / "run", steps=1)
    refused(ConfigError, "the shards that hold them are not at .*shards any more; name them: --shards DIR", gone)
    result = train(config(copy, tmp_path / "run", steps=1, shards=str(moved)), "rgb")
    assert result.step == 1


def test_a_store_made_straight_from_videos_says_that_it_has_no_frames(
    tmp_path: Path, videos_store: Callable[[Path], str]
) -> None:
    straight = videos_store(tmp_path)
    refused(ConfigError, "straight from videos, which keeps no frames", config(straight, tmp_path / "run"))


@pytest.fixture
def videos_store() -> Callable[[Path], str]:
    """Return what makes a feature store straight from a video."""
    from videos import make_video

    from deltactl.configs.featurize import FeaturizeConfig
    from deltactl.featurize.run import run as featurize

    def make(folder: Path) -> str:
        (folder / "videos").mkdir()
        make_video(folder / "videos" / "one.mp4", frames=30, rate=10)
        values = {"backbone": str(BACKBONE), "size": 64, "device": "cpu", "workers": 0}
        featurize(FeaturizeConfig(shards=(str(folder / "videos"),), out=str(folder / "straight"), **values))
        return str(folder / "straight")

    return make


def test_the_backbone_must_be_the_one_behind_the_store(few: str, tmp_path: Path) -> None:
    own = Path(shutil.copytree(BACKBONE, tmp_path / "backbone"))
    store = make_features(few, tmp_path / "features", backbone=str(own))
    weights_file = own / "model.safetensors"
    tensors = load_file(weights_file)
    save_file({**tensors, "norm.weight": tensors["norm.weight"] * 1.5}, weights_file, {"format": "pt"})
    refused(ConfigError, "has the content hash .* name that one with --backbone", config(store, tmp_path / "run"))
    shutil.rmtree(own)
    refused(CheckpointError, "does not exist.*name it with --backbone", config(store, tmp_path / "run"))
    again = config(store, tmp_path / "run", steps=1, backbone=str(BACKBONE))
    assert train(again, "rgb").step == 1


def test_a_norm_that_cannot_be_undone_is_refused(few: str, tmp_path: Path) -> None:
    own = Path(shutil.copytree(BACKBONE, tmp_path / "backbone"))
    tensors = load_file(own / "model.safetensors")
    tensors["norm.weight"][:2] = 0
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    store = make_features(few, tmp_path / "features", backbone=str(own))
    refused(ConfigError, "has 2 weights of 0, which an RGB head cannot undo", config(store, tmp_path / "run"))


def test_evaluation_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="heads are validated on held-out videos"):
        RGBConfig(evaluate=("vspw",))


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command_trains_and_goes_on(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path))
    small = ["--width", "64", "--depth", "1", "--batch-size", "4", "--set", "effective_batch=4"]
    assert main(["train", "rgb", store, *small, "--steps", "2", "--set", "wandb=disabled"]) == 0
    said = capsys.readouterr()
    run = tmp_path / "runs" / "rgb-features"
    assert f"{run}: 2 steps done; validation/loss" in said.out
    assert "published recipe" not in said.err
    assert main(["train", "rgb", store, "--steps", "3", "--resume", "auto", "--out", str(run)]) == 0
    assert "3 steps done" in capsys.readouterr().out
    assert main(["train", "rgb", store, *small]) == 1
    assert "holds a run already; go on with --resume auto" in capsys.readouterr().err
    assert main(["info", str(run)]) == 0
    assert "RGB head" in capsys.readouterr().out


def test_a_recipe_has_steps_that_train_rgb_heads(store: str, tokens: str, tmp_path: Path) -> None:
    steps = {"pictures": {"run": "rgb", "config": "demo-rgb", "data": store}}
    (planned,) = plan_recipe(RecipeConfig(steps=steps))  # type: ignore[arg-type]
    assert planned.words[:3] == ("train", "rgb", store)
    assert (planned.state, planned.problem) == ("to do", "")
    (wrong,) = plan_recipe(RecipeConfig(steps={"pictures": {"run": "rgb", "data": tokens}}))  # type: ignore[arg-type]
    assert "holds tokens; expected features" in wrong.problem
