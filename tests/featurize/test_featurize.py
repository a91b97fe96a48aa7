"""Featurize: the features are the backbone's on the decoded frames, views come and go, bad input is quarantined."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import load_file, save_file
from small_shards import evaluation_shards, make_clip, training_shards, write_shards
from small_stores import BACKBONE, contents, flip, other_backbone, run, settings

from deltactl.artifacts import Identity, read_header, read_quarantine, write_sealed
from deltactl.configs.frame_size import FrameSize
from deltactl.errors import ArtifactError, ConfigError, IdentityError, StorageError, TooManyBadError
from deltactl.featurize.backbones import precision
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.loading import choose_decoder, load_computer
from deltactl.featurize.pipeline.compute import Computer, Result
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.pipeline.decode import ClipDecoder
from deltactl.featurize.pipeline.decode_dali import DaliClipDecoder
from deltactl.featurize.pipeline.events import Job, Overflow
from deltactl.featurize.pipeline.fill import Filler
from deltactl.featurize.pipeline.pipeline import Pipeline
from deltactl.featurize.pipeline.read import ShardReader
from deltactl.featurize.plan import default_name
from deltactl.featurize.run import drop, dry_run
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.finish import read_group_file
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.views import view_of_clip
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.images import decode_frame_file
from deltactl.locations import Location
from deltactl.removal import agree


def expected(clip: Clip, view: int, crops: Any, seed: int = 0) -> torch.Tensor:
    """Decode, crop and run the backbone by hand, one clip at a time."""
    frames = torch.from_numpy(np.stack([decode_frame_file(data, "frame") for data in clip.frames]))
    shown = view_of_clip(crops, seed, clip.key, view, *frames.shape[1:3])
    assert shown is not None
    squares = crop_resize(frames.permute(0, 3, 1, 2), shown, FrameSize.of(64))
    features: torch.Tensor = Backbone.load(BACKBONE, "cpu")(squares)
    return features


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_features_are_the_backbones_on_the_decoded_frames(tmp_path: Path, kind: str) -> None:
    shards = training_shards(tmp_path / "shards") if kind == "training" else evaluation_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "store", views="2")
    store = FeatureStore.open(str(tmp_path / "store"))
    assert store.views == (0, 1)
    clips = [clip for unit in shards.units for clip in shards.read(unit)]
    for clip in clips:
        for view in store.views_of(clip.key):
            stored = store.read_clip(clip.key, view)
            wanted = expected(clip, view, "augment" if kind == "training" else "square")
            assert torch.allclose(stored.float(), wanted, rtol=1e-3, atol=1e-3)
            sample = store.find(clip.key, view)
            assert store.times([sample])[0].tolist() == pytest.approx(clip.meta.times)
    assert torch.allclose(store.black, Backbone.load(BACKBONE, "cpu").black_features(64, 64), atol=1e-6)


def test_a_square_evaluation_frame_has_one_view_and_others_two(tmp_path: Path) -> None:
    evaluation_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "store")
    store = FeatureStore.open(str(tmp_path / "store"))
    assert {key: store.views_of(key) for key in dict.fromkeys(store.keys)} == {
        "wide": (0, 1),
        "square": (0,),
        "tall": (0, 1),
        "last": (0, 1),
    }
    with pytest.raises(KeyError):
        store.find("square", 1)
    assert store.crops([store.find("tall", 1)]).tolist() == [[48, 0, 64, 64]]
    assert read_quarantine(Location.of(tmp_path / "store")) == []


def test_plain_zarr_opens_the_store(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1)
    run(tmp_path / "shards", tmp_path / "store")
    group = zarr.open_group(str(tmp_path / "store"), mode="r")["v000/000000"]
    assert group["features"].shape == (3, 3, 16, 128)
    assert group["features"].dtype == np.float16
    assert group["features"].shards == (3, 3, 16, 128)
    assert group["features"].chunks == (1, 1, 16, 128)
    assert group.attrs["keys"] == ["class/video0-0", "class/video0-1", "class/video0-2"]
    assert group.attrs["grid"] == [4, 4]
    assert group.attrs["identity"]["values"]["size"] == 64
    assert group.attrs["provenance"]["batch_size"] == 8
    assert group["clips"][:, -1].tolist() == [1.0, 1.0, 1.0]  # the column `valid`
    assert group["clips"][1, :3].tolist() == [10.0, 10.25, 10.5]
    store = FeatureStore.open(str(tmp_path / "store"))
    assert np.array_equal(group["features"][:], store.read_clips([0, 1, 2]).numpy())
    assert [name for name, _ in zarr.open_group(str(tmp_path / "store/v000"), mode="r").groups()] == ["000000"]


def test_batches_and_processes_do_not_matter(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "one", views="2")
    run(tmp_path / "shards", tmp_path / "again", views="2", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "again")
    run(tmp_path / "shards", tmp_path / "other", views="2", batch_size=5)
    a, b = (FeatureStore.open(str(tmp_path / name)).read_clips(range(12)).float() for name in ("one", "other"))
    assert torch.nn.functional.cosine_similarity(a, b, dim=-1).min() > 0.9999


@pytest.mark.parametrize("damage", [False, True])
def test_dali_decodes_the_same_pixels(tmp_path: Path, damage: bool) -> None:
    pytest.importorskip("nvidia.dali")
    clips = [make_clip(f"clip{number}") for number in range(10)]
    if damage:
        frame = bytearray(clips[4].frames[1])
        table = frame.index(b"\xff\xc4") + 5
        frame[table : table + 16] = b"\xff" * 16  # a Huffman table that cannot be
        clips[4] = replace(clips[4], frames=[clips[4].frames[0], bytes(frame), clips[4].frames[2]])
    write_shards(tmp_path / "shards", [clips, [make_clip("png", frame_format="png"), make_clip("last")]])
    run(tmp_path / "shards", tmp_path / "opencv")
    run(tmp_path / "shards", tmp_path / "dali", decoder="dali")
    with FeatureStore.open(str(tmp_path / "opencv")) as a, FeatureStore.open(str(tmp_path / "dali")) as b:
        assert a.keys == b.keys
        assert ("clip4" in a.keys) is not damage
        assert torch.equal(a.read_clips(range(len(a))), b.read_clips(range(len(b))))
    entries = [read_quarantine(Location.of(tmp_path / name)) for name in ("opencv", "dali")]
    assert entries[0] == entries[1]


def test_a_dali_that_does_not_work_is_told_once_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("nvidia.dali")

    def fail(_: DaliClipDecoder) -> None:
        raise RuntimeError("nvjpeg:\nno such device")

    training_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "opencv")
    monkeypatch.setattr(DaliClipDecoder, "_build", fail)
    run(tmp_path / "shards", tmp_path / "dali", decoder="dali")
    warnings = [message for message in caplog.messages if "DALI" in message]
    assert warnings == ["DALI does not work on cpu, so OpenCV decodes: nvjpeg: no such device"]
    with FeatureStore.open(str(tmp_path / "opencv")) as a, FeatureStore.open(str(tmp_path / "dali")) as b:
        assert torch.equal(a.read_clips(range(6)), b.read_clips(range(6)))
        assert read_group_file(b.root, 0, "000000").provenance["decoder"] == "opencv"


def test_dali_is_chosen_for_jpegs_on_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    config = settings(tmp_path, tmp_path)
    assert choose_decoder(config, "cuda:1", "augment") == "dali"
    assert choose_decoder(config, "cuda:1", "square") == "opencv"
    assert choose_decoder(config, "cpu", "augment") == "opencv"
    assert choose_decoder(config.model_copy(update={"decoder": "opencv"}), "cuda:0", "augment") == "opencv"


# --- identity and provenance ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 80}, ["size is 64 there, 80 here"]),
        ({"seed": 5}, ["seed is 0 there, 5 here"]),
        ({"crops": "square"}, ["crops is augment there, square here"]),
        (
            {"crop_area": "0.8:1", "aspect": "1", "flip": 0.0},
            ["crop_area is 0.6:1 there, 0.8:1 here", "aspect is 0.75:4/3 there, 1 here", "flip is 0.5 there, 0.0 here"],
        ),
    ],
)
def test_another_size_seed_or_way_of_cropping_is_refused(tmp_path: Path, change: Any, words: list[str]) -> None:
    training_shards(tmp_path / "shards", units=1)
    run(tmp_path / "shards", tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(IdentityError) as refusal:
        run(tmp_path / "shards", tmp_path / "store", **change)
    assert all(word in str(refusal.value) for word in words)
    assert contents(tmp_path / "store") == before


def test_another_backbone_is_refused_with_both_hashes(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1)
    run(tmp_path / "shards", tmp_path / "store")
    other = other_backbone(tmp_path / "other")
    with pytest.raises(IdentityError) as refusal:
        run(tmp_path / "shards", tmp_path / "store", backbone=str(other))
    for folder in (BACKBONE, other):
        assert f"{folder} ({Backbone.load(folder, 'cpu').content_hash[:12]}…)" in str(refusal.value)


def test_the_same_backbone_elsewhere_is_the_same(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1)
    run(tmp_path / "shards", tmp_path / "store")
    shutil.copytree(BACKBONE, tmp_path / "copy")
    assert run(tmp_path / "shards", tmp_path / "store", backbone=str(tmp_path / "copy")).skipped == 3


def test_other_library_versions_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training_shards(tmp_path / "shards", units=1)
    run(tmp_path / "shards", tmp_path / "store")
    root = Location.of(tmp_path / "store")
    header = read_header(root)
    provenance = {**header.provenance, "versions": {**header.provenance["versions"], "torch": "1.0"}}
    content = {"kind": "features", "identity": dict(header.identity.values), "provenance": provenance}
    write_sealed(root / "artifact.json", content)
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path / "shards", tmp_path / "store", views="2").done == 3
    assert "versions.torch was 1.0" in caplog.text


def test_other_shards_are_refused(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1)
    run(tmp_path / "shards", tmp_path / "store")
    write_shards(tmp_path / "other", [[make_clip("a")]], size=80)
    with pytest.raises(IdentityError, match="shards is"):
        run(tmp_path / "other", tmp_path / "store")


# --- views ---


def test_views_are_added_and_dropped_without_touching_others(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "store", views="2")
    before = contents(tmp_path / "store")
    summary = run(tmp_path / "shards", tmp_path / "store", views="2:4")
    assert (summary.done, summary.skipped) == (12, 0)
    assert before.items() <= contents(tmp_path / "store").items()
    assert FeatureStore.open(str(tmp_path / "store")).views == (0, 1, 2, 3)
    assert (
        "dropped views 0, 1; views 2, 3 left"
        in drop(settings(tmp_path / "shards", tmp_path / "store", drop_views="0:2"), agree)[0]
    )
    store = FeatureStore.open(str(tmp_path / "store"))
    assert store.views == (2, 3)
    assert len(store.read_clips(range(len(store)))) == 12
    assert not (tmp_path / "store" / "v000").exists()
    summary = featurize(settings(tmp_path / "shards", tmp_path / "store", drop_views="2", views="4:5"), agree)
    assert FeatureStore.open(str(tmp_path / "store")).views == (3, 4)


def test_a_view_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "store", views="1")
    run(tmp_path / "shards", tmp_path / "store", views="1:2", part="1/2")
    assert FeatureStore.open(str(tmp_path / "store")).views == (0,)
    with pytest.raises(ArtifactError, match=r"no whole view 1 \(whole: 0\)"):
        FeatureStore.open(str(tmp_path / "store"), views=[1])
    run(tmp_path / "shards", tmp_path / "store", views="1:2", part="2/2")
    assert FeatureStore.open(str(tmp_path / "store"), views=[1]).views == (1,)


def test_two_parts_make_the_whole(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=3)
    run(tmp_path / "shards", tmp_path / "whole")
    for part in ("1/2", "2/2"):
        run(tmp_path / "shards", tmp_path / "parts", part=part)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_views_beyond_the_two_squares_are_refused(tmp_path: Path) -> None:
    evaluation_shards(tmp_path / "shards")
    with pytest.raises(ConfigError, match="two views, 0 and 1"):
        run(tmp_path / "shards", tmp_path / "store", views="3")


def test_evaluation_frames_are_never_resized_again(tmp_path: Path) -> None:
    evaluation_shards(tmp_path / "shards")
    with pytest.raises(ConfigError, match="ingested at 64"):
        run(tmp_path / "shards", tmp_path / "store", size=32)


# --- bad input ---


def test_a_damaged_tar_is_quarantined_by_name_and_made_when_it_is_sound(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=3)
    tar = tmp_path / "shards" / "000001.tar"
    sound = tar.read_bytes()
    flip(tar, 700)
    summary = run(tmp_path / "shards", tmp_path / "store")
    assert (summary.done, summary.quarantined) == (6, 1)
    (entry,) = read_quarantine(Location.of(tmp_path / "store"))
    assert (entry.source, entry.unit) == ("000001.tar", "000001")
    assert entry.reason.startswith("000001.tar is damaged: its SHA-256 is ")
    store = FeatureStore.open(str(tmp_path / "store"))
    assert store.units == ("000000", "000002")
    tar.write_bytes(sound)
    assert run(tmp_path / "shards", tmp_path / "store").done == 3
    assert len(FeatureStore.open(str(tmp_path / "store"))) == 9
    assert read_quarantine(Location.of(tmp_path / "store")) == []


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_jpeg_quarantines_its_clip_by_name_and_frame(tmp_path: Path, damage: str) -> None:
    clips = [make_clip("good"), make_clip("bad"), make_clip("fine")]
    frame = clips[1].frames[2]
    broken = {"cut": frame[: len(frame) // 2], "garbage": b"\x00" * 50, "empty": b""}[damage]
    clips[1] = replace(clips[1], frames=[*clips[1].frames[:2], broken])
    write_shards(tmp_path / "shards", [clips])
    assert run(tmp_path / "shards", tmp_path / "store").quarantined == 1
    (entry,) = read_quarantine(Location.of(tmp_path / "store"))
    assert (entry.source, entry.unit) == ("bad", "v000/000000")
    assert "bad.002.jpg" in entry.reason
    store = FeatureStore.open(str(tmp_path / "store"))
    assert store.keys == ("good", "fine")
    assert torch.allclose(store.read_clip("fine").float(), expected(clips[2], 0, "augment"), rtol=1e-3, atol=1e-3)
    group = zarr.open_group(str(tmp_path / "store"), mode="r")["v000/000000"]
    assert group["clips"][:, -1].tolist() == [1.0, 0.0, 1.0]  # the column `valid`
    assert np.isnan(group["features"][1]).all()


def test_a_clip_with_another_number_of_frames_is_quarantined(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [[make_clip("a"), make_clip("b", frames=2)]])
    run(tmp_path / "shards", tmp_path / "store")
    (entry,) = read_quarantine(Location.of(tmp_path / "store"))
    assert entry.reason == "it has 2 frames and 2 times; 3 were expected"


class SpikyComputer(Computer):
    """A backbone that fails on the frames whose number is in `spikes`."""

    spikes: dict[int, float]
    seen = 0

    def start(self, frames: torch.Tensor) -> Result:
        features = self.backbone(frames)
        for number, value in self.spikes.items():
            if self.seen <= number < self.seen + len(frames):
                features[number - self.seen, 3, 5] = value
        self.seen += len(frames)
        return Result(features.to(self.dtype), (features.abs().amax(dim=(1, 2)),), None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70000.0])
def test_values_that_float16_cannot_hold_quarantine_the_clip_by_name_and_frame(tmp_path: Path, value: float) -> None:
    shards = training_shards(tmp_path / "shards", units=1)
    computer = SpikyComputer(Backbone.load(BACKBONE, "cpu"), FrameSize.of(64), 2, False)
    computer.spikes = {4: value}
    store, identity = Location.of(tmp_path / "store"), Identity("features", {"crops": "augment"})
    filler = Filler(store, identity, Layout("features", 3, (16, 128)), computer.grid, "cpu")
    pipeline = Pipeline(
        ShardReader(shards), ClipDecoder("augment", 0, 3, pinned=False), computer, computer.start, filler
    )
    (result,) = pipeline.run([Job(0, "000000")])
    (entry,) = result.quarantined
    assert entry.source == "class/video0-1"
    assert entry.reason == f"frame 1: a number is {'beyond float16' if value == 70000.0 else 'not finite'}"
    assert result.overflow == (Overflow(("class/video0-1",), (5,), 70000.0) if value == 70000.0 else None)
    group = zarr.open_group(str(tmp_path / "store" / "v000" / "000000"), mode="r")
    assert group["clips"][:, -1].tolist() == [1.0, 0.0, 1.0]  # the column `valid`
    assert np.isnan(group["features"][1]).all()
    assert np.isfinite(group["features"][0]).all()


def test_the_real_computer_finds_such_values(tmp_path: Path) -> None:
    folder = other_backbone(tmp_path / "loud")
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"] = weights["norm.weight"] * 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    computer = load_computer(settings(tmp_path, tmp_path, backbone=str(folder)), "cpu")
    _, found = computer.start(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).wait()
    assert found.storable(65504.0).tolist() == [False, False]


def test_too_many_bad_clips_fail_and_keep_what_was_written(tmp_path: Path) -> None:
    shards = training_shards(tmp_path / "shards", units=4, clips=2)
    for unit in shards.units[1:]:
        flip(tmp_path / "shards" / f"{unit}.tar", 600)
    with pytest.raises(TooManyBadError, match=r"4 of 8 crops.*--max-bad 0.3.*000002\.tar"):
        run(tmp_path / "shards", tmp_path / "store", max_bad=0.3)
    with pytest.raises(ArtifactError, match="view 0 holds 1 of 2 shards"):
        FeatureStore.open(str(tmp_path / "store"))
    assert run(tmp_path / "shards", tmp_path / "store", max_bad=1.0).skipped == 2
    assert FeatureStore.open(str(tmp_path / "store")).keys == ("class/video0-0", "class/video0-1")


def test_a_shard_that_was_made_anew_is_featurized_anew(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [[make_clip("a")], [make_clip("b")]])
    run(tmp_path / "shards", tmp_path / "store")
    shutil.rmtree(tmp_path / "shards")
    write_shards(tmp_path / "shards", [[make_clip("a")], [make_clip("b"), make_clip("c")]])
    summary = run(tmp_path / "shards", tmp_path / "store")
    assert (summary.done, summary.skipped) == (2, 1)
    assert FeatureStore.open(str(tmp_path / "store")).keys == ("a", "b", "c")


def test_a_shard_without_clips_makes_an_empty_group(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [[make_clip("a")], []])
    run(tmp_path / "shards", tmp_path / "store")
    assert FeatureStore.open(str(tmp_path / "store")).keys == ("a",)


def test_a_store_too_large_for_the_disk_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_shards(tmp_path / "shards", units=1)
    monkeypatch.setattr(Location, "free_bytes", lambda self: 1000)
    with pytest.raises(StorageError, match=r"needs 36.9 kB more, and 1 kB are free"):
        run(tmp_path / "shards", tmp_path / "store")
    assert not (tmp_path / "store" / "v000").exists()


# --- what it says ---


def test_the_summary_names_the_slowest_part(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1)
    summary = run(tmp_path / "shards", tmp_path / "store")
    assert set(summary.parts) == {"reading", "decoding", "the backbone", "writing"}
    assert summary.bytes == 3 * 3 * 16 * 128 * 2
    assert "set the pace" in summary.lines()[-2]


def test_a_dry_run_says_what_it_costs_and_writes_nothing(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1)
    text = "\n".join(dry_run(settings(tmp_path / "shards", tmp_path / "store", views="4")))
    assert "12 crops to do, 0 there already" in text
    assert "writes 147 kB" in text
    assert "frames/s, measured just now" in text
    assert "24 frame pairs" in text
    pairs = 3470 * 256 // 16 * (768 // 128) ** 2
    assert f"({pairs:,} pairs/s, reckoned from the published rate by 16 patches of width 128)" in text
    assert not (tmp_path / "store").exists()


def rates_of(monkeypatch: pytest.MonkeyPatch, bfloat16: float) -> None:
    """Let float32 compute a frame a second, and bfloat16 so many."""

    def rate(computer: Computer) -> float:
        return bfloat16 if computer.backbone.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(Computer, "frames_per_second", rate)


def test_a_dry_run_does_not_offer_bfloat16_where_it_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training_shards(tmp_path / "shards", units=1)
    monkeypatch.setattr(precision, "bfloat16_instructions", lambda: ["amx_bf16"])
    rates_of(monkeypatch, bfloat16=0.5)
    *_, offer = dry_run(settings(tmp_path / "shards", tmp_path / "store"))
    assert offer.startswith("bfloat16 is not offered: 0.5 × as fast")


@pytest.mark.parametrize(("bound", "expected"), [(0.9, "--precision bfloat16: "), (1.1, "bfloat16 is not offered: ")])
def test_a_dry_run_offers_bfloat16_where_its_features_are_near_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: float, expected: str
) -> None:
    rates_of(monkeypatch, bfloat16=2.0)
    training_shards(tmp_path / "shards", units=1)
    monkeypatch.setattr(precision, "bfloat16_instructions", lambda: ["amx_bf16"])
    monkeypatch.setattr(precision, "LEAST_COSINE", bound)
    *_, offer = dry_run(settings(tmp_path / "shards", tmp_path / "store"))
    assert offer.startswith(expected)
    assert "over 8 of these frames" in offer
    assert float(re.search(r"least cosine to float32 ([\d.]+)", offer)[1]) > 0.999  # type: ignore[index]


def test_a_dry_run_does_not_stop_at_a_tar_that_the_run_would_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_shards(tmp_path / "shards", units=1)
    monkeypatch.setattr(precision, "bfloat16_instructions", lambda: ["amx_bf16"])
    tar = tmp_path / "shards" / "000000.tar"
    tar.write_bytes(b"x" * tar.stat().st_size)
    lines = list(dry_run(settings(tmp_path / "shards", tmp_path / "store")))
    assert "3 crops to do" in lines[1]
    assert not any(line.startswith(("--precision", "bfloat16")) for line in lines)


def test_bfloat16_is_no_question_on_other_processors_or_where_a_precision_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_shards(tmp_path / "shards", units=1)
    for instructions, setting in ((list[str](), "auto"), (["amx_bf16"], "float32")):
        monkeypatch.setattr(precision, "bfloat16_instructions", lambda found=instructions: found)
        lines = list(dry_run(settings(tmp_path / "shards", tmp_path / "store", precision=setting)))
        assert not any("bfloat16" in line for line in lines if not line.startswith(str(tmp_path)))


def test_default_names_say_what_must_not_be_confused() -> None:
    assert (
        default_name("kinetics", "facebook/dinov3-vitb16-pretrain-lvd1689m", FrameSize.of(256)) == "kinetics-vitb16-256"
    )
    assert (
        default_name("vspw-val-512", "facebook/dinov3-vitb16-pretrain-lvd1689m", FrameSize.of(512))
        == "vspw-val-vitb16-512"
    )
    assert default_name("kinetics", "/models/dinov3-vits16plus", FrameSize.of(256)) == "kinetics-vits16plus-256"
    assert default_name("kinetics", "/models/mine.v2", FrameSize.of(64)) == "kinetics-mine_v2-64"


def test_features_of_shards_in_the_making_are_of_what_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training_shards(tmp_path / "shards")
    (tmp_path / "shards" / "index.json").unlink()
    run(tmp_path / "shards", tmp_path / "store")
    assert "is unfinished: 2 shards are there" in caplog.text
    store = FeatureStore.open(str(tmp_path / "store"))
    assert len(store) == 6
    assert store.unfinished is not None


def test_a_cpu_is_used_where_there_is_no_gpu_and_asking_for_one_is_an_error(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="no CUDA GPU here"):
        run(tmp_path / "shards", tmp_path / "store", device="cuda:0")


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same_features(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "cpu")
    run(tmp_path / "shards", tmp_path / "gpu", device="cuda:0", compile=False)
    a, b = (FeatureStore.open(str(tmp_path / name)).read_clips(range(6)).float() for name in ("cpu", "gpu"))
    assert torch.nn.functional.cosine_similarity(a, b, dim=-1).min() > 0.99


def test_shards_are_read_through_their_own_set(tmp_path: Path) -> None:
    assert ShardSet.open(training_shards(tmp_path / "shards").root).count == 6
