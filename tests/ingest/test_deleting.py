"""Nothing that a user made is removed or overwritten without its name, its size and a yes."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from evaluations import GOLDEN, ROOTS
from small_shards import training_shards
from small_stores import BACKBONE, contents, copy, flip, tokens
from small_stores import run as featurize
from videos import make_video

from deltactl.claims import share
from deltactl.cli import main
from deltactl.demo.datasets import DemoSizes
from deltactl.demo.run import make_data
from deltactl.errors import ArtifactError, ConfigError, DeltactlError
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.views import parse_view_numbers
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location


class Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, features of three views, and tokens."""
    folder = tmp_path_factory.mktemp("made")
    training_shards(folder / "shards")
    featurize(folder / "shards", folder / "store", views="3")
    tokens(folder / "store", folder / "tokens", views="1")
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return copy(made / "store", tmp_path / "store")


def drop(store: Path, views: str, *flags: str) -> int:
    return main(["featurize", "--out", str(store), str(store.parent / "shards"), "--drop-views", views, *flags])


@pytest.fixture(autouse=True)
def _shards(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "shards", tmp_path / "shards")


def views_of(store: Path) -> tuple[int, ...]:
    return FeatureStore.open(str(store)).views


# --- views ---


@pytest.mark.parametrize(
    ("text", "views"),
    [("2", (2,)), ("0", (0,)), ("0:4", (0, 1, 2, 3)), ("0,3", (0, 3)), ("5,0:2,1", (0, 1, 5)), (" 1 , 2 ", (1, 2))],
)
def test_views_to_drop_are_numbers_never_counts(text: str, views: tuple[int, ...]) -> None:
    assert parse_view_numbers(text) == views


@pytest.mark.parametrize("text", ["", ",", "a", "-1", "3:3", "4:2", "0:", ":2", "1000", "0;1", "0-2", "1.0"])
def test_what_names_no_views_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected numbers of views"):
        parse_view_numbers(text)


def test_the_view_that_is_named_goes_and_no_other(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drop(store, "2", "--yes") == 0
    output = capsys.readouterr()
    assert "dropped view 2; views 0, 1 left" in output.out
    assert "removes view 2" in output.err
    assert views_of(store) == (0, 1)
    assert drop(store, "0,1", "--yes") == 0


def test_unasked_it_says_what_would_go_and_stops(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(store)
    assert drop(store, "1:3") == 1
    output = capsys.readouterr()
    size = sum(path.stat().st_size for path in (store / "v001").rglob("*") if path.is_file())
    assert f"would remove view 1 of {store} (2 shards) ({size / 1000:.3g} kB; view 0 left)" in output.err
    assert "add --yes" in output.err
    assert contents(store) == before


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, (0, 1)), ("n\n", 1, (0, 1, 2)), ("\n", 1, (0, 1, 2))])
def test_on_a_terminal_it_asks(
    store: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: tuple[int, ...]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert drop(store, "2") == code
    assert views_of(store) == left


def test_views_that_are_not_there_are_refused_and_those_that_are_named(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(store)
    assert drop(store, "1,7", "--yes") == 1
    assert "has no view 7; it has views 0, 1, 2" in capsys.readouterr().err
    assert contents(store) == before


def test_a_dry_run_lists_what_would_go_and_removes_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(store)
    assert drop(store, "0,2", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" of ")[0] for line in lines] == ["would remove view 0", "would remove view 2"]
    assert all(" kB; view 1 left)" in line for line in lines)
    backbone = ["--backbone", str(BACKBONE), "--size", "64", "--device", "cpu"]
    assert drop(store, "0", "--views", "3:4", "--dry-run", *backbone) == 0
    assert "would remove view 0" in capsys.readouterr().out
    assert contents(store) == before


def test_views_are_not_dropped_while_another_process_works_there(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with share(Location.of(store)):
        assert drop(store, "2", "--yes") == 1
    assert f"{store} is being written by process " in capsys.readouterr().err
    assert views_of(store) == (0, 1, 2)


def test_the_last_view_goes_after_a_yes_alone_and_later_messages_say_who_dropped_it(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drop(store, "0:3") == 1
    assert "nothing is left of the store but its identity" in capsys.readouterr().err
    assert drop(store, "0:2", "--yes") == 0
    with pytest.raises(ArtifactError, match=r"no whole view 1 \(whole: 2; view 1 was dropped by `"):
        FeatureStore.open(str(store), views=[1])
    assert drop(store, "2", "--yes") == 0
    with pytest.raises(ArtifactError, match=r"holds no views: view 2 was dropped by `.*` on "):
        FeatureStore.open(str(store))
    capsys.readouterr()
    for command in ("info", "verify"):
        main([command, str(store)])
        assert "view 2 was dropped by `" in "".join(capsys.readouterr())
    assert drop(store, "2", "--yes") == 1
    assert "has no view 2 (view 2 was dropped by `" in capsys.readouterr().err
    featurize(store.parent / "shards", store, views="1")
    assert views_of(store) == (0,)
    assert main(["verify", str(store)]) == 0


# --- verify --repair ---


@pytest.mark.parametrize(
    ("kind", "name", "gone"),
    [("shards", "000001.tar", "000001.tar"), ("tokens", "v000/000000-*/tokens/c.0.0.0.0", "v000")],
)
def test_repair_asks_before_it_takes_out_what_is_damaged(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str, gone: str
) -> None:
    place = copy(made / kind, tmp_path / "copy")
    (path,) = place.glob(name)
    flip(path, 1000)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert main(["verify", str(place), "--repair"]) == 1
    output = capsys.readouterr().err
    assert f"would remove {place / gone}" in output
    assert "add --yes" in output
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    main(["verify", str(place), "--repair", "--yes"])
    assert "took out" in capsys.readouterr().out
    if kind == "shards":
        assert ShardSet.open(str(place)).units == ["000000"]


def test_what_is_left_over_is_no_business_of_repair(store: Path) -> None:
    (store / "notes.txt").write_text("mine")
    flip(store / "zarr.json", 3)
    assert main(["verify", str(store), "--repair"]) == 0
    assert (store / "notes.txt").read_text() == "mine"


# --- predictions, reports, exports, pictures ---

WEIGHTS = [
    *("--backbone", str(GOLDEN / "backbone"), "--tokenizer", str(GOLDEN / "deltatok.bin")),
    *("--world", str(GOLDEN / "deltaworld.bin"), "--size", "64", "--device", "cpu"),
]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *names: Path) -> None:
    """Check that a command says what it would overwrite, and stops."""
    capsys.readouterr()
    assert main(arguments) == 1
    output = capsys.readouterr().err
    for name in names:
        assert f"would remove {name} (" in output
    assert "nothing was removed or overwritten" in output


def test_a_prediction_of_something_else_is_not_overwritten_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = make_video(tmp_path / "a.mp4", frames=60, rate=30), tmp_path / "out"
    command = ["predict", str(video), *WEIGHTS, "--samples", "2", "--out", str(out)]
    assert main(command) == 0
    first = (out / "features.npz").read_bytes()
    assert main(command) == 0, "made again, the same is nothing to ask about"
    other = [*command, "--seed", "1"]
    refused(capsys, other, out)
    (out / "notes.txt").write_text("mine")
    (out / ".hidden").write_text("mine")
    assert (out / "features.npz").read_bytes() == first
    assert main([*other, "--yes"]) == 0
    assert (out / "features.npz").read_bytes() != first
    assert {(out / name).read_text() for name in ("notes.txt", ".hidden")} == {"mine"}, "what is not ours stays"


def test_a_report_of_something_else_is_not_overwritten_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    command = ["eval", "--dataset", "vspw", "--root", str(ROOTS["vspw"]), "--out", str(out), "--pictures", "0"]
    command += [*WEIGHTS[:2], "--size", "64", "--device", "cpu", "--no-cache", "--limit", "2"]
    assert main(command) == 0
    first = (out / "metrics.json").read_bytes()
    assert main(command) == 0
    other = [*command, "--context", "3"]
    refused(capsys, other, out)
    assert (out / "metrics.json").read_bytes() == first
    assert main([*other, "--yes"]) == 0
    assert json.loads((out / "metrics.json").read_text())["context"] == 3


def test_an_export_replaces_another_only_after_a_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["export", str(GOLDEN / "deltatok.bin"), "--out", str(out)]) == 0
    command = ["export", str(GOLDEN / "deltaworld.bin"), "--out", str(out)]
    refused(capsys, command, *sorted(out.iterdir()))
    assert main([*command, "--yes"]) == 0
    (out / "config.json").unlink()
    refused(capsys, command, out / "README.md")
    (out / "thesis.txt").write_text("mine")
    assert main([*command, "--yes"]) == 1
    assert "holds 'thesis.txt' already" in capsys.readouterr().err


def test_a_picture_is_not_drawn_over_a_file_unasked(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"a photograph")
    command = ["info", str(store), "--picture", str(mine)]
    refused(capsys, command, mine)
    assert mine.read_bytes() == b"a photograph"
    assert main([*command, "--yes"]) == 0
    assert mine.read_bytes().startswith(b"\x89PNG")


def test_the_demo_leaves_a_folder_of_other_data_alone(tmp_path: Path) -> None:
    (tmp_path / "data" / "kinetics").mkdir(parents=True)
    with pytest.raises(DeltactlError, match="holds 'kinetics' and no demo; nothing is overwritten"):
        make_data(tmp_path, 0, DemoSizes())


def test_the_python_api_refuses_unless_it_is_told_that_it_may(store: Path) -> None:
    settings: Any = {"shards": str(store.parent / "shards"), "out": str(store), "drop_views": "1"}
    from deltactl.configs.featurize import FeaturizeConfig
    from deltactl.featurize.run import drop as drop_views

    with pytest.raises(ConfigError, match="nothing was removed or overwritten: view 1 of "):
        drop_views(FeaturizeConfig(**settings))
    assert views_of(store) == (0, 1, 2)
