"""`verify --live`: a sound store holds what is made of its clips again; what is wrong under right checksums shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from small_shards import evaluation_shards, training_shards
from small_stores import BACKBONE, TOKENIZER, contents, copy, other_backbone, run, tokens
from videos import make_video

from deltactl.cli import main
from deltactl.errors import ArtifactError, IdentityError
from deltactl.featurize.live import BOUNDS, relative_differences
from deltactl.featurize.store.reader import TokenStore
from deltactl.featurize.verify import Verification
from deltactl.locations import Location
from deltactl.tokenization.live import verify_live

ALL = 1000
SOUND = 2e-3
"""Rounding to float16, and batches of other sizes."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("live") / "shards"
    training_shards(root, units=3, clips=4)
    return root


@pytest.fixture(scope="module")
def store(shards: Path) -> Path:
    run(shards, shards.parent / "store", views="2")
    return shards.parent / "store"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("live") / "videos"
    for number in range(4):
        make_video(root / f"v{number}.mp4", frames=40 + number, width=160, height=80)
    return root


CUT = {"clips": 2, "frames": 3, "shard_clips": 4}


def damage(store: Path, group: str, clip: int, frame: int, values: np.ndarray | float, kind: str = "features") -> None:
    """Write other numbers into a frame, checksums and all."""
    array = zarr.open_group(str(store), mode="r+")[f"{group}/{kind}"]
    array[clip, frame] = values


def test_a_sound_store_tells_the_truth(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = verify_live(Location.of(store), ALL)
    assert (check.clips, check.findings, check.bound) == (24, [], BOUNDS["float16"])
    assert 0 <= check.mean <= check.largest < SOUND
    assert main(["verify", str(store), "--live", "5", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "made again 5 crops from" in out
    assert "at most 0.015 is allowed" in out


@pytest.mark.parametrize("what", ["zeroed", "another frame", "infinite"])
def test_what_is_wrong_with_right_checksums_is_found_and_repaired(
    store: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = copy(store, tmp_path / "bad")
    other = zarr.open_group(str(store), mode="r")["v001/000002/features"][2, 0]
    damage(bad, "v001/000001", 3, 1, {"zeroed": 0.0, "another frame": other, "infinite": np.inf}[what])
    assert Verification.of(str(bad)).run() == [], "every checksum is right"
    (finding,) = verify_live(Location.of(bad), ALL).findings
    assert (finding.unit, finding.kind) == ("v001/000001", "damaged")
    assert "class/video1-3 differs from what is made of it now: frame 1 by" in finding.reason
    assert main(["verify", str(bad), "--live", str(ALL)]) == 1
    captured = capsys.readouterr()
    assert "v001/000001: class/video1-3 differs" in captured.out
    assert captured.err.startswith("error: ")
    assert main(["verify", str(bad), "--live", str(ALL), "--repair"]) == 0
    assert contents(bad) == contents(store)


def test_clips_are_drawn_by_the_seed(store: Path, tmp_path: Path) -> None:
    bad = copy(store, tmp_path / "bad")
    damage(bad, "v000/000000", 0, 0, 0.0)
    found = [bool(verify_live(Location.of(bad), 6, seed=seed).findings) for seed in range(6)]
    assert found == [bool(verify_live(Location.of(bad), 6, seed=seed).findings) for seed in range(6)]
    assert set(found) == {True, False}


@pytest.mark.parametrize("way", ["features", "shards", "videos"])
def test_tokens_are_made_again_whichever_way_they_came(
    store: Path, shards: Path, videos: Path, tmp_path: Path, way: str
) -> None:
    place = {"features": store, "shards": shards, "videos": videos}[way]
    tokens(place, tmp_path / "tokens", backbone=str(BACKBONE), **({"videos": CUT} if way == "videos" else {}))
    check = verify_live(Location.of(tmp_path / "tokens"), ALL)
    assert check.findings == []
    assert check.largest < 5 * SOUND
    (pack,) = (tmp_path / "tokens").glob("v000/*-*")  # the groups of all shards in one: a row of the second of them
    with TokenStore.open(str(tmp_path / "tokens")) as made:
        row = (
            sum(1 for sample in range(len(made)) if made.view_of(sample) == 0 and made.unit_of(sample) == "000000") + 1
        )
    damage(tmp_path / "tokens", f"v000/{pack.name}", row, 2, 0.0, "tokens")
    assert Verification.of(str(tmp_path / "tokens")).run() == []
    (finding,) = verify_live(Location.of(tmp_path / "tokens"), ALL).findings
    assert (finding.unit, "frame 2 by" in finding.reason) == ("v000/000001", True)


def test_features_straight_from_videos_are_made_again_from_few_videos(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(videos, tmp_path / "store", videos=CUT)
    make_video(videos / "added.mp4", frames=33, width=160, height=80)
    try:
        assert verify_live(Location.of(tmp_path / "store"), ALL).findings == []
        cut: list[str] = []
        from deltactl.ingest.video.videos import VideoClipMaker

        real = VideoClipMaker._collect

        def collect(self: VideoClipMaker, task: object, child: object) -> object:
            cut.extend(source.name for source in task.cut.sources)  # type: ignore[attr-defined]
            return real(self, task, child)  # type: ignore[arg-type]

        monkeypatch.setattr(VideoClipMaker, "_collect", collect)
        assert verify_live(Location.of(tmp_path / "store"), 1).findings == []
        assert len(cut) == 1
    finally:
        (videos / "added.mp4").unlink()


def test_square_crops_of_an_evaluation_set_are_made_again(tmp_path: Path) -> None:
    evaluation_shards(tmp_path / "shards")
    run(tmp_path / "shards", tmp_path / "store")
    check = verify_live(Location.of(tmp_path / "store"), ALL)
    assert (check.clips, check.findings) == (7, [])


def test_a_parts_store_is_checked_by_its_own_units(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "part", part="2/3")
    check = verify_live(Location.of(tmp_path / "part"), ALL)
    assert (check.clips, check.findings) == (4, [])


def test_what_was_moved_is_named_and_what_is_other_refused(
    shards: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(shards, moved)
    run(moved, tmp_path / "store")
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"moved does not exist"):
        verify_live(Location.of(tmp_path / "store"), 2)
    assert verify_live(Location.of(tmp_path / "store"), 2, place=str(tmp_path / "elsewhere")).findings == []
    training_shards(tmp_path / "other", units=1, clips=2)
    evaluation_shards(tmp_path / "evaluation")
    with pytest.raises(IdentityError, match=r"was not made from .*evaluation: shards is .*/shards \(\w+…\) there, \w+"):
        verify_live(Location.of(store), 2, place=str(tmp_path / "evaluation"))
    with pytest.raises(IdentityError, match=r"was not made with .*backbone is .*backbone \(\w+…\) there"):
        verify_live(Location.of(store), 2, backbone=str(other_backbone(tmp_path / "backbone")))
    for arguments, expected in (
        ([str(shards), "--live", "2"], "it goes with a store"),
        ([str(store), "--seed", "2"], "--seed 2 has no effect: it goes with --live"),
        ([str(store), "--tokenizer", TOKENIZER], "has no effect: it goes with --live"),
        ([str(store), "--shards", str(shards)], "has no effect: it goes with --repair or --live"),
    ):
        assert main(["verify", *arguments]) == 1
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1


def test_a_clip_with_another_crop_is_found_though_its_numbers_are_close(store: Path, tmp_path: Path) -> None:
    bad = copy(store, tmp_path / "bad")
    clips = zarr.open_group(str(bad), mode="r+")["v000/000002/clips"]
    clips[1, clips.attrs["columns"].index("top")] += 1
    assert Verification.of(str(bad)).run() == []
    (finding,) = verify_live(Location.of(bad), ALL).findings
    assert finding.reason == "class/video2-1 was stored with another crop"


def test_the_difference_is_relative_to_the_usual_norm_of_the_clip() -> None:
    live = np.ones((2, 4))
    assert relative_differences(live, live) == [0.0, 0.0]
    assert relative_differences(np.array([[0.0] * 4, [1.0] * 4]), live) == [1.0, 0.0]
    assert relative_differences(np.full((2, 4), np.nan), live) == [np.inf, np.inf]
    assert relative_differences(np.zeros((1, 4)), np.zeros((1, 4))) == [0.0]
