"""Features and tokens straight from videos: the clips and views of an ingest, without its JPEGs, whole and checked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_shards import encode, picture
from small_stores import BACKBONE, contents, run, settings, tokens
from videos import make_video

from deltactl.artifacts import read_header, read_quarantine
from deltactl.cli import main
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import ArtifactError, ConfigError, IdentityError, TooManyBadError
from deltactl.featurize.run import dry_run
from deltactl.featurize.store.finish import published, read_group_file
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.featurize.store.repair import repair_store
from deltactl.featurize.verify import Verification
from deltactl.ingest.run import run as ingest
from deltactl.locations import Location

CUT = {"clips": 2, "frames": 3, "shard_clips": 4}
"""Two videos make a unit."""
JPEG_LOSS = 0.05
"""Of the features' norm, at quality 95 on frames of moving ramps and hard edges."""


def make_videos(root: Path, count: int = 5, *, width: int = 160, height: int = 80) -> Path:
    for number in range(count):
        make_video(root / f"class{number % 2}" / f"v{number}.mp4", frames=40 + number, width=width, height=height)
    return root


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos, whose frames are so small that shards keep them as they are, and a file that is none."""
    root = make_videos(tmp_path_factory.mktemp("straight") / "videos")
    (root / "bad.mp4").write_bytes(b"nonsense" * 100)
    return root


@pytest.fixture(scope="module")
def store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of them."""
    out = tmp_path_factory.mktemp("straight") / "store"
    run(videos, out, views="2", videos=CUT)
    return out


def shards_of(videos: Path, out: Path, **changes: Any) -> Path:
    values = {"dataset": "folder", "size": 64, "workers": 0, "max_bad": 0.5, **CUT, **changes}
    ingest(IngestConfig(source=str(videos), out=str(out), **values))
    return out


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


def test_clips_and_views_are_those_of_shards_and_features_differ_by_the_jpegs_loss(
    videos: Path, store: Path, tmp_path: Path
) -> None:
    run(shards_of(videos, tmp_path / "shards"), tmp_path / "through", views="2")
    through, straight = (FeatureStore.open(str(place)) for place in (tmp_path / "through", store))
    samples = range(20)
    assert len(through) == len(straight) == 20
    assert straight.keys == through.keys
    for facts in ("times", "crops", "flips"):
        assert torch.equal(getattr(straight, facts)(samples), getattr(through, facts)(samples))
    assert [straight.sources_of(unit)[-1] for unit in straight.units] == [
        through.sources_of(unit)[-1] for unit in through.units
    ]
    difference = relative_difference(straight.read_clips(samples), through.read_clips(samples))
    assert 0 < difference < JPEG_LOSS


def test_a_store_says_that_it_is_straight_from_videos_and_writes_nothing_else(videos: Path, store: Path) -> None:
    header = read_header(Location.of(store))
    assert "shards" not in header.identity.values
    said = header.identity.values["videos"]
    assert (said["clips"], said["frames"], said["sources"], said["seed"]) == (2, 3, 6, 0)
    assert {"size", "quality"}.isdisjoint(said)
    assert header.provenance["videos"] == str(videos)
    assert {path.name for path in store.parent.iterdir() if not path.name.startswith(".")} == {"store"}
    assert not [path for path in store.rglob("*") if path.suffix in (".tar", ".jpg")]
    assert Verification.of(str(store)).run() == []


def test_through_shards_and_straight_are_not_mixed(videos: Path, store: Path, tmp_path: Path) -> None:
    shards = shards_of(videos, tmp_path / "shards")
    with pytest.raises(
        IdentityError, match=r"shards is absent there, .*shards \(\w+…\) here.*videos\.clips is 2 there, absent here"
    ):
        run(shards, store)
    with pytest.raises(IdentityError, match=r"videos\.stride is 0.04:1/3 there, 0.2 here"):
        run(videos, store, videos={**CUT, "stride": "0.2"})


def test_a_video_that_cannot_be_read_is_quarantined_with_its_reason(
    videos: Path, store: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    entries = read_quarantine(Location.of(store))
    assert [entry.unit for entry in entries] == ["v000/000000"] * 2 + ["v001/000000"] * 2
    assert all(entry.reason.startswith("bad.mp4: cannot be read as video") for entry in entries)
    assert read_group_file(Location.of(store), 0, "000000").invalid == (0, 1)
    with pytest.raises(TooManyBadError, match=r"2 of 12 crops cannot be used.*--max-bad 0.1.*bad\.mp4"):
        run(videos, tmp_path / "store", videos=CUT, max_bad=0.1)
    assert [record.message for record in caplog.records if "quarantined" in record.message] == [
        "quarantined bad.mp4: cannot be read as video: Invalid data found when processing input"
    ]


def test_views_of_a_unit_are_decoded_once_and_each_alone_gives_the_same(
    videos: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for views in ("0:1", "1:2"):
        run(videos, tmp_path / "one-by-one", views=views, videos=CUT)
    monkeypatch.setattr("deltactl.featurize.pipeline.read_videos.KEPT_BYTES", 1)  # so that no frames are kept
    run(videos, tmp_path / "again", views="2", videos=CUT)
    assert contents(tmp_path / "one-by-one") == contents(store)
    assert contents(tmp_path / "again") == contents(store)


def test_parts_and_workers_make_the_same_store(videos: Path, store: Path, tmp_path: Path) -> None:
    for part in ("2/2", "1/2"):
        run(videos, tmp_path / "parts", views="2", videos=CUT, part=part)
    assert contents(tmp_path / "parts") == contents(store)
    run(videos, tmp_path / "workers", views="2", videos=CUT, workers=1, decode_threads=2)
    assert contents(tmp_path / "workers").keys() == contents(store).keys()
    one, other = (FeatureStore.open(str(place)).read_clips(range(20)) for place in (tmp_path / "workers", store))
    assert relative_difference(one, other) < 1e-3


@pytest.mark.slow
def test_killed_and_run_again_it_gives_the_same_bytes(tmp_path: Path) -> None:
    videos = make_videos(tmp_path / "videos", 12)
    run(videos, tmp_path / "whole", views="3", videos=CUT)
    config = settings(videos, tmp_path / "store", views="3", videos=CUT)
    code = (
        "import sys; from deltactl.configs.featurize import FeaturizeConfig;"
        "from deltactl.featurize.run import run as featurize;"
        "featurize(FeaturizeConfig.model_validate_json(sys.argv[1]))"
    )
    place = Location.of(tmp_path / "store")
    for wanted in (0, 4, 9):
        command = [sys.executable, "-c", code, config.model_dump_json()]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=-3)
        while process.poll() is None and (not place.exists() or sum(map(len, published(place).values())) < wanted):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert wanted <= sum(map(len, published(place).values())) < 18, "killed in the middle"
    assert run(videos, tmp_path / "store", views="3", videos=CUT).skipped >= 9 * 4
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    assert Verification.of(str(tmp_path / "store")).run() == []


def test_videos_that_are_added_make_units_of_their_own(tmp_path: Path) -> None:
    videos = make_videos(tmp_path / "videos", 3)
    run(videos, tmp_path / "store", videos=CUT)
    before = (tmp_path / "store" / "v000" / "000001" / "zarr.json").read_bytes()
    make_video(videos / "a-new-one.mp4", frames=50, width=160, height=80)
    summary = run(videos, tmp_path / "store", videos=CUT)
    assert (summary.done, summary.skipped) == (2, 6)
    assert (tmp_path / "store" / "v000" / "000001" / "zarr.json").read_bytes() == before
    store = FeatureStore.open(str(tmp_path / "store"))
    assert (store.units, len(store)) == (("000000", "000001", "000002"), 8)
    assert len(read_header(Location.of(tmp_path / "store")).generations) == 1
    assert Verification.of(str(tmp_path / "store")).run() == []


def test_videos_that_are_gone_or_were_replaced_are_refused_and_mended_ones_taken(tmp_path: Path) -> None:
    videos = make_videos(tmp_path / "videos", 3)
    sound = (videos / "class1" / "v1.mp4").read_bytes()
    (videos / "class1" / "v1.mp4").write_bytes(b"nonsense")
    run(videos, tmp_path / "store", videos=CUT)
    assert len(FeatureStore.open(str(tmp_path / "store"))) == 4
    (videos / "class1" / "v1.mp4").write_bytes(sound)
    assert run(videos, tmp_path / "store", videos=CUT).done == 2, "the unit of the mended video alone"
    assert len(FeatureStore.open(str(tmp_path / "store"))) == 6
    make_video(videos / "class0" / "v0.mp4", frames=90, width=160, height=80)
    with pytest.raises(IdentityError, match=r"class0/v0\.mp4 has another size than when ingested"):
        run(videos, tmp_path / "store", videos=CUT)
    (videos / "class0" / "v0.mp4").unlink()
    with pytest.raises(IdentityError, match=r"class0/v0\.mp4 is gone"):
        run(videos, tmp_path / "store", videos=CUT)


def test_crops_of_large_frames_are_cut_from_the_frames_as_they_were_decoded(tmp_path: Path) -> None:
    videos = make_videos(tmp_path / "videos", 2, width=480, height=240)
    run(videos, tmp_path / "straight", videos=CUT)
    run(shards_of(videos, tmp_path / "shards"), tmp_path / "through")
    straight, through = (FeatureStore.open(str(tmp_path / name)) for name in ("straight", "through"))
    crops = straight.crops(range(4)).float()
    assert crops[:, 2].max() > 83, "beyond what a shard keeps of a frame's height at 64 px"
    shrunk = crops * (83 / 240)
    assert (shrunk - through.crops(range(4))).abs().max() <= 1.5, "the same part of the frame, to a pixel"


def test_tokens_straight_from_videos_are_those_of_features_straight_from_videos(
    videos: Path, store: Path, tmp_path: Path
) -> None:
    tokens(videos, tmp_path / "tokens", backbone=str(BACKBONE), views="2", videos=CUT)
    tokens(store, tmp_path / "of-features", backbone=str(BACKBONE))
    straight, other = (TokenStore.open(str(tmp_path / name)) for name in ("tokens", "of-features"))
    assert straight.identity == other.identity
    assert straight.keys == other.keys
    assert torch.allclose(straight.read_clips(range(20)).float(), other.read_clips(range(20)).float(), atol=1e-3)
    assert not (tmp_path / "tokens" / "black").exists()
    assert Verification.of(str(tmp_path / "tokens")).run() == []


def test_damage_is_repaired_from_the_videos(store: Path, videos: Path, tmp_path: Path) -> None:
    run(videos, tmp_path / "store", views="2", videos=CUT)
    file = tmp_path / "store" / "v001" / "000002" / "features" / "c.0.0.0.0"
    file.write_bytes(b"\0" * file.stat().st_size)
    findings = Verification.of(str(tmp_path / "store")).run()
    assert {finding.unit for finding in findings} == {"v001/000002"}
    assert repair_store(Location.of(tmp_path / "store"), findings, device="cpu") == ["made again: v001/000002"]
    assert contents(tmp_path / "store") == contents(store)


def test_a_damaged_record_of_the_videos_is_found_and_written_again(store: Path, videos: Path, tmp_path: Path) -> None:
    run(videos, tmp_path / "store", views="2", videos=CUT)
    record = tmp_path / "store" / "sources-001.json"
    for damage in (lambda: record.write_bytes(record.read_bytes().replace(b"bad.mp4", b"sad.mp4")), record.unlink):
        damage()
        (finding,) = Verification.of(str(tmp_path / "store")).run()
        assert finding.path == "sources-001.json"
        repair_store(Location.of(tmp_path / "store"), [finding], device="cpu")
        assert contents(tmp_path / "store") == contents(store)
        assert Verification.of(str(tmp_path / "store")).run() == []


def test_frames_of_folders_stay_the_files_that_they_are(tmp_path: Path) -> None:
    for number in range(6):
        frame = tmp_path / "kinetics" / "train" / "class" / "video" / f"frame_{number * 0.1:.3f}.jpg"
        frame.parent.mkdir(parents=True, exist_ok=True)
        frame.write_bytes(encode(picture(80, 112, number)))
    cut = {"dataset": "kinetics", **CUT}
    run(tmp_path / "kinetics", tmp_path / "straight", videos=cut)
    shards = shards_of(tmp_path / "kinetics", tmp_path / "shards", dataset="kinetics")
    run(shards, tmp_path / "through")
    straight, through = (FeatureStore.open(str(tmp_path / name)) for name in ("straight", "through"))
    assert straight.keys == through.keys
    assert torch.equal(straight.read_clips(range(2)), through.read_clips(range(2))), "no JPEG is made anew"


def test_wrong_inputs_are_refused_in_one_line(videos: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (tmp_path / "absent", {}, ArtifactError, "absent does not exist; expected shards, or videos"),
        (tmp_path / "empty", {}, ConfigError, "no videos were found in .*empty"),
        (store, {"videos": CUT}, ArtifactError, "holds features; shards were expected"),
        (videos, {"videos": {"dataset": "vspw"}}, ConfigError, "vspw is an evaluation set"),
        (videos, {"videos": {"split": "val"}}, ConfigError, "--split is val, but a plain folder has no splits"),
    ]
    for place, changes, kind, expected in cases:
        with pytest.raises(kind, match=expected) as error:
            run(place, tmp_path / "store", **changes)
        assert "\n" not in str(error.value)
    shards = shards_of(videos, tmp_path / "shards")
    with pytest.raises(ConfigError, match=r"--clips 2 has no effect: .*holds shards"):
        run(shards, tmp_path / "store", videos={"clips": 2})
    with pytest.raises(ConfigError, match=r"2 places are named, and .*shards is an artifact"):
        list(dry_run(FeaturizeConfig(shards=(str(shards), str(videos)), backbone=str(BACKBONE), size=64)))
    assert not (tmp_path / "store").exists()


def test_several_places_and_the_plan_of_them(videos: Path, tmp_path: Path) -> None:
    config = settings(videos, tmp_path / "store", videos=CUT).model_copy(
        update={"shards": (str(videos / "class0"), str(videos / "class1" / "v1.mp4"))}
    )
    lines = list(dry_run(config))
    assert lines[0] == f"{videos}: 8 clips in 2 units straight from videos"
    assert not (tmp_path / "store").exists()


def test_the_command_takes_ingests_options_and_the_data_sets_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_videos(tmp_path / "kinetics" / "train", 2)
    monkeypatch.setenv("KINETICS_ROOT", str(tmp_path / "kinetics"))
    common = ["--backbone", str(BACKBONE), "--size", "64", "--device", "cpu", "--workers", "0"]
    cut = ["--clips", "3", "--frames", "2", "--stride", "0.1", "--seed", "7", "--exclude", str(tmp_path / "none.txt")]
    (tmp_path / "none.txt").write_text("v1\n")
    assert main(["featurize", "--dataset", "kinetics", *cut, *common]) == 0
    (store,) = (tmp_path / "workspace" / "features").glob("[!.]*")
    assert store.name == "kinetics-videos-backbone-64"
    said = read_header(Location.of(store)).identity.values
    assert {name: said["videos"][name] for name in ("dataset", "clips", "frames", "stride", "seed", "sources")} == {
        "dataset": "kinetics",
        "clips": 3,
        "frames": 2,
        "stride": "0.1",
        "seed": 7,
        "sources": 1,
    }
    assert not (tmp_path / "workspace" / "shards").exists()
    assert main(["verify", str(store), "--live", "3"]) == 0, "though the list of what was left out is not recorded"
    assert main(["featurize", str(store), "--clips", "3", *common]) == 1
    assert "holds features; shards were expected" in capsys.readouterr().err
