"""Pictures: rows that line up with their times, colours that everyone can tell apart, clips as the numbers saw them."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from evaluations import GOLDEN, quiet, tiny
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.ft2font import FT2Font
from PIL import Image

from deltactl.datasets.known import labelled_set
from deltactl.datasets.vspw import NAMES_FILE, class_names
from deltactl.errors import CheckpointError
from deltactl.evaluate import run
from deltactl.evaluate.clips.sources import ClipTask
from deltactl.evaluate.predict.animation import Tile, draw_moments, write_gif
from deltactl.evaluate.report.clip_pictures import ClipPictures, draw_clips, spread_clips
from deltactl.evaluate.report.pictures import Legend, Panel, PictureRow, Sheet, draw_sheet, fitted, format_time, shorten
from deltactl.featurize.pictures.lettering import lettering
from deltactl.locations import Location
from deltactl.tasks.colours import (
    NOTHING,
    OTHERS,
    PALETTE,
    ClassColours,
    depth_legend,
    paint_amount,
    paint_depth,
)
from deltactl.train.checkpoints.loading import load
from deltactl.train.networks.rgb_head import RGB

pytestmark = pytest.mark.usefixtures("one_thread")

RED, GREEN = (200, 30, 30), (30, 200, 30)

# Machado, Oliveira and Fernandes (2009), full severity, for linear RGB.
COLOUR_BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def plain(colour: tuple[int, int, int], side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


def columns_of(sheet: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return the columns of pixels that hold a colour."""
    return np.flatnonzero((sheet == colour).all(-1).any(0))


def lab(colours: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]


# --- sheets ----------------------------------------------------------------------------------------------------------


def small_sheet(**changes: Any) -> Sheet:
    seen = Panel("what was seen", (-0.2, 0.0), 2, (PictureRow("frames", (plain(RED), plain(RED))),))
    future = Panel("features", (0.2,), 0, (PictureRow("future 0", (plain(GREEN),), "predicted"),))
    values: dict[str, Any] = {"title": "street.mp4", "panels": (seen, future)}
    return Sheet(**{**values, **changes})


def test_every_picture_stands_in_its_column_and_row() -> None:
    sheet = draw_sheet(small_sheet(), tile_pixels=40)
    red, green = columns_of(sheet, RED), columns_of(sheet, GREEN)
    assert len(red) == 80, "two tiles of 40"
    assert len(green) == 40
    assert red.min() == green.min(), "panels one below the other begin in one column"
    rows = [np.flatnonzero((sheet == colour).all(-1).any(1)) for colour in (RED, GREEN)]
    assert len(rows[0]) == len(rows[1]) == 40
    assert rows[0].max() < rows[1].min()


def test_panels_stand_side_by_side_as_far_as_the_widest_is_wide() -> None:
    times = tuple(0.2 * number for number in range(-3, 4))
    wide = Panel("all of it", times, 4, (PictureRow("frames", (plain(RED),) * 7),))
    half = Panel("the future", times[4:], 0, (PictureRow("future", (plain(GREEN),) * 3),))
    sheet = draw_sheet(Sheet("", (wide, half, half, half)), tile_pixels=40)
    rows = np.flatnonzero((sheet == GREEN).all(-1).any(1))
    assert len(rows) == 80, "two lines of them"
    first = sheet[rows[:40]]
    assert len(columns_of(first, GREEN)) == 240
    assert len(columns_of(sheet[rows[40:]], GREEN)) == 120
    ORANGE = (213, 94, 0)
    divider = columns_of(sheet, ORANGE)
    assert len(divider) == 2, "one line, between what was seen and what came"
    assert (sheet[:, divider[0]] == ORANGE).all(-1).sum() > 40


def test_titles_legends_and_notes_make_room_for_themselves() -> None:
    entries = ClassColours("cityscapes", tuple(range(8))).legend()
    plainer = draw_sheet(small_sheet(), tile_pixels=40)
    fuller = draw_sheet(small_sheet(legends=(Legend("classes", entries),), notes=("a note " * 20,)), tile_pixels=40)
    longer = draw_sheet(small_sheet(title="x" * 500), tile_pixels=40)
    assert fuller.shape[0] > plainer.shape[0] + 3 * 18, "the legend takes more than one line"
    assert fuller.shape[1] > plainer.shape[1], "a long note is not cut"
    assert plainer.shape[1] < longer.shape[1] < 1300, "a very long title is"


def test_tiles_keep_the_shape_of_their_pictures() -> None:
    wide = np.full((10, 30, 3), RED, np.uint8)
    sheet = draw_sheet(Sheet("", (Panel("wide", (0.0,), 1, (PictureRow("frames", (wide,)),)),)), tile_pixels=40)
    assert len(columns_of(sheet, RED)) == 120


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="row 'frames' has 1 pictures, but there are 2 columns"):
        Panel("", (0.0, 0.2), 1, (PictureRow("frames", (plain(RED),)),))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (0.2, "+0.2 s"), (-0.1875, "\N{MINUS SIGN}0.19 s"), (12.0, "+12 s"), (0.001, "0 s"), (10, "+10 s")],
)
def test_times_are_told_from_the_present(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


@given(st.text(max_size=300), st.integers(4, 120))
def test_long_text_loses_its_middle_only(text: str, longest: int) -> None:
    short = shorten(text, longest)
    assert len(short) <= longest
    assert short == text or (text.startswith(short.split("…")[0]) and len(text) > longest)


def test_patches_are_enlarged_in_blocks_and_photographs_are_averaged() -> None:
    patches = np.array([[RED, GREEN]], np.uint8)
    assert set(map(tuple, fitted(patches, 4, 8).reshape(-1, 3).tolist())) == {RED, GREEN}
    checks = np.indices((40, 40)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    assert np.abs(fitted(checks.astype(np.uint8), 10, 10).astype(int) - 128).max() <= 1


# --- colours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_class_colours_can_be_told_apart_by_the_colour_blind(kind: str) -> None:
    colours = np.array([*PALETTE, OTHERS, NOTHING], np.float64) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(COLOUR_BLINDNESS[kind]).T, 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055) * 255
    for (i, one), (j, other) in itertools.combinations(enumerate(lab(seen)), 2):
        assert np.linalg.norm(one - other) > 9, (i, j)  # 2.3 is just noticeable


def test_the_most_frequent_classes_have_colours_of_their_own() -> None:
    ids = np.repeat(np.arange(12, dtype=np.uint8), np.arange(12, 0, -1) * 4).reshape(24, 13)
    ids[0, 0] = 255
    colours = ClassColours.of("vspw", [ids])
    assert colours.classes == tuple(range(8))
    flat = ClassColours("vspw", colours.classes).paint(np.full((3, 3), 2, np.uint8))
    assert set(map(tuple, flat.reshape(-1, 3).tolist())) == {PALETTE[2]}
    names = [entry.name for entry in colours.legend()]
    assert names == [*(f"class {number}" for number in range(8)), "other classes"]
    assert tuple(colours.paint(np.full((1, 1), 11, np.uint8))[0, 0]) == OTHERS
    assert tuple(colours.paint(np.full((1, 1), 255, np.uint8))[0, 0]) == NOTHING


def test_neighbouring_classes_are_parted_by_a_line() -> None:
    ids = np.zeros((6, 6), np.uint8)
    ids[:, 3:] = 1
    painted = ClassColours.of("cityscapes", [ids]).paint(ids)
    assert painted[0, 2].max() < 60
    assert tuple(painted[0, 1]) != tuple(painted[0, 4])
    names = labelled_set("cityscapes").class_names(None)
    assert [entry.name for entry in ClassColours.of("cityscapes", [ids], names).legend()] == ["road", "sidewalk"]


def test_depth_is_brighter_where_it_is_nearer() -> None:
    metres = np.array([[0.0, 0.5, 1, 3, 9, 27, 80, 200]])
    painted = paint_depth(metres)[0]
    assert tuple(painted[0]) == NOTHING
    brightness = lab(painted[1:])[:, 0]
    assert (np.diff(brightness) <= 0).all()
    assert brightness[0] - brightness[-1] > 60
    assert [entry.name for entry in depth_legend()] == ["1 m", "3 m", "9 m", "27 m", "80 m"]


def test_amounts_run_from_dark_to_bright() -> None:
    brightness = lab(paint_amount(np.linspace(0, 1, 20)[None])[0])[:, 0]
    assert (np.diff(brightness) > 0).all()


def test_names_of_classes_come_from_the_data_set_and_odd_files_cost_names_alone(tmp_path: Path) -> None:
    root, file = Location.of(tmp_path), tmp_path / NAMES_FILE
    assert class_names(None) == class_names(root) == ()
    file.write_text(json.dumps({"others": 0, "wall": "1", "sky": 29}))
    names = class_names(root)
    assert (len(names), names[0], names[28], names[5]) == (124, "wall", "sky", "class 5")
    for odd in ("[1, 2]", "{", '{"wall": "one"}', '{"wall": null}', "[" * 100_000, "\0", "3"):
        file.write_text(odd)
        assert class_names(root) == (), odd[:20]
    file.write_bytes(b"\xff\xfe")
    assert class_names(root) == ()
    file.unlink()
    os.mkfifo(file)
    assert class_names(root) == (), "and it does not wait for one who writes"
    assert labelled_set("kitti").class_names(root) == ()


# --- letters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("street.mp4", "street.mp4"),
        ("Straße Ωμέγα Привет", "Straße Ωμέγα Привет"),
        ("e\u0301tude", "\u00e9tude"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("bad\udcff.mp4", "bad\\udcff.mp4"),
        ("\U0001f9ff.mp4", "\\U0001f9ff.mp4"),
    ],
)
def test_letters_without_a_glyph_are_written_out(name: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltactl.featurize.pictures.lettering._fonts_here", lambda: ())
    lettering.cache_clear()
    assert lettering(name)[0] == shown


def test_a_japanese_name_is_drawn_or_spelt_and_never_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    lettering.cache_clear()
    text, file = lettering("東京.mp4")
    assert {ord(letter) for letter in text} <= set(FT2Font(str(file)).get_charmap()), "each letter has a glyph"
    assert text in ("東京.mp4", "\\u6771\\u4eac.mp4")
    monkeypatch.setattr("deltactl.featurize.pictures.lettering._fonts_here", lambda: ())
    lettering.cache_clear()
    drawn = [draw_sheet(small_sheet(title=title)) for title in ("東京.mp4", "大阪.mp4")]
    assert drawn[0].shape != drawn[1].shape or (drawn[0] != drawn[1]).any(), "two names do not look alike"
    lettering.cache_clear()


# --- animations ------------------------------------------------------------------------------------------------------


def test_an_animation_has_a_frame_a_moment_and_marks_what_was_predicted(tmp_path: Path) -> None:
    tiles = [
        Tile("video", (plain(RED), plain(RED), None), seen=2),
        *(Tile(f"future {number}", (plain(RED), plain(RED), plain(GREEN)), seen=2) for number in range(5)),
    ]
    moments = draw_moments(tiles, (-0.2, 0.0, 0.2), "street.mp4")
    assert len({moment.shape for moment in moments}) == 1
    orange, blue = (213, 94, 0), (0, 114, 178)
    assert [bool((moment == orange).all(-1).any()) for moment in moments] == [False, False, True]
    assert [bool((moment == blue).all(-1).any()) for moment in moments] == [True, True, False]
    write_gif(tmp_path / "film.gif", moments)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3
        assert film.info["loop"] == 0
        film.seek(2)
        assert film.size == (moments[0].shape[1], moments[0].shape[0])
        assert np.abs(np.asarray(film.convert("RGB")).astype(int) - moments[2]).mean() < 3


# --- clips of an evaluation ------------------------------------------------------------------------------------------


def drawn(dataset: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[ClipPictures]:
    """Return what an evaluation draws of its clips, with every row there is."""
    found: list[ClipPictures] = []

    def remember(*arguments: Any) -> Iterator[ClipPictures]:
        for clip in draw_clips(*arguments):
            found.append(clip)
            yield clip

    monkeypatch.setattr(run, "draw_clips", remember)
    values = {"rgb_head": str(GOLDEN / "head_rgb.bin"), "pictures": 2, "extras": False, "limit": 2, "cache": False}
    run.run(tiny(dataset, **{**values, **changes}), quiet)
    return found


@pytest.fixture(scope="module")
def clips() -> list[ClipPictures]:
    with pytest.MonkeyPatch.context() as patch:
        return drawn("vspw", patch)


def test_a_clip_is_shown_in_every_row_and_rendering(clips: list[ClipPictures]) -> None:
    assert len({clip.key for clip in clips}) == 2
    sheet = clips[0].sheet
    seen, *futures = sheet.panels
    assert [(row.label, row.note) for row in seen.rows] == [
        ("frames", ""),
        ("true frames", "features (PCA)"),
        ("labels", "VSPW classes"),
        ("true frames", "VSPW classes"),
        ("true frames", "RGB head"),
    ]
    assert (seen.context, seen.times) == (4, pytest.approx([-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]))
    assert [panel.title for panel in futures] == ["features (PCA)", "VSPW classes", "RGB head"]
    for panel in futures:
        predicted = ["copy last", "DeltaTok", "DeltaWorld, best", "DeltaWorld, mean", "DINO-world"]
        assert [row.label for row in panel.rows] == ["what came", *predicted]
        assert panel.times == pytest.approx([0.2, 0.4, 0.6])
    assert all(picture is not None for panel in sheet.panels for row in panel.rows for picture in row.pictures)
    assert sheet.legends[0].entries[-1].name == "no label"


def test_a_clip_is_named_by_its_source_and_seconds(clips: list[ClipPictures]) -> None:
    for clip in clips:
        video, _, last = clip.key.rpartition("_")
        assert re.fullmatch(
            rf"data/{video}/origin, [\d.]+ to [\d.]+ s: 4 frames of context, 3 ahead", clip.sheet.title
        ), clip.sheet.title
        end = float(re.findall(r"to ([\d.]+) s", clip.sheet.title)[0])
        assert end == pytest.approx(int(last) / 15, abs=0.01)


def test_the_best_row_is_the_best_sample_and_copy_last_is_the_last_frame(clips: list[ClipPictures]) -> None:
    clip = clips[0]
    best = int(np.argmin(clip.losses))
    assert len(clip.losses) == 5
    seen, *futures = clip.sheet.panels
    rows = {(panel.title, row.label): row.pictures for panel in futures for row in panel.rows}
    rows |= {(row.note, row.label): row.pictures for row in seen.rows}
    for drawn_row in clip.samples:
        for step, picture in enumerate(rows[drawn_row.rendering, "DeltaWorld, best"]):
            # Samples go through the networks together or alone, which rounds otherwise.
            apart = np.abs(picture.astype(int) - drawn_row.pictures[best][step])
            assert np.median(apart) <= 1
        for picture in rows[drawn_row.rendering, "copy last"]:
            assert np.array_equal(picture, rows[drawn_row.rendering, "true frames"][3])


def test_depth_and_frames_without_labels_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    (clip,) = drawn("kitti", monkeypatch, limit=1, rgb_head=None)
    labels = next(row for row in clip.sheet.panels[0].rows if row.label == "labels")
    assert labels.note == "depth"
    assert all(picture is not None and picture.shape == (160, 160, 3) for picture in labels.pictures)
    (clip,) = drawn("cityscapes", monkeypatch, limit=1, rgb_head=None)
    labels = next(row for row in clip.sheet.panels[0].rows if row.label == "labels")
    assert [picture is not None for picture in labels.pictures] == [False] * 6 + [True]


def test_without_networks_there_are_frames_features_and_no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = dict.fromkeys(("tokenizer", "world", "dinoworld", "head", "rgb_head"))
    (clip,) = drawn("vspw", monkeypatch, limit=1, **changes)
    labels = [row.label for panel in clip.sheet.panels for row in panel.rows]
    assert labels == ["frames", "true frames", "what came", "copy last"]
    assert clip.samples == ()
    assert clip.losses == ()


def rows_of(clip: ClipPictures) -> list[PictureRow]:
    return [row for panel in clip.sheet.panels for row in panel.rows]


def test_clips_from_the_cache_look_like_streamed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    (cached,) = drawn("vspw", monkeypatch, cache=True, limit=None, pictures=1, rgb_head=None)
    (streamed,) = drawn("vspw", monkeypatch, cache=False, limit=None, pictures=1, rgb_head=None)
    assert cached.key == streamed.key
    for one, other in zip(rows_of(cached), rows_of(streamed), strict=True):
        for left, right in zip(one.pictures, other.pictures, strict=True):
            assert (left is None) == (right is None)
            assert left is None or np.abs(left.astype(int) - right).mean() < 1


def test_shown_clips_are_spread_over_the_set() -> None:
    tasks = [ClipTask("000000", 0, 32), ClipTask("000000", 32, 40), ClipTask("000001", 0, 10)]
    assert spread_clips(tasks, 3) == [
        ClipTask("000000", 0, 1),
        ClipTask("000000", 24, 25),
        ClipTask("000001", 9, 10),
    ]
    assert len(spread_clips(tasks, 1000)) == 50
    assert spread_clips(tasks[:1], 1) == [ClipTask("000000", 0, 1)]


def test_the_rgb_head_must_fit_the_features(tmp_path: Path) -> None:
    head = load(GOLDEN / "head_rgb.bin", RGB)
    state = head.state_dict()
    state["decoder_embed.weight"] = state["decoder_embed.weight"][:, :64]
    torch.save(state, tmp_path / "narrow.bin")
    with pytest.raises(CheckpointError, match="--rgb-head .* is for width 64, but the backbone .* width 128"):
        run.run(tiny("vspw", rgb_head=str(tmp_path / "narrow.bin"), limit=1, cache=False, pictures=1), quiet)
