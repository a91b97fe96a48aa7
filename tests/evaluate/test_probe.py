"""`deltactl probe`: what it tells, leaves behind, applies, and says when it cannot."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_stores import Clip, separable, write_store
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_stores import contents

from deltactl.cli import main
from deltactl.evaluate.probe import run as probe_run
from deltactl.featurize.store.scan import open_whole, source_names
from deltactl.ingest.shards.columns import Column
from deltactl.ingest.shards.held_out import held_out_sources
from deltactl.locations import Location
from deltactl.progress import counted

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["artifact.json", "confusion.csv", "confusion.png", "predictions.csv", "probe.json", "probe.safetensors"]
Row = dict[str, str]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features and tokens of clips of three classes that lie apart, and features whose classes overlap."""
    root = tmp_path_factory.mktemp("probe")
    write_store(root / "features", separable())
    write_store(root / "tokens", separable(), kind="tokens")
    write_store(root / "mixed", separable(videos=30, noise=12.0, seed=3))
    return root


def probe(store: Path | str, out: Path | str, *words: str) -> dict[str, Any]:
    """Run the command and return the figures."""
    assert main(["probe", str(store), "--out", str(out), *words]) == 0
    facts: dict[str, Any] = json.loads((Location.of(out) / "probe.json").read_bytes())
    return facts


def rows(file: Path) -> list[Row]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def by(row: Row, *names: str) -> tuple[str, ...]:
    return tuple(row[name] for name in names)


@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_classes_that_lie_apart_are_told_without_a_fault(kind: str, root: Path, tmp_path: Path) -> None:
    facts = probe(root / kind, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*NAMES, "videos.csv"]
    assert facts["accuracy"]["by_video"]["top1"]["accuracy"] == 1
    assert facts["accuracy"]["by_clip"]["top1"]["accuracy"] == 1
    assert facts["accuracy"]["by_video"]["chance"] == {"top1": 1 / 3}
    assert [each["class"] for each in facts["classes"]] == ["class 0", "class 1", "class 2"]
    assert facts["trained"]["videos"] + facts["told"]["videos"] == 36
    assert facts["told"] == {"videos": facts["told"]["videos"], "clips": 3 * facts["told"]["videos"]} | {
        "samples": 6 * facts["told"]["videos"]
    }
    assert facts["pooling"] == {"features": "mean", "tokens": "first-rest"}[kind]
    assert facts["width"] == {"features": 6, "tokens": 24}[kind]
    assert all(row["true"] == row["predicted"] and row["rank"] == "1" for row in rows(tmp_path / "out/predictions.csv"))
    assert {by(row, "true", "predicted") for row in rows(tmp_path / "out/confusion.csv")} == {
        (f"class {number}",) * 2 for number in range(3)
    }


def test_figures_are_those_of_the_weights_that_are_saved(root: Path, tmp_path: Path) -> None:
    """The formula of the page, on the store itself: nothing of the program's but the reader."""
    out = tmp_path / "out"
    facts = probe(root / "mixed", out)
    state = load_file(out / "probe.safetensors")
    with safe_open(out / "probe.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["deltactl"])
    with open_whole(str(root / "mixed")) as store:
        means = store.read_clips(range(len(store))).double().mean((1, 2)).float().double()
        scores = (means - state["mean"]) / state["scale"] @ state["weight"].T + state["bias"]
        probabilities = torch.softmax(scores, 1).numpy()
        names, truth = source_names(store), store.texts(range(len(store)))["clip.class"]
        place = {(store.key_of(number), str(store.view_of(number))): number for number in range(len(store))}
    told = held_out_sources(names, 0.2)
    predictions = rows(out / "predictions.csv")
    assert {row["video"] for row in predictions} == told
    assert len(predictions) == sum(name in told for name in names)
    classes = header["classes"]
    for row in predictions:
        number = place[row["clip"], row["view"]]
        assert (row["video"], row["true"]) == (names[number], truth[number])
        assert row["predicted"] == classes[probabilities[number].argmax()]
        assert float(row["probability"]) == pytest.approx(probabilities[number].max(), abs=1e-6)
    right = []
    for row in rows(out / "videos.csv"):
        mean = probabilities[[name == row["video"] for name in names]].mean(0)
        assert row["predicted"] == classes[mean.argmax()]
        assert float(row["probability"]) == pytest.approx(mean.max(), abs=1e-6)
        right.append(row["predicted"] == row["true"])
    top1 = facts["accuracy"]["by_video"]["top1"]
    assert 0.4 < top1["accuracy"] < 1
    assert top1["accuracy"] == pytest.approx(np.mean(right))
    assert top1["low"] < top1["accuracy"] < top1["high"]
    assert sum(int(row["videos"]) for row in rows(out / "confusion.csv")) == len(right)
    assert sum(each["videos"] for each in facts["classes"]) == len(right)
    of_class = [each["accuracy"] for each in facts["classes"]]
    assert facts["accuracy"]["by_video"]["mean_over_classes"] == pytest.approx(np.mean(of_class))
    assert [each["training_videos"] + each["videos"] for each in facts["classes"]] == [30, 30, 30]
    with Image.open(out / "confusion.png") as picture:
        assert min(picture.size) > 200


def test_what_is_held_out_has_no_say_in_the_probe(root: Path, tmp_path: Path) -> None:
    """Other numbers for the held-out videos, and other labels, leave every weight as it is."""
    clips = separable(videos=30, noise=12.0, seed=3)
    held = held_out_sources([clip.video for clip in clips], 0.2)
    changed = [
        replace(clip, numbers=clip.numbers * 9 - 4, values={"clip.class": "class 1"}) if clip.video in held else clip
        for clip in clips
    ]
    write_store(tmp_path / "changed", changed)
    first = probe(root / "mixed", tmp_path / "one")
    other = probe(tmp_path / "changed", tmp_path / "other")
    mine, theirs = (load_file(tmp_path / name / "probe.safetensors") for name in ("one", "other"))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert first["accuracy"] != other["accuracy"]
    again = probe(root / "mixed", tmp_path / "another", "--seed", "1")
    assert again["told"]["videos"] > 5
    assert {row["video"] for row in rows(tmp_path / "another/videos.csv")} != held


def test_the_order_of_clips_does_not_count(root: Path, tmp_path: Path) -> None:
    clips = separable(videos=30, noise=12.0, seed=3)
    keyed = [replace(clip, key=f"{clip.video}-{number}") for number, clip in enumerate(clips)]
    found = []
    for name, order in (("forward", keyed), ("backward", keyed[::-1])):
        write_store(tmp_path / name, order)
        facts = probe(tmp_path / name, tmp_path / f"out-{name}")
        found.append((facts["accuracy"], facts["classes"], facts["l2"]["value"]))
    assert found[0] == found[1]
    one, other = (
        {by(row, "clip", "view"): row for row in rows(tmp_path / f"out-{name}" / "predictions.csv")}
        for name in ("forward", "backward")
    )
    assert one.keys() == other.keys()
    for place, row in one.items():
        assert by(row, "video", "true", "predicted", "rank") == by(other[place], "video", "true", "predicted", "rank")
        assert float(row["probability"]) == pytest.approx(float(other[place]["probability"]), abs=2e-6)


def test_another_split_is_the_test_and_a_probe_can_be_applied_again(root: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "val", separable(videos=5, noise=12.0, seed=8, prefix="other"))
    facts = probe(root / "mixed", tmp_path / "out", "--test", str(tmp_path / "val"))
    assert facts["trained"]["videos"] == 90
    assert facts["told"] == {"videos": 15, "clips": 45, "samples": 90}
    assert facts["held_out"] is None
    assert facts["test"]["identity_sha256"] != facts["store"]["identity_sha256"]
    applied = probe(tmp_path / "val", tmp_path / "applied", "--probe", str(tmp_path / "out"))
    assert applied["accuracy"] == facts["accuracy"]
    assert applied["classes"] == facts["classes"]
    assert applied["probe_sha256"] == facts["probe_sha256"]
    assert not (tmp_path / "applied/probe.safetensors").exists()
    for name in ("predictions.csv", "videos.csv", "confusion.csv"):
        assert (tmp_path / "applied" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    file = str(tmp_path / "out/probe.safetensors")
    assert probe(tmp_path / "val", tmp_path / "file", "--probe", file)["accuracy"] == facts["accuracy"]


def test_one_view_one_pooling_and_a_list_of_clips(root: Path, tmp_path: Path) -> None:
    one = probe(root / "mixed", tmp_path / "one", "--view", "1", "--pool", "moments", "--l2", "0.5")
    assert (one["width"], one["l2"]) == (12, {"value": 0.5, "tried": []})
    assert one["told"]["samples"] == one["told"]["clips"]
    assert {row["view"] for row in rows(tmp_path / "one/predictions.csv")} == {"1"}
    with open_whole(str(root / "mixed")) as store:
        gone = sorted(set(store.keys))[::2]
    (tmp_path / "gone.txt").write_text("".join(f"{key}\n" for key in gone))
    less = probe(root / "mixed", tmp_path / "less", "--where", str(tmp_path / "gone.txt"))
    assert less["left_out"] == 2 * len(gone)
    assert less["told"]["clips"] + less["trained"]["clips"] == 270 - len(gone)
    assert not set(gone) & {row["clip"] for row in rows(tmp_path / "less/predictions.csv")}


def test_whole_numbers_are_classes_and_what_is_empty_is_passed_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    columns = (Column("clip.grade", "int16", ()), Column("clip.word", "text", ()), Column("speed", "float32", ()))
    clips = []
    for number, clip in enumerate(separable(videos=12)):
        grade = 9 + int(clip.values["clip.class"][-1])
        word = "" if number < 5 else f"grade {grade}"
        values = {"clip.grade": np.int16(grade), "clip.word": word, "speed": np.zeros(4, np.float32)}
        clips.append(replace(clip, values=values))
    write_store(tmp_path / "store", clips, columns=columns, invalid=[7])
    facts = probe(tmp_path / "store", tmp_path / "grade", "--label", "clip.grade")
    assert [each["class"] for each in facts["classes"]] == ["9", "10", "11"], "by value"
    assert facts["accuracy"]["by_video"]["top1"]["accuracy"] == 1
    assert facts["trained"]["samples"] + facts["told"]["samples"] == 2 * (108 - 1)
    facts = probe(tmp_path / "store", tmp_path / "word", "--label", "clip.word")
    assert facts["unlabelled"] == 10
    assert facts["trained"]["samples"] + facts["told"]["samples"] == 2 * (108 - 1 - 5)
    assert "10 clips of" in capfd.readouterr().err
    assert main(["probe", str(tmp_path / "store"), "--label", "speed"]) == 1
    assert "speed (float32 () a frame) is no label; a text or a whole number" in capfd.readouterr().err


def test_many_classes_have_a_top_five_and_a_picture_of_the_worst(tmp_path: Path) -> None:
    write_store(tmp_path / "store", separable(classes=40, videos=5, clips=1, views=1, width=8, noise=1.2))
    facts = probe(tmp_path / "store", tmp_path / "out", "--held-out", "0.3")
    by_video = facts["accuracy"]["by_video"]
    assert by_video["top1"]["accuracy"] < by_video["top5"]["accuracy"] <= 1
    assert by_video["chance"] == {"top1": 1 / 40, "top5": 5 / 40}
    ranks = [int(row["rank"]) for row in rows(tmp_path / "out/videos.csv")]
    assert by_video["top5"]["accuracy"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
    with Image.open(tmp_path / "out/confusion.png") as picture:
        assert picture.width > 1200


def test_packed_tokens_and_a_store_in_a_bucket_give_the_same(root: Path, tmp_path: Path, bucket: Location) -> None:
    write_store(tmp_path / "loose", separable(), kind="tokens", pack=False)
    one, other = (probe(place, tmp_path / f"out-{place.name}") for place in (root / "tokens", tmp_path / "loose"))
    assert one["accuracy"] == other["accuracy"]
    files = [tmp_path / f"out-{name}" / "predictions.csv" for name in ("tokens", "loose")]
    assert files[0].read_bytes() == files[1].read_bytes()
    for path in sorted((root / "tokens").rglob("*")):
        if path.is_file():
            (bucket / "store" / path.relative_to(root / "tokens").as_posix()).upload(path)
    there = probe((bucket / "store").url, (bucket / "out").url)
    assert there["accuracy"] == one["accuracy"]
    assert (bucket / "out/predictions.csv").read_bytes() == files[0].read_bytes()
    applied = probe(root / "tokens", tmp_path / "applied", "--probe", (bucket / "out").url)
    assert applied["probe_sha256"] == there["probe_sha256"]


def test_the_same_bytes_come_again_and_other_figures_are_asked_about(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    probe(root / "mixed", out)
    first = contents(out)
    probe(root / "mixed", out)
    assert contents(out) == first
    assert main(["probe", str(root / "mixed"), "--out", str(out), "--seed", "3"]) == 1
    assert "nothing was removed or overwritten" in capfd.readouterr().err
    assert contents(out) == first
    probe(root / "mixed", out, "--seed", "3", "--yes")
    assert contents(out) != first
    probe(root / "mixed", out, "--probe", str(out), "--yes")
    assert not (out / "probe.safetensors").exists(), "the figures are no longer those of the probe that lay there"
    assert main(["probe", str(root / "mixed"), "--out", str(root)]) == 1
    assert "holds something other than a probe" in capfd.readouterr().err


def test_a_run_that_was_stopped_leaves_what_it_read_and_ends_without_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(probe_run, "fit_probe", stop)
        assert main(["probe", str(root / "mixed"), "--out", str(tmp_path / "out")]) == 130
    assert [path.name for path in tmp_path.iterdir()] == [".out.probe"]
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".out.probe").glob("*.npy")}
    assert len(before) == 1

    def seen(*arguments: object) -> Any:
        after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".out.probe").glob("*.npy")}
        assert after == before, "nothing was read again"
        return real(*arguments)  # type: ignore[arg-type]

    real = probe_run.fit_probe
    monkeypatch.setattr(probe_run, "fit_probe", seen)
    probe(root / "mixed", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name != "workspace"] == ["out"]


def test_by_default_it_lies_among_the_reports_and_a_terminal_is_told(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", str(root / "mixed")]) == 0
    said = capfd.readouterr()
    (folder,) = (tmp_path / "workspace/reports").iterdir()
    assert folder.name.startswith("probe-mixed-")
    assert str(folder / "confusion.png") in said.out.replace("\n", "")
    for words in ("clip.class: 3 classes from features", "right (95 % interval)", "by chance", "33.3", "class 2"):
        assert words in said.out
    assert main(["probe", str(root / "mixed"), "--json"]) == 0
    said_now = capfd.readouterr()
    assert json.loads(said_now.out) == json.loads((folder / "probe.json").read_bytes())
    assert main(["info", str(folder)]) == 0
    assert "probe" in capfd.readouterr().out


def test_a_class_may_be_called_anything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = ("[bold]東京[/bold], $x_1$", 'a "b"\n=c', "ß" * 200)
    clips = [
        replace(clip, values={"clip.class": names[int(clip.values["clip.class"][-1])]}) for clip in separable(videos=8)
    ]
    write_store(tmp_path / "store", clips)
    facts = probe(tmp_path / "store", tmp_path / "out", "--held-out", "0.5")
    assert {each["class"] for each in facts["classes"]} == set(names)
    assert {row["true"] for row in rows(tmp_path / "out/predictions.csv")} == set(names)
    assert "[bold]" in capfd.readouterr().out
    applied = probe(tmp_path / "store", tmp_path / "applied", "--probe", str(tmp_path / "out"))
    assert applied["accuracy"]["by_video"]["top1"]["accuracy"] == 1


def test_few_videos_are_warned_of(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    facts = probe(root / "features", tmp_path / "out", "--held-out", "0.1")
    assert facts["told"]["videos"] < 20
    told = counted(facts["told"]["videos"], "videos")
    assert f"the accuracy is that of {told}: its interval is wide" in capfd.readouterr().err


def test_what_cannot_be_probed_is_one_clear_line(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str | Path) -> str:
        assert main(["probe", *map(str, words)]) in (1, 2)
        (line,) = capfd.readouterr().err.strip().splitlines()
        return line

    def store(name: str, clips: Sequence[Clip], **changes: Any) -> Path:
        return Path(write_store(tmp_path / name, clips, **changes))

    plain = separable(videos=4)
    said = refused(root / "features", "--label", "clip.kind")
    assert "has no column 'clip.kind'; it has clip.class (text ())." in said
    assert "ingest VIDEOS --columns clip.kind" in said
    bare = store("bare", [replace(clip, values={}) for clip in plain], columns=())
    assert "has no column 'clip.class'; it has none." in refused(bare)
    single = store("single", [replace(clip, values={"clip.class": "jumping"}) for clip in plain])
    assert "have the one clip.class 'jumping'; a probe tells two classes or more apart" in refused(single)
    empty = store("empty", [replace(clip, values={"clip.class": ""}) for clip in plain])
    assert "the column clip.class is empty for each of its clips" in refused(empty)
    lone = store("lone", separable(videos=1))
    assert "none of its 3 videos of 3 classes of clip.class can be held out" in refused(lone)
    nothing = store("nothing", plain[:3], invalid=[0, 1, 2])
    assert "has no clip that can be read" in refused(nothing)
    assert "does not exist; expected an artifact" in refused(tmp_path / "absent")
    assert "whole view 7" in refused(root / "features", "--view", "7")

    more = store("more", separable(classes=5, videos=4))
    said = refused(root / "features", "--test", more)
    assert "of 2 classes of clip.class that the probe was not trained on: 'class 3', 'class 4'" in said
    assert "--where" in said
    other = store("other", plain, backbone="c" * 64)
    assert "the backbone is bbbbbbbbbbbb… in the first, cccccccccccc… in the second" in refused(
        root / "features", "--test", other
    )
    assert "they hold features in the first, tokens in the second" in refused(
        root / "features", "--test", root / "tokens"
    )
    larger = store("larger", plain, size=64)
    assert "the size is 32 px in the first, 64 px in the second" in refused(root / "features", "--test", larger)
    retold = store("retold", plain, kind="tokens", tokenizer="u" * 64)
    assert "the tokenizer is tttttttttttt…" in refused(root / "tokens", "--test", retold)
    longer = store("longer", separable(videos=4, frames=6))
    assert "clips have 4 frames in the first, 6 frames in the second" in refused(
        root / "features", "--test", longer, "--pool", "frames"
    )

    for words in (("--l2", "nan"), ("--l2", "inf"), ("--held-out", "nan")):
        assert f"{words[0]} is {words[1]}; expected a" in refused(root / "features", *words)
    assert "--held-out has no effect with --test" in refused(root / "features", "--test", more, "--held-out", "0.1")
    assert "--seed has no effect with --probe" in refused(root / "features", "--probe", tmp_path, "--seed", "1")
    assert "holds no probe.safetensors" in refused(root / "features", "--probe", root / "features")
    probe(root / "features", tmp_path / "out")
    capfd.readouterr()
    assert "they hold features in the first, tokens in the second" in refused(
        root / "tokens", "--probe", tmp_path / "out"
    )
    assert "not trained on: 'class 3', 'class 4'" in refused(more, "--probe", tmp_path / "out")
    state = load_file(tmp_path / "out/probe.safetensors")
    save_file(state, tmp_path / "bare.safetensors")
    assert "is no probe; expected the probe.safetensors" in refused(
        root / "features", "--probe", tmp_path / "bare.safetensors"
    )
    with safe_open(tmp_path / "out/probe.safetensors", framework="pt") as file:
        metadata = file.metadata()
    save_file({**state, "bias": state["bias"] + 1}, tmp_path / "changed.safetensors", metadata)
    assert "content_hash is" in refused(root / "features", "--probe", tmp_path / "changed.safetensors")
    save_file({**state, "bias": state["bias"][:2].clone()}, tmp_path / "short.safetensors", metadata)
    assert "is damaged: its tensors are" in refused(root / "features", "--probe", tmp_path / "short.safetensors")


def test_videos_of_both_stores_and_clips_that_were_fitted_are_warned_of(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    probe(root / "features", tmp_path / "out", "--test", str(root / "mixed"))
    assert "36 videos have the same name in both stores, such as video000" in capfd.readouterr().err
    probe(root / "features", tmp_path / "again", "--probe", str(tmp_path / "out"))
    assert "was fitted on clips of this store" in capfd.readouterr().err
