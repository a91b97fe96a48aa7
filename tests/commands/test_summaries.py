"""What a stage says at its end, or in a dry run, is the state of the whole artifact, not of this call alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_shards import training_shards
from small_stores import run as featurize
from small_stores import settings
from videos import make_video

from deltactl.cli import main
from deltactl.errors import StorageError
from deltactl.featurize.run import dry_run
from deltactl.locations import Location


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for number in range(6):
        make_video(tmp_path / "in" / f"{number}.mp4", frames=20)
    for number in range(3):
        (tmp_path / "in" / f"bad{number}.mp4").write_text(f"no video {number}")
    return tmp_path / "in"


def ingest(videos: Path, *flags: str) -> int:
    out = ["--out", str(videos.parent / "out"), "--clips", "2", "--shard-clips", "4", "--workers", "0"]
    return main(["ingest", str(videos), "--dataset", "folder", *out, *flags])


def test_a_second_ingest_tells_what_is_there_and_what_is_in_quarantine(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = "out is complete: 12 clips in 5 shards, 3 of 9 sources in quarantine"
    for done, skipped, bad in ((12, 0, "3 sources"), (0, 12, "0")):
        assert ingest(videos, "--max-bad", "0.5") == 0
        output = capsys.readouterr().out
        assert f"{done} clips done, {skipped} skipped, {bad} quarantined" in output
        assert state in output
    assert ingest(videos, "--max-bad", "0.5", "--dry-run") == 0
    assert state in capsys.readouterr().out


def test_an_unfinished_set_is_told_from_a_complete_one(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--part", "1/5"], ["--part", "1/5", "--dry-run"]):
        assert ingest(videos, "--max-bad", "0.5", *flags) == 0
        assert "out is unfinished: 1 of 5 shards with 4 clips so far" in capsys.readouterr().out


def test_a_dry_run_that_knows_that_the_ingest_will_fail_fails(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in videos.glob("[2-5].mp4"):
        path.write_text(f"spoilt: {path.name}")
    for flags in (["--dry-run"], []):
        assert ingest(videos, *flags) == 1
        output = capsys.readouterr()
        assert "sources cannot be read, more than --max-bad 0.05 allows" in output.err
        assert not flags or "read 4 of the 9 sources to do: " in output.out
    assert ingest(videos, "--dry-run", "--max-bad", "1") == 0


def test_a_dry_run_over_a_set_that_has_failed_fails(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest(videos, "--max-bad", "0.5") == 0
    capsys.readouterr()
    assert ingest(videos) == 1
    assert ingest(videos, "--dry-run") == 1
    assert "3 of 9 sources cannot be read" in capsys.readouterr().err


def test_a_dry_run_warns_where_what_it_read_does_not_settle_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number:02}.mp4").write_text(f"no video {number}")
    assert main(["ingest", str(tmp_path / "in"), "--dataset", "folder", "--dry-run", "--max-bad", "0.5"]) == 0
    output = capsys.readouterr().out
    assert "read 4 of the 30 sources to do: 4 cannot be used" in output
    assert "stops once more than 15 sources cannot be read (--max-bad 0.5); at this share there would be 30" in output


def test_a_second_featurize_tells_what_the_store_holds(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards")
    first = featurize(tmp_path / "shards", tmp_path / "store", views="2")
    second = featurize(tmp_path / "shards", tmp_path / "store", views="2")
    assert first.state == second.state
    assert "store is complete: 2 views of 6 clips, 12 readable and 0 not, 0 in quarantine" in second.lines()[-1]
    (half,) = [featurize(tmp_path / "shards", tmp_path / "store", views="2:3", part="1/2")]
    assert "store is unfinished: 3 views of 6 clips" in half.state
    assert "view 2 holds 1 of 2 shards" in half.state
    assert half.state in list(dry_run(settings(tmp_path / "shards", tmp_path / "store")))


def test_a_dry_run_of_featurize_fails_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training_shards(tmp_path / "shards")
    monkeypatch.setattr(Location, "free_bytes", lambda self: 10)
    lines = []
    with pytest.raises(StorageError, match="and 10 B are free there"):
        lines += dry_run(settings(tmp_path / "shards", tmp_path / "store"))
