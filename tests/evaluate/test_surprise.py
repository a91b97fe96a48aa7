"""`deltactl surprise`: what it measures, on what, what it leaves behind, and what it says when it cannot."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_stores
import torch
from evaluations import GOLDEN, four_tokens, quiet
from pages import blocks
from PIL import Image
from small_shards import training_shards
from videos import make_video, numbered_frame

from deltactl.cli import main
from deltactl.configs.surprise import SurpriseConfig
from deltactl.errors import ArtifactError, CheckpointError, ConfigError, SourceError
from deltactl.evaluate.predict.context import Throughout, choose_moments
from deltactl.evaluate.protocol.futures import sample_futures
from deltactl.evaluate.protocol.intervals import wilson
from deltactl.evaluate.surprise import run as surprise_run
from deltactl.evaluate.surprise.measure import Sampler, score_tokens
from deltactl.evaluate.surprise.pairs import accuracies, read_pairs
from deltactl.evaluate.surprise.run import SurpriseResult, run_surprise
from deltactl.evaluate.surprise.scoring import surprise_of
from deltactl.evaluate.surprise.table import spearman
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.locations import Location
from deltactl.removal import agree
from deltactl.train.checkpoints.loading import load
from deltactl.train.networks.deltatok import TOKENIZER
from deltactl.train.networks.deltaworld import WORLD

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {"tokenizer": str(GOLDEN / "deltatok.bin"), "world": str(GOLDEN / "deltaworld.bin")}
PIXELS = {"backbone": str(GOLDEN / "backbone"), "size": 64}
PAGE = Path(__file__).parents[2] / "docs/surprise.md"
CONTEXT, SAMPLES = 2, 4
Table = list[dict[str, str]]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("videos") / "street.mp4", frames=45, rate=30)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shards of 6 clips of 3 frames, their features and tokens."""
    root = tmp_path_factory.mktemp("stores")
    places = {name: root / name for name in ("shards", "features", "tokens")}
    training_shards(places["shards"])
    small_stores.run(places["shards"], places["features"])
    small_stores.tokens(places["features"], places["tokens"])
    return places


def settings(source: Path, out: Path, **changes: Any) -> SurpriseConfig:
    values = {"source": str(source), "out": str(out), "samples": SAMPLES, "context": CONTEXT, "device": "cpu"}
    return SurpriseConfig(**{**values, **NETWORKS, **changes})


def table_in(result: SurpriseResult | Path) -> Table:
    folder = result if isinstance(result, Path) else result.folder.path
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- videos ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "scores"
    return run_surprise(settings(video, out, **PIXELS), quiet).folder.path


def test_every_frame_with_a_full_context_has_a_line(scored: Path) -> None:
    table = table_in(scored)
    # 1.5 s of video, a frame each 0.2 s: 0, 0.2 … 1.4 s.
    assert [int(row["frame"]) for row in table] == [2, 3, 4, 5, 6, 7]
    assert [float(row["time"]) for row in table] == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.2, 1.4])
    for row in table:
        for space in ("features", "tokens"):
            ranked, p = int(row[f"{space}_rank"]), float(row[f"{space}_p"])
            assert p == pytest.approx((SAMPLES + 1 - ranked) / (SAMPLES + 1))
            assert float(row[f"{space}_score"]) == pytest.approx(ranked / SAMPLES)
            assert float(row[f"{space}_nearest"]) > 0


def test_pictures_an_animation_and_a_summary_are_left(scored: Path) -> None:
    with Image.open(scored / "surprise.png") as picture:
        assert min(picture.size) > 300
    with Image.open(scored / "surprise.gif") as film:
        assert film.n_frames == 8  # type: ignore[attr-defined]
    summary = json.loads((scored / "summary.json").read_text())
    table = table_in(scored)
    nearest = [float(row["features_nearest"]) for row in table]
    assert summary["features"]["nearest"] == pytest.approx(np.mean(nearest))
    assert sum(summary["tokens"]["ranks"]) == summary["frames"] == len(table)
    assert -1 <= summary["agreement"]["nearest"] <= 1
    assert not list(scored.parent.glob(".scores*"))


def test_parquet_holds_what_the_csv_file_does(scored: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(scored / "scores.parquet").to_pylist()
    assert [{name: str(value) for name, value in row.items()} for row in rows] == table_in(scored)


def test_the_same_command_gives_the_same_scores_and_another_seed_others(
    video: Path, scored: Path, tmp_path: Path
) -> None:
    again = run_surprise(settings(video, tmp_path / "again", **PIXELS), quiet)
    assert table_in(again) == table_in(scored)
    other = table_in(run_surprise(settings(video, tmp_path / "other", seed=1, **PIXELS), quiet))
    assert [row["features_copy_last"] for row in other] == [row["features_copy_last"] for row in table_in(scored)]
    assert [row["tokens_nearest"] for row in other] != [row["tokens_nearest"] for row in table_in(scored)]


def test_a_part_of_a_video_begins_and_ends_when_it_is_told(video: Path, tmp_path: Path) -> None:
    table = table_in(run_surprise(settings(video, tmp_path / "part", start=0.4, end=1.1, **PIXELS), quiet))
    assert [float(row["time"]) for row in table] == pytest.approx([0.8, 1.0])


def test_all_moments_of_a_video_are_a_stride_apart() -> None:
    times = np.arange(50) / 25
    moments = choose_moments(times, Throughout(0.2))
    assert moments.context == tuple(range(0, 50, 5))
    assert choose_moments(times, Throughout(0.2, 0.4, 1.0)).context == (10, 15, 20, 25)
    two = choose_moments(times, Throughout(0.4, frames_per_step=2))
    assert two.context == (5, 15, 25, 35, 45)
    assert two.earlier[0] == (0,)


def test_a_video_shorter_than_the_context_is_refused(video: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"street.mp4: is 1.467 s long, which is 8 frames 0.2 s apart; 13 are needed"):
        run_surprise(settings(video, tmp_path / "x", context=12, **PIXELS), quiet)


# --- clips -----------------------------------------------------------------------------------------------------------


def test_scores_of_features_are_those_of_samples_drawn_and_decoded_as_in_an_evaluation(
    places: dict[str, Path], tmp_path: Path
) -> None:
    table = table_in(run_surprise(settings(places["features"], tmp_path / "x"), quiet))
    store = FeatureStore.open(str(places["features"]))
    tokenizer, world = load(NETWORKS["tokenizer"], TOKENIZER), load(NETWORKS["world"], WORLD)
    sampler = Sampler(world, CONTEXT, 1, SAMPLES, 0, torch.device("cpu"))
    assert len(table) == len(store) == 6
    for number, row in enumerate(table):
        clip = store.read_clips([number]).float()
        times = store.times([number])
        since = (times - times[:, :1]).float()
        with torch.inference_mode():
            tokens = tokenizer.encode_clip(clip, store.black, store.grid)
            samples = sample_futures(
                world,
                tokenizer,
                tokens=tokens[:, :CONTEXT],
                times=since[:, :CONTEXT],
                target_times=since[:, CONTEXT:],
                last=clip[:, CONTEXT - 1],
                grid=store.grid,
                queries=sampler.queries(store.key_of(number), 0, 2)[None],
            )[0, :, 0]
        expected = surprise_of(clip[0, 2], samples, clip[0, 1])
        assert row["clip"] == store.key_of(number)
        for name in ("nearest", "mean", "copy_last", "typical"):
            assert float(row[f"features_{name}"]) == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-7)


def test_a_frame_two_ahead_is_compared_with_the_last_of_its_context(places: dict[str, Path], tmp_path: Path) -> None:
    table = table_in(run_surprise(settings(places["features"], tmp_path / "x", context=1, horizon=2), quiet))
    store = FeatureStore.open(str(places["features"]))
    assert [row["frame"] for row in table] == ["2"] * 6
    for number, row in enumerate(table):
        clip = store.read_clips([number])[0].float()
        apart = surprise_of(clip[2], clip[:1], clip[0])
        assert float(row["features_copy_last"]) == pytest.approx(apart.copy_last)


def test_tokens_alone_have_scores_in_their_space(places: dict[str, Path], tmp_path: Path) -> None:
    of_tokens = run_surprise(settings(places["tokens"], tmp_path / "tokens", tokenizer=None), quiet)
    of_features = table_in(run_surprise(settings(places["features"], tmp_path / "features"), quiet))
    table = table_in(of_tokens)
    assert len(table) == 6
    assert all(row["features_nearest"] == row["tokens_copy_last"] == "" for row in table)
    assert "features" not in of_tokens.summary
    # The context is all of these short clips, so both see the same, but for the rounding of stored tokens.
    one, other = ([float(row["tokens_nearest"]) for row in rows] for rows in (table, of_features))
    assert one == pytest.approx(other, rel=0.02)
    with Image.open(of_tokens.folder.path / "surprise.png") as picture:
        assert picture.size[0] > 300


def test_tokens_have_all_earlier_frames_of_their_clip_as_context(places: dict[str, Path]) -> None:
    world = load(NETWORKS["world"], WORLD)
    clip = TokenStore.open(str(places["tokens"])).read_clips([0])[0].float()
    times = (0.0, 0.2, 0.4)
    with torch.inference_mode():
        scores = list(score_tokens(Sampler(world, 1, 1, SAMPLES, 0, torch.device("cpu")), clip, times, "a"))
        longer = list(score_tokens(Sampler(world, 2, 1, SAMPLES, 0, torch.device("cpu")), clip, times, "a"))
        later = list(score_tokens(Sampler(world, 1, 2, SAMPLES, 0, torch.device("cpu")), clip, times, "a"))
    assert [each.frame for each in scores] == [1, 2]
    assert scores[1] == longer[0]
    assert [each.frame for each in later] == [2]
    assert later[0].tokens.nearest != longer[0].tokens.nearest


def test_shards_are_scored_like_videos(places: dict[str, Path], tmp_path: Path) -> None:
    result = run_surprise(settings(places["shards"], tmp_path / "x", backbone=PIXELS["backbone"]), quiet)
    table = table_in(result)
    assert [row["clip"] for row in table] == list(FeatureStore.open(str(places["features"])).keys)
    assert json.loads((result.folder.path / "artifact.json").read_text())["identity"]["size"] == 64  # the shards'


def test_the_scores_of_a_clip_do_not_depend_on_the_others(places: dict[str, Path], tmp_path: Path) -> None:
    whole = table_in(run_surprise(settings(places["features"], tmp_path / "whole"), quiet))
    assert table_in(run_surprise(settings(places["features"], tmp_path / "part", limit=2), quiet)) == whole[:2]


def test_a_stopped_run_goes_on_and_ends_alike(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = table_in(run_surprise(settings(places["features"], tmp_path / "whole"), quiet))
    calls = []
    real = surprise_run.score_features

    def counting(*arguments: Any) -> Any:
        calls.append(arguments[4])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(surprise_run, "score_features", counting)
    with pytest.raises(KeyboardInterrupt):
        run_surprise(settings(places["features"], tmp_path / "out"), quiet)
    assert not (tmp_path / "out" / "scores.csv").exists()
    (kept,) = tmp_path.glob(".out.surprise-*.jsonl")
    kept.write_bytes(kept.read_bytes()[:-10])  # the third line was cut off
    assert table_in(run_surprise(settings(places["features"], tmp_path / "out"), quiet)) == whole
    assert len(calls) == 4 + 4
    assert not list(tmp_path.glob(".out*"))


def test_costs_grow_with_the_clips(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    real = type(load(NETWORKS["tokenizer"], TOKENIZER)).decode_clip

    def counting(self: Any, tokens: torch.Tensor, *arguments: Any) -> torch.Tensor:
        decoded.append(len(tokens))
        return real(self, tokens, *arguments)

    monkeypatch.setattr(type(load(NETWORKS["tokenizer"], TOKENIZER)), "decode_clip", counting)
    passes = []
    for clips in (2, 4):
        decoded.clear()
        run_surprise(settings(places["features"], tmp_path / f"{clips}", limit=clips), quiet)
        passes.append(sum(decoded))
    assert passes == [2 * (SAMPLES + 1), 4 * (SAMPLES + 1)]


def test_several_tokens_a_frame_are_scored_together(places: dict[str, Path], tmp_path: Path) -> None:
    table = table_in(run_surprise(settings(places["features"], tmp_path / "x", **four_tokens(tmp_path)), quiet))
    assert len(table) == 6
    assert all(float(row["tokens_nearest"]) > 0 for row in table)


def test_what_does_not_fit_tokens_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    four = four_tokens(tmp_path)
    with pytest.raises(CheckpointError, match="did not make the tokens of"):
        run_surprise(settings(places["tokens"], tmp_path / "x", tokenizer=four["tokenizer"]), quiet)
    with pytest.raises(CheckpointError, match="is for 4 tokens of width 32 a frame, but .* has 1 of width 128"):
        run_surprise(settings(places["tokens"], tmp_path / "x", tokenizer=None, world=four["world"]), quiet)
    with pytest.raises(ConfigError, match=r"have 3 frames; a context of 4 and 1 after it need 5"):
        run_surprise(settings(places["tokens"], tmp_path / "x", context=4), quiet)
    with pytest.raises(ConfigError, match="--backbone other has no effect: it goes with videos and shards"):
        run_surprise(settings(places["tokens"], tmp_path / "x", backbone="other"), quiet)
    with pytest.raises(ConfigError, match="--tokenizer is missing"):
        run_surprise(settings(places["features"], tmp_path / "x", tokenizer=None), quiet)
    with pytest.raises(CheckpointError, match="is for 1 token a frame, but the tokenizer"):
        run_surprise(settings(places["features"], tmp_path / "x", tokenizer=four["tokenizer"]), quiet)


def test_a_backbone_of_the_environment_is_no_fault_where_none_is_needed(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTACTL_BACKBONE", "of-the-environment")
    words = ["--world", NETWORKS["world"], "--context", "2", "--samples", "2", "--device", "cpu"]
    assert main(["surprise", str(places["tokens"]), *words, "--limit", "1", "--out", str(tmp_path / "out")]) == 0


def test_other_sources_are_refused(video: Path, scored: Path, tmp_path: Path) -> None:
    for source, kind, words in (
        (scored, ArtifactError, "holds a surprise; expected a video"),
        (tmp_path / "nowhere.mp4", SourceError, "does not exist"),
    ):
        with pytest.raises(kind, match=words):
            run_surprise(settings(source, tmp_path / "x", **PIXELS), quiet)
    with pytest.raises(ConfigError, match="--limit 2 has no effect: it goes with clips"):
        run_surprise(settings(video, tmp_path / "x", limit=2, **PIXELS), quiet)
    with pytest.raises(ConfigError, match="--fps is for folders"):
        run_surprise(settings(video, tmp_path / "x", fps=25, **PIXELS), quiet)


# --- pairs -----------------------------------------------------------------------------------------------------------


def write_pairs(place: Path, *lines: str, headings: str = "possible,impossible,set") -> Path:
    place.write_text("\n".join([headings, *lines]) + "\n")
    return place


def test_pairs_of_videos_are_told_apart(video: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_video(tmp_path / f"{name}.mp4", frames=24, rate={"a": 30, "b": 15, "c": 10}[name])
    file = write_pairs(tmp_path / "pairs.csv", "a.mp4,b.mp4,fast", "a.mp4,c.mp4,slow")
    config = settings(tmp_path, tmp_path / "out", pairs=str(file), **PIXELS)
    result = run_surprise(config, quiet)
    table = table_in(result)
    assert {row["video"] for row in table} == {"a.mp4", "b.mp4", "c.mp4"}
    of = {
        name: np.mean([float(row["features_nearest"]) for row in table if row["video"] == name])
        for name in ("a.mp4", "b.mp4", "c.mp4")
    }
    right = [of[f"{name}.mp4"] > of["a.mp4"] for name in ("b", "c")]
    (found,) = (
        each
        for each in result.summary["pairs"]
        if (each["set"], each["score"], each["over"]) == (None, "features_nearest", "mean")
    )
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["low"] < found["accuracy"] or found["accuracy"] == 0
    assert {each["set"] for each in result.summary["pairs"]} == {None, "fast", "slow"}
    # The same draws for every video: a video beside itself under another name is no more surprising.
    (tmp_path / "twin.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    twins = write_pairs(tmp_path / "twins.csv", "a.mp4,twin.mp4,")
    same = run_surprise(settings(tmp_path, tmp_path / "twins", pairs=str(twins), **PIXELS), quiet)
    assert {each["accuracy"] for each in same.summary["pairs"]} == {0.5}


def test_pairs_of_clips_are_named_by_their_sources(places: dict[str, Path], tmp_path: Path) -> None:
    names = [f"class/video{unit}-{clip}.mp4" for unit in range(2) for clip in range(3)]
    file = write_pairs(tmp_path / "pairs.csv", f"{names[0]},{names[4]}", headings="possible,impossible")
    for kind in ("features", "tokens"):
        result = run_surprise(settings(places[kind], tmp_path / kind, pairs=str(file)), quiet)
        assert {row["video"] for row in table_in(result)} == {names[0], names[4]}
        assert {each["pairs"] for each in result.summary["pairs"]} == {1}
        scores = {each["score"] for each in result.summary["pairs"]}
        assert ("features_nearest" in scores) == ("tokens_copy_last" in scores) == (kind == "features")


@pytest.mark.parametrize(
    ("lines", "headings", "words"),
    [
        ((), "possible,impossible", "tells no pair"),
        (("a.mp4,b.mp4",), "a,b", "has no column 'possible'"),
        (("a.mp4,b.mp4,1",), "possible,impossible,colour", "has a column 'colour'"),
        (("a.mp4",), "possible,impossible", "pair 1 is incomplete"),
        (("a.mp4,b.mp4,c.mp4",), "possible,impossible", "pair 1 is incomplete, or has too many"),
        (("a.mp4,a.mp4",), "possible,impossible", "pair 1 is 'a.mp4' twice"),
    ],
)
def test_pair_files_that_are_none_are_refused(
    lines: tuple[str, ...], headings: str, words: str, tmp_path: Path
) -> None:
    file = write_pairs(tmp_path / "pairs.csv", *lines, headings=headings)
    with pytest.raises(ConfigError, match=words):
        read_pairs(Location.of(file))


def test_pairs_that_do_not_match_the_videos_are_refused(video: Path, places: dict[str, Path], tmp_path: Path) -> None:
    for lines, words in (
        ("street.mp4,other.mp4", "names 'other.mp4', which .* does not have; it has 1 videos"),
        ("street.mp4,../other.mp4", "expected paths below the folder"),
    ):
        file = write_pairs(tmp_path / "pairs.csv", lines, headings="possible,impossible")
        with pytest.raises(ConfigError, match=words):
            run_surprise(settings(video.parent, tmp_path / "x", pairs=str(file), **PIXELS), quiet)
    with pytest.raises(ConfigError, match="names 'street.mp4' and 1 more, which"):
        run_surprise(settings(places["tokens"], tmp_path / "x", pairs=str(file)), quiet)
    with pytest.raises(ConfigError, match="cannot be read"):
        run_surprise(settings(video.parent, tmp_path / "x", pairs=str(tmp_path / "no.csv"), **PIXELS), quiet)
    with pytest.raises(ConfigError, match="goes with a folder of videos"):
        run_surprise(settings(video, tmp_path / "x", pairs=str(file), **PIXELS), quiet)


def test_accuracies_and_their_intervals(tmp_path: Path) -> None:
    lines = [f"p{number},i{number},{'far' if number < 6 else 'near'},g{number // 2}" for number in range(8)]
    pairs = read_pairs(
        Location.of(write_pairs(tmp_path / "pairs.csv", *lines, headings="possible,impossible,set,group"))
    )
    scores = {}
    for number in range(8):
        scores[f"p{number}"] = {"features_nearest": [1.0, 1.0], "features_copy_last": [1.0, 1.0]}
        scores[f"i{number}"] = {
            "features_nearest": [1.0, 3.0] if number < 6 else [0.0, 1.5],
            "features_copy_last": [1.0, 1.0],
        }
    found = {(each.set, each.score, each.over): each for each in accuracies(pairs, scores)}
    nearest = found["", "features_nearest", "mean"]
    assert (nearest.value, nearest.pairs, nearest.groups) == (0.75, 8, 4)
    assert found["", "features_nearest", "max"].value == 1.0
    assert found["", "features_copy_last", "mean"].value == 0.5
    assert nearest.above_copy_last == 0.25
    assert nearest.above_interval is not None
    assert nearest.above_interval.low < 0.25 < nearest.above_interval.high
    assert (found["far", "features_nearest", "mean"].value, found["near", "features_nearest", "mean"].value) == (1, 0)
    assert nearest.interval == wilson(0.75, 4)


def test_an_interval_of_all_right_is_not_empty() -> None:
    assert wilson(1.0, 20).low == pytest.approx(20 / (20 + 1.959964**2))
    assert wilson(1.0, 20).high == 1.0
    assert wilson(0.5, 100).low == pytest.approx(0.4038, abs=1e-4)


def test_rank_correlations_are_those_of_places() -> None:
    assert spearman(np.array([1.0, 2, 3, 40]), np.array([1.0, 4, 9, 16])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([3.0, 2, 2, 1])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])) is None


def test_the_page_tells_how_pairs_of_folders_of_frames_are_listed(video: Path, tmp_path: Path) -> None:
    (block,) = [each for each in blocks(PAGE, "python") if "status.json" in each]
    for number, possible in enumerate((True, False, False, True), start=1):
        film = tmp_path / "dev/O1/01" / str(number)
        (film / "scene").mkdir(parents=True)
        (film / "status.json").write_text(json.dumps({"header": {"is_possible": possible}}))
        for frame in range(1, 6):
            shown = numbered_frame(frame * number)
            Image.fromarray(shown).save(film / "scene" / f"scene_{frame:03}.png")
    done = subprocess.run(
        [sys.executable, "-c", block, str(tmp_path / "dev")], capture_output=True, text=True, check=True
    )
    (tmp_path / "pairs.csv").write_text(done.stdout)
    pairs = read_pairs(Location.of(tmp_path / "pairs.csv"))
    assert [(pair.possible[-7], pair.impossible[-7]) for pair in pairs] == [
        ("1", "2"),
        ("1", "3"),
        ("4", "2"),
        ("4", "3"),
    ]
    assert {(pair.set, pair.group) for pair in pairs} == {("O1", "O1/01")}
    config = settings(tmp_path / "dev", tmp_path / "out", pairs=str(tmp_path / "pairs.csv"), fps=5, **PIXELS)
    result = run_surprise(config, quiet)
    assert {row["video"] for row in table_in(result)} == {f"O1/01/{number}/scene" for number in range(1, 5)}
    assert {each["groups"] for each in result.summary["pairs"]} == {1}


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_its_tables(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["surprise", str(places["features"]), "--tokenizer", NETWORKS["tokenizer"], "--world", NETWORKS["world"]]
    assert main([*words, "--context", "2", "--samples", "3", "--device", "cpu", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "6 frames of 6 clips, 1 ahead" in printed
    assert "nearest" in printed
    assert f"{out}/scores.csv" in printed
    assert main([*words, "--context", "2", "--samples", "2", "--device", "cpu", "--out", str(out)]) == 1
    assert "would be" in capsys.readouterr().err
    run_surprise(settings(places["features"], out, samples=2), quiet, agree)
    assert {row["samples"] for row in table_in(out)} == {"2"}
