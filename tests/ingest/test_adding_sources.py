"""A folder that grew: what is new makes shards of its own, what is there stays, and who read what is known."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_stores import TOKENIZER, contents, flip
from small_stores import run as featurize
from videos import make_video

from deltactl.artifacts import read_header
from deltactl.cli import main
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import IdentityError
from deltactl.featurize.store.reader import FeatureStore
from deltactl.fields import Fields
from deltactl.generations import generation_hash
from deltactl.ingest.estimate import dry_run
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.progress import Summary
from deltactl.train.checkpoints.files import read_contents
from deltactl.train.checkpoints.loading import load
from deltactl.train.data.inputs import DataRecord, record_of
from deltactl.train.data.records import RunRecord
from deltactl.train.networks.deltatok import TOKENIZER as KIND


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("b", "d", "f"):
        make_video(tmp_path / "in" / f"{name}.mp4", frames=20)
    return tmp_path / "in"


def config(videos: Path, out: Path, **changes: Any) -> IngestConfig:
    values = {"dataset": "folder", "clips": 2, "shard_clips": 4, "size": 64, "workers": 0, "max_bad": 0.5}
    return IngestConfig(source=str(videos), out=str(out), **{**values, **changes})


def ingest(videos: Path, out: Path, **changes: Any) -> Summary:
    return run_ingest(config(videos, out, **changes))


def shards_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("0*"))}


def sources(out: Path) -> dict[str, list[str]]:
    shards = ShardSet.open(str(out))
    return {unit: sorted({clip.meta.source for clip in shards.read(unit)}) for unit in shards.units}


def forget(out: Path) -> None:
    """Make a set what an earlier version would have left: without a record of its sources."""
    for path in out.glob("sources-*.json"):
        path.unlink()


@pytest.mark.parametrize("earlier_version", [False, True])
def test_added_sources_make_shards_of_their_own_and_leave_the_others_as_they_are(
    videos: Path, tmp_path: Path, earlier_version: bool
) -> None:
    out = tmp_path / "shards"
    ingest(videos, out)
    before, identity = shards_of(out), read_header(Location.of(out)).identity
    if earlier_version:
        forget(out)
    for name in ("a", "c", "g"):
        make_video(videos / f"{name}.mp4", frames=20)
    summary = ingest(videos, out)
    assert (summary.done, summary.skipped) == (6, 6)
    assert before.items() <= shards_of(out).items()
    assert sources(out) == {
        **{"000000": ["b.mp4", "d.mp4"], "000001": ["f.mp4"]},
        **{"000002": ["a.mp4", "c.mp4"], "000003": ["g.mp4"]},
    }
    header = read_header(Location.of(out))
    assert header.identity == identity
    assert [(entry["sources"], entry["units"]) for entry in header.generations] == [(3, 2)]
    assert ShardSet.open(str(out)).complete
    assert ingest(videos, out).done == 0
    (videos / "h.mp4").write_bytes(make_video(tmp_path / "x.mp4", frames=20).read_bytes())
    assert ingest(videos, out).done == 2
    assert len(read_header(Location.of(out)).generations) == 2


def test_sources_that_are_added_before_the_first_have_ended_go_after_them(videos: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "shards"
    ingest(videos, whole)
    ingest(videos, out, part="2/2")
    make_video(videos / "a.mp4", frames=20)
    ingest(videos, out, part="2/3")
    assert not ShardSet.open(str(out)).complete
    ingest(videos, out)
    assert shards_of(whole).items() <= shards_of(out).items()
    assert sources(out)["000002"] == ["a.mp4"]


def test_a_set_that_grows_is_unfinished_until_the_new_shards_are_there(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    ingest(videos, out)
    for name in ("x", "y", "z"):
        make_video(videos / f"{name}.mp4", frames=20)
    summary = ingest(videos, out, part="3/4")
    assert "unfinished: 3 of 4 shards" in summary.state
    assert not (out / "index.json").exists()


def test_what_is_gone_or_changed_is_named_and_nothing_is_touched(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    shutil.copy(videos / "b.mp4", videos / "e.mp4")
    ingest(videos, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    kept = (videos / "d.mp4").read_bytes()
    (videos / "d.mp4").unlink()
    make_video(videos / "new.mp4", frames=20)
    for look in (lambda: ingest(videos, out), lambda: list(dry_run(config(videos, out)))):
        with pytest.raises(IdentityError, match=r"d\.mp4 is gone; new\.mp4 is new"):
            look()
    forget(out)
    with pytest.raises(IdentityError, match=r"d-[0-9a-f]{12} is gone"):
        ingest(videos, out)
    (videos / "d.mp4").write_bytes(kept)
    (videos / "new.mp4").unlink()
    ingest(videos, out)
    make_video(videos / "d.mp4", frames=30)
    with pytest.raises(IdentityError, match=r"d\.mp4 has another size than when ingested"):
        ingest(videos, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_source_that_was_mended_is_no_change(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    (videos / "e.mp4").write_text("half of a download")
    ingest(videos, out)
    make_video(videos / "e.mp4", frames=20)
    assert ingest(videos, out).done == 0
    assert ingest(videos, out, retry_failed=True).done == 4
    assert ShardSet.open(str(out)).count == 8


def test_a_shard_is_not_made_again_with_fewer_clips(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    (videos / "c.mp4").write_text("no video")
    ingest(videos, out, shard_clips=8)
    before = shards_of(out)
    size = (videos / "d.mp4").stat().st_size
    (videos / "d.mp4").write_bytes(bytes(size))  # as a disk that fails
    ingest(videos, out, shard_clips=8, retry_failed=True)
    assert shards_of(out) == before


def test_a_set_that_was_killed_before_it_wrote_its_record_goes_on(videos: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "shards", tmp_path / "whole"
    shutil.copy(videos / "b.mp4", videos / "e.mp4")
    ingest(videos, whole)
    out.mkdir()
    shutil.copy(whole / "artifact.json", out)
    assert ingest(videos, out).done == 6
    assert shards_of(out) == shards_of(whole)
    assert (out / "sources-001.json").read_bytes() == (whole / "sources-001.json").read_bytes()


# --- copies ---


@pytest.mark.parametrize("how", ["copied", "hard link", "symbolic link"])
def test_of_copies_and_links_of_one_video_one_is_taken(
    videos: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deltactl")
    (videos / "sub").mkdir()
    place = {"copied": shutil.copy, "hard link": os.link, "symbolic link": os.symlink}[how]
    place(videos / "d.mp4", videos / "sub" / "again.mp4")
    place(videos / "d.mp4", videos / "a.mp4")
    ingest(videos, tmp_path / "shards")
    taken = [name for names in sources(tmp_path / "shards").values() for name in names]
    assert taken == ["a.mp4", "b.mp4", "f.mp4"]
    assert "d.mp4 (of a.mp4), sub/again.mp4 (of a.mp4)" in caplog.text
    place(videos / "b.mp4", videos / "later.mp4")
    assert ingest(videos, tmp_path / "shards").done == 0
    assert "later.mp4 (of b.mp4)" in caplog.text


def test_files_of_one_size_or_of_equal_ends_are_no_copies(videos: Path, tmp_path: Path) -> None:
    data = (videos / "b.mp4").read_bytes() + bytes(200_000)
    for name, middle in (("x", b"1"), ("y", b"2")):
        (videos / f"{name}.mp4").write_bytes(data[:-100_000] + middle + data[-100_000:])
    ingest(videos, tmp_path / "shards")
    taken = [name for names in sources(tmp_path / "shards").values() for name in names]
    assert sorted(taken) == ["b.mp4", "d.mp4", "f.mp4", "x.mp4", "y.mp4"]


def test_copies_of_what_cannot_be_read_are_quarantined_with_it(videos: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (videos / f"{name}.mp4").write_text("404 not found")
    summary = ingest(videos, tmp_path / "shards")
    assert summary.quarantined == 2
    assert "2 of 5 sources in quarantine" in summary.state


def test_a_copy_that_became_another_video_is_a_new_source(videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "d.mp4", videos / "e.mp4")
    ingest(videos, tmp_path / "shards")
    make_video(videos / "e.mp4", frames=24)
    ingest(videos, tmp_path / "shards")
    assert sources(tmp_path / "shards")["000002"] == ["e.mp4"]


# --- what is made from it ---


def test_a_store_goes_on_with_the_shards_that_were_added_and_says_of_which_generation_it_is(
    videos: Path, tmp_path: Path
) -> None:
    shards, store = tmp_path / "shards", tmp_path / "store"
    ingest(videos, shards)
    featurize(shards, store, views="2")
    before, first = contents(store), record_of(FeatureStore.open(str(store)))
    make_video(videos / "a.mp4", frames=20)
    ingest(videos, shards)
    assert record_of(FeatureStore.open(str(store))) == first, "until then it is of the first"
    summary = featurize(shards, store)
    assert (summary.done, summary.skipped) == (4, 12), "both views go on"
    del before["quarantine.jsonl"]
    assert before.items() <= contents(store).items()
    header, origin = read_header(Location.of(store)), read_header(Location.of(shards))
    assert header.generations == ({"shards": generation_hash(origin.identity, origin.generations)},)
    assert header.identity.values["shards"] == origin.identity.hash()
    assert len(FeatureStore.open(str(store))) == 16
    fresh = tmp_path / "fresh"
    featurize(shards, fresh, views="2")
    assert contents(fresh) == contents(store)
    assert (fresh / "index.json").read_bytes() != b""
    assert read_header(Location.of(fresh)).generations == header.generations
    flip(store / "artifact.json", 20)
    assert main(["verify", str(store), "--repair"]) == 0
    assert read_header(Location.of(store)).generations == header.generations


def test_a_run_says_what_was_added_since_it_was_stopped(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards, store = tmp_path / "shards", tmp_path / "store"
    ingest(videos, shards)
    featurize(shards, store)
    then = record_of(FeatureStore.open(str(store)))
    make_video(videos / "a.mp4", frames=20)
    ingest(videos, shards)
    featurize(shards, store)
    now = record_of(FeatureStore.open(str(store)))
    assert (len(then.generations), len(now.generations)) == (0, 1)
    RunRecord.alone(then).check(RunRecord.alone(now), "last.ckpt", ["store"])
    assert "it read generation 1 of the sources, there is generation 2 now" in caplog.text
    assert type(now).of(Fields(now.to_json(), "x")) == now
    assert generation_in(tmp_path, then) is None
    assert generation_in(tmp_path, now) == 2
    with pytest.raises(IdentityError, match="gone"):
        RunRecord.alone(now).check(RunRecord.alone(then), "last.ckpt", ["store"])


def generation_in(folder: Path, record: DataRecord) -> int | None:
    """Return which generation `info` would tell of a checkpoint of a run that read this."""
    state = load(TOKENIZER, KIND).state_dict()
    torch.save({"state_dict": state, "run": {"data": record.to_json()}}, folder / "last.ckpt")
    return read_contents(folder / "last.ckpt").progress.get("generation of the sources")


def test_features_are_not_made_from_an_older_state_of_the_shards(videos: Path, tmp_path: Path) -> None:
    shards, old, store = tmp_path / "shards", tmp_path / "old", tmp_path / "store"
    ingest(videos, shards)
    shutil.copytree(shards, old)
    make_video(videos / "a.mp4", frames=20)
    ingest(videos, shards)
    featurize(shards, store)
    with pytest.raises(IdentityError, match="is of generation 2 of its sources, .* of generation 1"):
        featurize(old, store)
