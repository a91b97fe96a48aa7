"""`deltactl ingest`: what it prints, what it refuses, and where things go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from videos import make_video

from deltactl.cli import main
from deltactl.ingest.shards.format import ShardSet


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinetics")
    for split, name in [("train", "a"), ("train", "b"), ("val", "c")]:
        make_video(root / split / "playing guitar" / f"{name}_000001_000011.mp4", frames=20)
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["ingest", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_with_its_root_set_the_bare_command_does_kinetics(
    kinetics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("KINETICS_ROOT", str(kinetics))
    code, out, _ = run(capsys)
    assert code == 0
    assert "16 clips done, 0 skipped, 0 quarantined" in out
    assert "set the pace" in out
    shards = ShardSet.open(str(tmp_path / "workspace" / "shards" / "kinetics"))
    assert shards.count == 16
    assert {clip.meta.source for clip in shards.read("000000")} == {
        "train/playing guitar/a_000001_000011.mp4",
        "train/playing guitar/b_000001_000011.mp4",
    }
    code, out, _ = run(capsys, "--split", "val", "--clips", "2", "--frames", "4")
    assert code == 0
    assert ShardSet.open(str(tmp_path / "workspace" / "shards" / "kinetics-val")).count == 2


def test_a_source_is_taken_for_what_it_looks_like(kinetics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(capsys, kinetics, "--dry-run")[1].startswith("kinetics: 2 sources")
    assert run(capsys, kinetics, "--dry-run", "--dataset", "folder")[1].startswith("folder: 3 sources")
    assert run(capsys, kinetics / "train", "--dry-run")[1].startswith("folder: 2 sources")
    shutil.make_archive(str(tmp_path / "a"), "zip", kinetics)
    zipped = run(capsys, tmp_path / "a.zip", "--dry-run")[1]
    assert zipped.startswith("kinetics: 1 source ")
    assert "holds no frames; files named frame_SECONDS.jpg were expected" in zipped


def test_videos_may_be_named_one_or_several_and_folders_among_them(
    kinetics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first, second = sorted((kinetics / "train" / "playing guitar").iterdir())
    code, out, err = run(capsys, first, "--clips", "2")
    assert code == 0, err
    assert out.startswith("2 clips done")
    alone = ShardSet.open(str(tmp_path / "workspace" / "shards" / first.stem))
    assert {clip.meta.source for clip in alone.read("000000")} == {first.name}
    code, out, err = run(capsys, first, second, kinetics / "val", first, "--out", tmp_path / "several")
    assert code == 0, err
    several = ShardSet.open(str(tmp_path / "several"))
    assert {clip.meta.source for clip in several.read("000000")} == {
        *(f"train/playing guitar/{path.name}" for path in (first, second)),
        "val/playing guitar/c_000001_000011.mp4",
    }
    assert run(capsys, first, second, "--dry-run")[1].startswith("folder: 2 sources in ")
    (tmp_path / "notes.txt").write_text("no video")
    for words, message in (
        ([first, tmp_path / "gone.mp4"], "gone.mp4 does not exist; name videos, or folders of videos"),
        ([tmp_path / "notes.txt"], "notes.txt is not a video by its name; expected a folder, or a file such as .mp4"),
        ([first, second, "--dataset", "kinetics"], "2 sources are named, but kinetics has one root"),
        ([first, "s3://bucket/b.mp4"], "s3://bucket/b.mp4 is not on a local disk"),
    ):
        code, _, err = run(capsys, *words)
        assert code == 1
        assert message in err


def test_a_dry_run_tells_size_and_time_and_writes_nothing(
    kinetics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (kinetics / "train" / "playing guitar" / "x_bad.mp4").write_text("no")
    try:
        code, out, _ = run(
            capsys, kinetics, "--dry-run", "--clips", "4", "--out", tmp_path / "there", "--max-bad", "0.5"
        )
    finally:
        (kinetics / "train" / "playing guitar" / "x_bad.mp4").unlink()
    assert code == 0
    assert "3 sources" in out
    assert "12 clips of 8 frames in 1 shard\n" in out
    assert "a clip)" in out
    assert "are free" in out
    assert "unreadable: train/playing guitar/x_bad.mp4" in out
    assert list(tmp_path.iterdir()) == []


def test_the_dry_run_of_a_finished_set_has_nothing_to_do(
    kinetics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(capsys, kinetics, "--out", tmp_path / "there")[0] == 0
    assert (
        "1 shard finished, 0 shards with 0 clips to do"
        in run(capsys, kinetics, "--out", tmp_path / "there", "--dry-run")[1]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no source is given and KINETICS_ROOT is not set"),
        (["--dataset", "vspw"], "VSPW_ROOT is not set"),
        (["--dataset", "folder"], "no source is given; name the folder of videos"),
        (["nowhere"], "is not a folder"),
        (["s3://bucket/videos"], "is not on a local disk"),
        ([".", "--dataset", "folder", "--split", "train"], "a plain folder has no splits"),
        ([".", "--dataset", "vspw", "--clips", "3"], "vspw says itself which clips it has"),
        (["{kinetics}", "--exclude", "nowhere.txt"], "--exclude nowhere.txt cannot be read"),
        (["{kinetics}", "--seed", "1", "--set", "seed=2"], "disagree"),
        (["{kinetics}", "--set", "sede=2"], "did you mean 'seed'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    kinetics: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    code, _, err = run(capsys, *(argument.format(kinetics=kinetics) for argument in arguments))
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--frames", "0"], ["--part", "3/2"], ["--decoder", "vlc"], ["--max-bad", "2"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(capsys, ".", *arguments)[0] == 2


def test_names_that_are_not_utf8_are_printed_with_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_video(tmp_path / "in" / "a.mp4", frames=8).rename(tmp_path / "in" / os.fsdecode(b"go\xf6d.mp4"))
    (tmp_path / "in" / os.fsdecode(b"b\xe4d.mp4")).write_text("not a video")
    code, out, err = run(capsys, tmp_path / "in", "--dry-run", "--max-bad", "0.5")
    assert (code, err) == (0, "")
    assert r"unreadable: b\udce4d.mp4: cannot be read as video" in out
    code, _, err = run(capsys, tmp_path / "in", "--max-bad", "0")
    assert code == 1
    assert r"such as b\udce4d.mp4: cannot be read as video" in err


def test_too_many_bad_sources_exit_with_1_and_name_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_text("not a video")
    code, _, err = run(capsys, tmp_path / "in", "--out", tmp_path / "out")
    assert code == 1
    assert "error: 1 of 1 source cannot be read" in err
    assert "a.mp4: cannot be read as video" in err


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from deltactl.cli import main; main(['ingest', '--help']);"
        "print([name for name in ('av', 'cv2', 'numpy', 'torch', 'yaml') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.endswith("[]\n")
    assert "--retry-failed" in output
