"""V-JEPA 2: features are the library's own, at any size, and a step of a store is two frames."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from programs import caller, succeeding
from read_back import store_reads_back
from safetensors.torch import load_file, save_file
from small_training import make_shards
from tiny_vjepa2 import library_model, normalised, write_vjepa2
from transformers import VJEPA2Config, VJEPA2ForVideoClassification
from videos import make_video

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.known import data_set
from deltactl.datasets.listing import frames_until
from deltactl.datasets.record import LabelledSet
from deltactl.errors import CheckpointError, ConfigError, SourceError
from deltactl.evaluate.predict.context import ReadTask, Wanted, choose_moments, read_context
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.backbones.known import outline_of, read_facts
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.featurize.views import training_view
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.images import decode_frame_file
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import Location
from deltactl.recipes.work import NetworkSizes
from deltactl.train.checkpoints.loading import read
from deltactl.train.data.heads_data import LabelledCrops, labelled_crops
from deltactl.train.data.live import LiveClips
from deltactl.train.data.selection import select
from deltactl.train.data.validation import InOrder
from deltactl.train.steps.frozen import Frozen

SIZE, STEPS = 64, 2
TREES = Path(__file__).parents[1] / "trees"
SMALL = [
    *("wandb=disabled", "warmup_steps=2", "log_every=2", "effective_batch=4", "batch_size=4", "steps=4"),
    *("validate_every=4", "checkpoint_every=4", "validation_fraction=0.2", "network.depth=1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    return write_vjepa2(tmp_path_factory.mktemp("models") / "vjepa2")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Clips of four frames."""
    return make_shards(tmp_path_factory.mktemp("shards") / "shards", clips=6)


def clip_of(height: int, width: int, frames: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, frames, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [64, 48])
@torch.no_grad()
def test_the_features_of_a_square_are_the_librarys(folder: Path, size: int) -> None:
    backbone, clip = Backbone.load(folder, "cpu"), clip_of(size, size)
    library = library_model(folder, crop_size=size)
    features = backbone(clip)
    assert features.shape == (2, STEPS, (size // 8) ** 2, 48)
    for step in range(STEPS):  # the frames of each step by themselves
        pixels = normalised(clip[:, 2 * step : 2 * step + 2])
        theirs = library(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
        assert (features[:, step] - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    whole = library(pixel_values_videos=normalised(clip), skip_predictor=True).last_hidden_state
    ours = backbone.network(clip).flatten(1, 2)
    assert (ours - whole).abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.parametrize(
    ("options", "numbers", "normed"), [("?layers=1", [0], True), ("?layers=2,1&norm=off", [1, 0], False)]
)
@torch.no_grad()
def test_chosen_layers_are_the_outputs_of_their_blocks(
    folder: Path, options: str, numbers: list[int], normed: bool
) -> None:
    backbone, clip = Backbone.load(f"{folder}{options}", "cpu"), clip_of(64, 64, frames=2)
    library = library_model(folder, crop_size=64)
    outputs: list[torch.Tensor] = []
    for layer in library.encoder.layer:
        layer.register_forward_hook(lambda module, arguments, output: outputs.append(output[0]))
    library(pixel_values_videos=normalised(clip), skip_predictor=True)
    chosen = [library.encoder.layernorm(outputs[number]) if normed else outputs[number] for number in numbers]
    expected = torch.cat(chosen, dim=-1)
    assert backbone.dim == 48 * len(numbers)
    assert (backbone(clip)[:, 0] - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert backbone.content_hash != read_facts(str(folder)).content_hash
    with pytest.raises(ConfigError, match="has 2 layers; layers 3 are not there: choose from 1 to 2"):
        read_facts(f"{folder}?layers=3")


@torch.no_grad()
def test_the_features_of_a_rectangle_are_those_of_its_own_rows_and_columns(folder: Path) -> None:
    backbone, clip = Backbone.load(folder, "cpu"), clip_of(24, 64, frames=2)
    library = library_model(folder, crop_size=64)  # 8 x 8 patches, of which these are the first three rows
    numbers = torch.arange(24)[None]
    hidden = library.encoder.embeddings(normalised(clip))
    for layer in library.encoder.layer:
        hidden, _ = layer(hidden, numbers)
    theirs = library.encoder.layernorm(hidden)
    assert (backbone(clip)[:, 0] - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    tall = backbone(clip_of(64, 24, frames=2))
    assert tall.shape == (2, 1, 24, 48)


@torch.no_grad()
def test_a_changed_patch_changes_its_own_cell_most_and_no_other_step(folder: Path) -> None:
    backbone, clip = Backbone.load(folder, "cpu"), clip_of(32, 48, frames=6)
    changed = clip.clone()
    changed[:, 3, :, 16:24, 32:40] = 255 - changed[:, 3, :, 16:24, 32:40]  # row 2, column 4 of step 1
    change = (backbone(changed) - backbone(clip)).norm(dim=-1)
    assert change[:, [0, 2]].abs().max() == 0
    assert change[:, 1].argmax(dim=-1).tolist() == [2 * 6 + 4] * 2


@torch.no_grad()
def test_a_step_has_the_same_features_among_whatever_others(folder: Path) -> None:
    backbone, clip = Backbone.load(folder, "cpu"), clip_of(32, 48, frames=6)
    together = backbone(clip)
    alone = torch.cat([backbone(clip[:, start : start + 2]) for start in (0, 2, 4)], dim=1)
    assert torch.allclose(together, alone, atol=1e-5)
    black = backbone.black_features(32, 48)
    assert torch.allclose(black, backbone(torch.zeros(1, 2, 3, 32, 48, dtype=torch.uint8))[0, 0])


@pytest.mark.parametrize("size", [(64, 64), (24, 56)], ids=str)
def test_a_store_reads_back_as_computed(folder: Path, size: tuple[int, int], tmp_path: Path) -> None:
    store_reads_back(folder, size, tmp_path)


def test_what_is_no_whole_step_is_refused_with_both_numbers(folder: Path) -> None:
    backbone = Backbone.load(folder, "cpu")
    with pytest.raises(ValueError, match=r"\(2, 3, 3, 32, 32\); .* makes one step from 2 frames: .* a multiple of 2"):
        backbone(clip_of(32, 32, frames=3))
    with pytest.raises(ValueError, match="makes one step from 2 frames"):
        backbone(clip_of(32, 32)[:, 0])


def test_the_predictor_is_no_part_of_the_backbone_and_all_else_is(folder: Path, tmp_path: Path) -> None:
    facts = read_facts(str(folder))
    assert (facts.dim, facts.patch_size, facts.frames_per_step, facts.depth) == (48, 8, 2, 2)
    weights = load_file(folder / "model.safetensors")

    def copy(name: str, kept: dict[str, torch.Tensor]) -> Path:
        place = tmp_path / name
        place.mkdir()
        for file in ("config.json", "video_preprocessor_config.json"):
            (place / file).write_bytes((folder / file).read_bytes())
        save_file(kept, place / "model.safetensors", {"format": "pt"})
        return place

    bare = copy("bare", {name: each for name, each in weights.items() if name.startswith("encoder.")})
    assert len(weights) > len(load_file(bare / "model.safetensors"))
    assert read_facts(str(bare)).content_hash == facts.content_hash
    clip = clip_of(32, 32)
    assert torch.equal(Backbone.load(bare, "cpu")(clip), Backbone.load(folder, "cpu")(clip))
    torn = copy("torn", {name: each for name, each in weights.items() if "layer.1.mlp.fc1" not in name})
    with pytest.raises(CheckpointError, match=r"missing parameters \(2\): encoder.layer.1.mlp.fc1.bias"):
        Backbone.load(torn, "cpu")
    more = copy("more", {**weights, "encoder.other.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"unexpected parameters \(1\): encoder.other.weight"):
        Backbone.load(more, "cpu")


def test_a_plan_counts_the_work_of_a_step(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    outline = outline_of(str(folder))
    assert (outline.dim, outline.patch_size, outline.frames_per_step) == (48, 8, 2)
    products = 64 * 48 * 3 * 2 * 64 + 2 * (64 * 48 * 48 * 4 + 2 * 64 * 64 * 48 + 2 * 64 * 48 * 192)
    assert NetworkSizes(FrameSize(SIZE, SIZE), outline).backbone_flops() == pytest.approx(2 * products, rel=0.05)
    code, out, error = caller(capsys)("plan", "--backbone", str(folder), "--size", "64")
    assert code == 0, error
    assert "4,288,000 clips of 16 frames" in out
    assert f"{4_288_000 * 8 * 64 * 48 * 2 / 1e9:.0f} GB" in out  # eight steps of features
    assert outline_of("facebook/vjepa2-vitl-fpc64-256").dim == 1024


def test_clips_of_broken_steps_are_refused_before_work_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shards: str
) -> None:
    odd = write_vjepa2(tmp_path / "odd", tubelet_size=3)
    code, _, error = caller(capsys)("featurize", shards, "--backbone", str(odd), "--out", str(tmp_path / "features"))
    assert code == 1
    assert f"{shards} holds clips of 4 frames" in error
    assert "one step of features from 3 frames" in error
    assert not (tmp_path / "features").exists()


def test_the_whole_way_from_shards_to_a_world_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path, shards: str
) -> None:
    call, done = caller(capsys), succeeding(capsys)

    def place(name: str) -> str:
        return str(tmp_path / name)

    small = [word for each in SMALL for word in ("--set", each)]
    ours = ["--backbone", str(folder), "--size", str(SIZE), "--device", "cpu"]
    assert "frames per step" in done("info", str(folder))
    done("featurize", shards, *ours, "--out", place("features"))
    done("featurize", shards, *ours, "--batch-size", "2", "--out", place("twos"))
    code, _, error = call("featurize", shards, *ours, "--batch-size", "3", "--out", place("threes"))
    assert code == 1
    assert "--batch-size is 3 frames" in error

    with FeatureStore.open(place("features")) as store, FeatureStore.open(place("twos")) as twos:
        assert (store.frames, store.dim, store.grid) == (STEPS, 48, (8, 8))
        assert store.identity == twos.identity
        clip = next(iter(ShardSet.open(shards).read("000000")))
        images = [decode_frame_file(data, "frame") for data in clip.frames]
        shown = training_view(store.identity.integer("seed"), clip.key, 0, *images[0].shape[:2])
        box = shown.crop
        cut = [image[box.top : box.top + box.height, box.left : box.left + box.width] for image in images]
        pixels = crop_resize(torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2), shown.of_cut, FrameSize(SIZE, SIZE))
        expected = Backbone.load(folder, "cpu")(pixels[None])[0].half()
        found = store.start_clips([store.find(clip.key, 0)]).result()[0]
        other = twos.start_clips([twos.find(clip.key, 0)]).result()[0]
        assert torch.allclose(found.float(), expected.float(), atol=2e-3)
        assert torch.allclose(other.float(), expected.float(), atol=2e-3)
        black = Backbone.load(folder, "cpu").black_features(SIZE, SIZE)
        assert torch.equal(store.black, black)

    done("train", "tokenizer", place("features"), "--out", place("tokenizer"), *small)
    assert read(place("tokenizer")).config.width == 48
    tokenizer = ["--tokenizer", place("tokenizer")]
    done("tokenize", place("features"), *tokenizer, "--out", place("tokens"), "--device", "cpu")
    done("tokenize", shards, *tokenizer, *ours, "--out", place("tokens from shards"))
    with TokenStore.open(place("tokens")) as one, TokenStore.open(place("tokens from shards")) as other:
        assert (one.frames, one.dim) == (other.frames, other.dim) == (STEPS, 48)
        assert one.identity == other.identity
    world = [*small, "--set", "network.width=64", "--set", "queries=4"]
    done("train", "world", place("tokens"), "--out", place("world"), *world)
    done("train", "tokenizer", shards, *ours[:4], "--out", place("live"), *small)
    done("train", "world", shards, *ours[:4], *tokenizer, "--out", place("live world"), *world)

    networks = [*tokenizer, "--world", place("world")]
    root = ["--dataset", "vspw", "--root", str(TREES / "VSPW")]
    done("ingest", str(TREES / "VSPW"), *root[:2], "--frames", "1", "--size", str(SIZE), "--out", place("singles"))
    code, _, error = call("featurize", place("singles"), *ours, "--out", place("of singles"))
    assert code == 1
    assert "holds 1 frame for each step, but backbone" in error
    assert error.rstrip().endswith("run ingest with --frames-per-step 2")
    evaluated = [*root, *ours, *networks, "--samples", "2"]
    done("eval", *evaluated, "--out", place("report"))
    done("eval", *evaluated, "--no-cache", "--out", place("streamed"))
    kept, streamed = (json.loads(Path(place(name), "metrics.json").read_text()) for name in ("report", "streamed"))
    assert len(kept["rows"]) > 4
    for one, other in zip(kept["rows"], streamed["rows"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    Path(place("frames")).mkdir()
    for number in range(10):
        frame = np.full((72, 96, 3), (40, 90, 200), np.uint8)
        frame[16:48, 8 * number : 8 * number + 30] = 250
        cv2.imwrite(place(f"frames/frame_{0.1 * number:.1f}.png"), frame)
    asked = [*networks, *ours, "--samples", "2", "--context", "3", "--horizon", "2", "--stride", "0.2", "--at", "0.5"]
    done("predict", place("frames"), *asked, "--out", place("futures"))
    header = json.loads(Path(place("futures"), "artifact.json").read_text())
    assert header["identity"]["context_times"] == pytest.approx([0.1, 0.3, 0.5])
    with np.load(Path(place("futures"), "features.npz")) as file:
        found = {name: file[name] for name in file.files}
    assert {array.shape[-1] for array in found.values() if array.ndim >= 3} == {48}


def test_a_head_learns_the_labels_of_the_last_frames_of_steps(tmp_path: Path, folder: Path) -> None:
    place, features = str(tmp_path / "shards"), str(tmp_path / "features")
    source = str(TREES / "VSPW")
    settings = IngestConfig(dataset="vspw", source=source, split="val", size=64, frames=3, frames_per_step=2)
    run_ingest(settings.model_copy(update={"out": place, "workers": 0}))
    featurize(FeaturizeConfig(shards=place, backbone=str(folder), size=64, out=features, device="cpu", workers=0))
    clips = RandomAccess(ShardSet.open(place))
    with FeatureStore.open(features) as store:
        assert store.frames == 3
        crops = labelled_crops(clips, store)
        labelled = {frame for unit in clips.shards.units for _, frame in clips.labels(unit)}
        assert labelled == {1, 3, 5}
        assert {(crop.frame, crop.step) for crop in crops} == {(1, 0), (3, 1), (5, 2)}
        batch = LabelledCrops("vspw", store, clips, crops, InOrder()).start(np.arange(3))()
        for number, crop in enumerate(crops[:3]):
            whole = store.start_clips([crop.sample]).result()[0]
            assert torch.equal(batch.data[number, 0], whole[crop.step])


@torch.no_grad()
def test_predict_gives_the_backbone_whole_steps_that_end_on_their_moment(tmp_path: Path) -> None:
    video = make_video(tmp_path / "street.mp4", frames=60, rate=30)
    frames = read_context(ReadTask(video, Wanted(3, 2, 0.2, 1.0, 2), "whole", FrameSize(96, 96), 16))
    assert frames.moments.context == (18, 24, 30)
    assert frames.moments.truth == (36, 42)
    assert frames.moments.earlier == ((15,), (21,), (27,), (33,), (39,))  # half of the frames between
    assert frames.steps.shape[:2] == (5, 2)
    assert np.array_equal(frames.steps[:, 1], frames.pixels)
    plain = read_context(ReadTask(video, Wanted(3, 2, 0.2, 0.9, 1), "whole", FrameSize(96, 96), 16))
    assert np.array_equal(frames.steps[:, 0], plain.pixels)
    assert np.array_equal(plain.steps[:, 0], plain.pixels)
    with pytest.raises(SourceError, match=r"has 0.4 s before --at; 3 steps of 2 frames 0.2 s apart need 0.5 s"):
        choose_moments(np.arange(60) / 30, Wanted(3, 2, 0.2, 0.4, 2))


@pytest.mark.parametrize("key", ["image_mean", "image_std"])
def test_a_normalisation_that_makes_no_sense_names_its_file(tmp_path: Path, key: str) -> None:
    folder = write_vjepa2(tmp_path / "vjepa2")
    file = folder / "video_preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: 3}))
    with pytest.raises(CheckpointError, match=f"{key} in video_preprocessor_config.json is 3"):
        Backbone.load(folder, "cpu")


@pytest.mark.parametrize(("name", "tree"), [("vspw", "VSPW"), ("cityscapes", "cityscapes"), ("kitti", "kitti")])
def test_steps_of_evaluation_sets_end_where_single_frames_are(name: str, tree: str) -> None:
    """The frames of a step are spread over the time since the step before, and only the last is labelled."""
    root, record = TREES / tree, data_set(name)
    split_file = Location.of(next(root.glob("*.txt"))) if name == "kitti" else None
    options: dict[str, Any] = {"split_file": split_file}
    assert isinstance(record, LabelledSet)
    singles = record.listing(Location.of(root), split="val", frames=7, **options).clips
    steps = record.listing(Location.of(root), split="val", frames=7, frames_per_step=2, **options).clips
    assert len(singles) > 1
    assert [clip.key for clip in steps] == [clip.key for clip in singles]
    for single, several in zip(singles, steps, strict=True):
        assert several.indices[1::2] == single.indices
        assert several.frames[1::2] == single.frames
        assert several.indices[::2] == tuple(index - 1 for index in single.indices)
        assert [label.frame for label in several.labels] == [2 * label.frame + 1 for label in single.labels]
        assert [label.paths for label in several.labels] == [label.paths for label in single.labels]


def test_frames_of_a_step_are_spread_evenly() -> None:
    assert frames_until(12, 2, 6, 3) == (2, 4, 6, 8, 10, 12)
    assert frames_until(6, 2, 3, 2) == (2, 3, 5, 6)
    assert frames_until(6, 2, 3) == (3, 6)
    with pytest.raises(ValueError, match="2 frames, 6 apart with the 2 before each, cannot end on frame 9"):
        frames_until(9, 2, 6, 3)


@pytest.mark.parametrize("rate", [15.0, 25.0, 10.0])
def test_predict_takes_the_frames_of_a_step_that_an_evaluation_takes(rate: float) -> None:
    times, step = np.arange(80) / rate, int(0.2 * rate)
    for at in (2.0, None):
        moments = choose_moments(times, Wanted(4, 3, 0.2, at, 2))
        lasts = (*moments.context, *moments.truth)
        assert {after - before for before, after in itertools.pairwise(lasts)} == {step}
        assert {last - first for last, (first,) in zip(lasts, moments.earlier, strict=True)} == {step // 2}


@pytest.mark.parametrize("at", [2.0, None])
def test_a_stride_that_leaves_too_few_frames_for_a_step_is_refused(at: float | None) -> None:
    with pytest.raises(SourceError, match="--stride 0.2 leaves 1 frame for a step, which the backbone makes from 2"):
        choose_moments(np.arange(60) / 5, Wanted(4, 3, 0.2, at, 2))


def test_a_step_of_more_frames_than_a_set_has_between_its_moments_is_refused(tmp_path: Path) -> None:
    place = str(tmp_path / "shards")
    config = IngestConfig(
        dataset="kitti", source=str(TREES / "kitti"), size=64, frames_per_step=4, out=place, workers=0
    )
    config = config.model_copy(update={"split_file": str(next((TREES / "kitti").glob("*.txt")))})
    with pytest.raises(ConfigError, match="a step of 4 frames does not fit between moments 2 frames apart; 2 at most"):
        run_ingest(config)


def test_a_store_of_steps_is_drawn_and_told(capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path) -> None:
    shards, features, picture = make_shards(tmp_path / "shards", units=1), tmp_path / "features", tmp_path / "store.png"
    featurize(FeaturizeConfig(shards=shards, backbone=str(folder), size=64, out=str(features), device="cpu", workers=0))
    code, out, error = caller(capsys)("info", str(features), "--picture", str(picture))
    assert code == 0, error
    assert re.search(r"  steps +2\n +frames per step +2\n", out)
    assert cv2.imread(str(picture)).std() > 1


def test_live_training_sees_the_steps_of_a_store(tmp_path: Path, folder: Path, shards: str) -> None:
    """Features and times of clips and of pairs are those of the store with the same seed."""
    features = str(tmp_path / "features")
    featurize(FeaturizeConfig(shards=shards, backbone=str(folder), size=SIZE, out=features, device="cpu", workers=0))
    frozen = Frozen(dtype=torch.float32, backbone=Backbone.load(folder, "cpu"))
    with FeatureStore.open(features) as store:
        access = RandomAccess(ShardSet.open(shards))
        selection, _ = select(access.shards, 0.0)
        clips = LiveClips(
            access,
            selection,
            InOrder(),
            take="clips",
            frames=4,
            size=FrameSize(SIZE, SIZE),
            seed=store.identity.integer("seed"),
            threads=1,
            frames_per_step=2,
        )
        batch = clips.start(np.arange(3))()
        assert batch.data.shape == (3, STEPS, 2, 3, SIZE, SIZE)
        found = frozen.features(batch)
        stored = store.start_clips([0, 1, 2]).result()
        assert torch.equal(found.data, stored.float())
        times = store.times([0, 1, 2])
        assert np.allclose(batch.times, times - times[:, :1], atol=1e-6)


def test_pieces_of_compiled_steps_hold_no_more_than_the_batch(folder: Path) -> None:
    """What is frozen counts steps in both networks: no clip is added to fill a piece up."""
    frozen = Frozen(dtype=torch.float32, backbone=Backbone.load(folder, "cpu"), compiled=True)
    batch = torch.zeros(24, 2, 3, 32, 32, dtype=torch.uint8)
    assert frozen._at_once(batch, 2) == 24
    assert frozen._at_once(torch.zeros(24, 16, 48)) == 24


def test_steps_of_single_frames_are_taken(tmp_path: Path) -> None:
    backbone = Backbone.load(write_vjepa2(tmp_path / "single", tubelet_size=1), "cpu")
    assert backbone(clip_of(32, 48)[:, 0]).shape == (2, 24, 48)


def test_the_encoder_of_a_classifier_is_the_same_backbone(tmp_path: Path, folder: Path) -> None:
    place = tmp_path / "classifier"
    config = VJEPA2Config.from_pretrained(folder, num_labels=3, num_pooler_layers=1)
    model = VJEPA2ForVideoClassification(config)
    model.vjepa2.load_state_dict(library_model(folder).state_dict())
    model.save_pretrained(place)
    (place / "video_preprocessor_config.json").write_bytes((folder / "video_preprocessor_config.json").read_bytes())
    assert read_facts(str(place)).content_hash == read_facts(str(folder)).content_hash
    clip = clip_of(32, 32)
    assert torch.equal(Backbone.load(place, "cpu")(clip), Backbone.load(folder, "cpu")(clip))


def test_a_dry_run_counts_all_frames(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--dataset", "vspw", "--frames", "3", "--frames-per-step", "2", "--size", "64", "--dry-run"]
    code, out, error = caller(capsys)("ingest", str(TREES / "VSPW"), *words, "--out", str(tmp_path / "shards"))
    assert code == 0, error
    assert "clips of 6 frames" in out
