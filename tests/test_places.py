"""Every command that writes does so wherever its output lies: links, other file systems, odd names, locked folders."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from evaluations import GOLDEN, TREES
from small_training import BACKBONE, make_features, make_shards
from videos import make_video

from deltactl import staging
from deltactl.claims import hold
from deltactl.cli import main
from deltactl.demo.datasets import DemoSizes
from deltactl.demo.run import run_demo
from deltactl.errors import DeltactlError
from deltactl.evaluate.predict import run as predict
from deltactl.locations import Location

SMALL = ["--set", "size=64", "--set", "wandb=disabled", "--set", "effective_batch=4", "--set", "steps=1"]
TINY = [*SMALL, "--set", "network.depth=1", "--set", "network.width=64"]
TOKENIZER, WORLD = str(GOLDEN / "deltatok.bin"), str(GOLDEN / "deltaworld.bin")
CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands read: one small video, shards, features and tokens of bars, and a labelled set."""
    root = tmp_path_factory.mktemp("inputs")
    make_video(root / "videos" / "street.mp4", frames=60)
    shards = make_shards(root / "shards", units=1, clips=6)
    features = make_features(shards, root / "features")
    labelled, seen = str(root / "vspw"), str(root / "vspw-features")
    assert main(["tokenize", features, "--tokenizer", TOKENIZER, "--out", str(root / "tokens"), *CPU]) == 0
    tree = ["--dataset", "vspw", "--split", "val", "--size", "64", "--workers", "0"]
    assert main(["ingest", str(TREES / "VSPW"), *tree, "--out", labelled]) == 0
    make_features(labelled, Path(seen), views="2")
    return {
        "videos": str(root / "videos"),
        "shards": shards,
        "features": features,
        "tokens": str(root / "tokens"),
        "labelled": labelled,
        "seen": seen,
    }


def ingest(inputs: dict[str, str]) -> list[str]:
    return ["ingest", inputs["videos"], "--size", "64", "--clips", "1", "--frames", "2", "--workers", "0"]


def featurize(inputs: dict[str, str]) -> list[str]:
    return ["featurize", inputs["shards"], "--backbone", str(BACKBONE), "--size", "64", *CPU]


def tokenize(inputs: dict[str, str]) -> list[str]:
    return ["tokenize", inputs["features"], "--tokenizer", TOKENIZER, *CPU]


def train_tokenizer(inputs: dict[str, str]) -> list[str]:
    return ["train", "tokenizer", inputs["features"], *SMALL, "--set", "network.width=128", "--set", "network.depth=1"]


def train_world(inputs: dict[str, str]) -> list[str]:
    return ["train", "world", inputs["tokens"], *TINY, "--set", "frames=4", "--set", "queries=2"]


def train_head(inputs: dict[str, str]) -> list[str]:
    data = ["--shards", inputs["labelled"], "--store", inputs["seen"]]
    return ["train", "head", "--dataset", "vspw", *data, *SMALL]


def evaluate(inputs: dict[str, str]) -> list[str]:
    data = ["--dataset", "vspw", "--root", str(TREES / "VSPW"), "--backbone", str(BACKBONE), "--size", "64"]
    few = ["--pictures", "0", "--no-cache", "--limit", "1"]
    return ["eval", *data, "--head", str(GOLDEN / "head_vspw.bin"), *few, *CPU]


def predict_futures(inputs: dict[str, str]) -> list[str]:
    networks = ["--backbone", str(BACKBONE), "--size", "64", "--tokenizer", TOKENIZER, "--world", WORLD]
    return ["predict", f"{inputs['videos']}/street.mp4", *networks, "--samples", "1", "--horizon", "1", *CPU]


def export(inputs: dict[str, str]) -> list[str]:
    return ["export", TOKENIZER]


COMMANDS: dict[str, tuple[Callable[[dict[str, str]], list[str]], str]] = {
    "ingest": (ingest, "index.json"),
    "featurize": (featurize, "index.json"),
    "tokenize": (tokenize, "index.json"),
    "train tokenizer": (train_tokenizer, "checkpoints/last.ckpt"),
    "train world": (train_world, "checkpoints/last.ckpt"),
    "train head": (train_head, "checkpoints/last.ckpt"),
    "eval": (evaluate, "metrics.json"),
    "predict": (predict_futures, "artifact.json"),
    "export": (export, "config.json"),
}
"""Each with a file that it ends with."""


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than that of `tmp_path`."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory, prefix="deltactl-"))
    yield folder
    shutil.rmtree(folder)


# Each place is what is typed after --out, and where that really is. Names are relative to the working folder.


def plain(here: Path, elsewhere: Path) -> tuple[str, Path]:
    return "out", here / "out"


def link_to_another_disk(here: Path, elsewhere: Path) -> tuple[str, Path]:
    (elsewhere / "real").mkdir()
    (here / "link").symlink_to(elsewhere / "real")
    return "link", elsewhere / "real"


def link_to_nothing_yet(here: Path, elsewhere: Path) -> tuple[str, Path]:
    (here / "link").symlink_to(elsewhere / "new" / "deep")
    return "link", elsewhere / "new" / "deep"


def above_a_link(here: Path, elsewhere: Path) -> tuple[str, Path]:
    (elsewhere / "inner").mkdir()
    (here / "link").symlink_to(elsewhere / "inner")
    return "link/../beside/deep", elsewhere / "beside" / "deep"


def odd_name(here: Path, elsewhere: Path) -> tuple[str, Path]:
    name = "--views Zürich 東京 #1 100%20 [x]* 'a' {b}"
    return f"{name}/", here / name


def long_name(here: Path, elsewhere: Path) -> tuple[str, Path]:
    return "n" * 250, here / ("n" * 250)


def mount_point(here: Path, elsewhere: Path) -> tuple[str, Path]:
    """The folder above is on another file system: as where a volume is mounted at the output itself."""
    (here / "mounted").mkdir()
    return "mounted", here / "mounted"


def locked_parent(here: Path, elsewhere: Path) -> tuple[str, Path]:
    (here / "locked" / "out").mkdir(parents=True)
    (here / "locked").chmod(0o555)
    return "locked/out", here / "locked" / "out"


PLACES = (
    plain,
    link_to_another_disk,
    link_to_nothing_yet,
    above_a_link,
    odd_name,
    long_name,
    mount_point,
    locked_parent,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def arrange(place: Callable[..., object], here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder a mount point, or locked to an administrator too, as far as deltactl can tell."""
    if place is mount_point:
        monkeypatch.setattr(staging, "_beside", lambda real: elsewhere / f".{real.name}.partial")
    if place is locked_parent and os.geteuid() == 0:
        make = staging.make_folder

        def refuse(folder: Path) -> None:
            if folder.is_relative_to(here / "locked") and not folder.is_relative_to(here / "locked" / "out"):
                raise PermissionError(13, "Permission denied", str(folder))
            make(folder)

        monkeypatch.setattr(staging, "make_folder", refuse)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_writes_to_each_place(
    name: str,
    place: Callable[[Path, Path], tuple[str, Path]],
    inputs: dict[str, str],
    here: Path,
    other_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed, real = place(here, other_disk)
    links = [path for path in here.iterdir() if path.is_symlink()]
    arrange(place, here, other_disk, monkeypatch)
    words, last = COMMANDS[name]
    assert main([*words(inputs), "--out", typed]) == 0, capsys.readouterr().err
    assert (real / last).is_file()
    assert all(path.is_symlink() for path in links)
    hidden = [path for folder in (here, other_disk) for path in folder.rglob(".*")]
    assert hidden == [], "no draft and no claim is left"
    if last in ("index.json", "checkpoints/last.ckpt"):
        assert main(["verify", "--", typed]) == 0
        assert "0 damaged, 0 missing, 0 left over" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_is_refused_where_another_process_writes(
    name: str, inputs: dict[str, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, _ = COMMANDS[name]
    with hold(Location.of("out")):
        before = sorted(here.rglob("*"))
        assert main([*words(inputs), "--out", "out"]) == 1
        assert sorted(here.rglob("*")) == before, "nothing is written"
    said = capsys.readouterr().err
    assert f"error: {here / 'out'} is being written by process {os.getpid()} on" in said
    assert "wait until it ends, or choose another --out" in said


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_place_where_nothing_can_be_written_is_an_error_before_the_work(
    name: str, inputs: dict[str, str], here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "file").write_bytes(b"mine")
    words, _ = COMMANDS[name]

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(predict, "predict_futures", work)
    monkeypatch.setattr("deltactl.evaluate.run.evaluate", work)
    monkeypatch.setattr("deltactl.train.loop.make_trainer", work)
    for out in ("file", "file/below"):
        assert main([*words(inputs), "--out", out]) == 1
        said = capsys.readouterr().err
        assert str(here / "file") in said
        assert "is a file" in said or "holds something other" in said, said
    assert (here / "file").read_bytes() == b"mine"


def test_the_workspace_may_be_a_link_to_another_disk(
    inputs: dict[str, str], here: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "home").symlink_to(other_disk / "home")
    monkeypatch.setenv("DELTACTL_HOME", str(here / "home"))
    for words, last in (COMMANDS["ingest"], COMMANDS["predict"], COMMANDS["eval"]):
        assert main([word for word in words(inputs) if word != "--no-cache"]) == 0
        assert list((other_disk / "home").rglob(last))
    assert not list(other_disk.rglob(".*"))


def test_the_demo_may_go_to_a_link_to_nothing_yet(here: Path, other_disk: Path) -> None:
    (here / "demo").symlink_to(other_disk / "new")
    sizes = DemoSizes(videos=1, heads_videos=1, test_videos=1, drives=1, drive_frames=8)
    with pytest.raises(DeltactlError, match="ended with code 3"):
        run_demo(Path("demo"), lambda _: 3, sizes=sizes)
    assert (other_disk / "new" / "data" / "kinetics").is_dir()


def test_a_second_prediction_replaces_the_first_and_leaves_what_is_not_of_one(
    inputs: dict[str, str], here: Path
) -> None:
    heads = ["--head", str(GOLDEN / "head_vspw.bin"), "--out", "out"]
    assert main([*predict_futures(inputs), *heads]) == 0
    (here / "out" / "notes.txt").write_text("mine")
    assert (here / "out" / "vspw").is_dir()
    assert main([*predict_futures(inputs), *heads, "--seed", "1", "--yes"]) == 0
    assert len(list((here / "out" / "vspw").iterdir())) > 1
    assert main([*predict_futures(inputs), "--out", "out", "--yes"]) == 0
    assert not (here / "out" / "vspw").exists(), "no maps of the earlier one are taken for this one's"
    assert (here / "out" / "notes.txt").read_text() == "mine"
