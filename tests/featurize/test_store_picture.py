"""A picture of a store shows clips and, under them, the colours of their features."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest
from matplotlib.axes import Axes
from small_shards import training_shards
from small_stores import run

from deltactl.cli import main
from deltactl.errors import ArtifactError, ConfigError
from deltactl.featurize.pictures.picture import draw_store, title_of
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.shards.format import ShardSet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    training_shards(folder / "shards")
    run(folder / "shards", folder / "store")
    return folder


def test_a_picture_has_a_row_of_frames_and_one_of_features_for_each_clip(made: Path, tmp_path: Path) -> None:
    with FeatureStore.open(str(made / "store")) as store:
        assert draw_store(store, tmp_path / "both.png", clips=2) == ["class/video0-0", "class/video1-2"]
        shutil.move(made / "shards", tmp_path / "moved")
        draw_store(store, tmp_path / "alone.png", clips=2)
        draw_store(store, tmp_path / "again.png", clips=2, shards=str(tmp_path / "moved"))
        with pytest.raises(ArtifactError):
            draw_store(store, tmp_path / "x.png", shards=str(tmp_path / "nowhere"))
        with pytest.raises(ConfigError, match=r"end it in \.png"):
            draw_store(store, tmp_path / "x.mp4")
    both, alone, again = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("both", "alone", "again"))
    assert both is not None
    assert alone is not None
    assert both.shape[0] == 2 * alone.shape[0]
    assert both.std() > 10
    assert (both == again).all()


def test_clips_are_named_by_source_and_seconds_in_letters_that_are_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(
        Axes, "set_title", lambda self, label, **how: titles.append(f"{label} in {Path(how['font']).stem}")
    )
    with FeatureStore.open(str(made / "store")) as store:
        training_shards(tmp_path / "shards")
        draw_store(store, tmp_path / "both.png", clips=1, shards=str(tmp_path / "shards"))
        clip = next(iter(ShardSet.open(str(tmp_path / "shards")).read("000000")))
    times = clip.meta.times
    assert titles == [
        f"{clip.meta.source}, {times[0]:.4g} to {times[-1]:.4g} s, view 0 in DejaVuSans",
        "features in DejaVuSans",
    ]
    assert title_of("東京.mp4", [0.5, 1.25], 3) == "東京.mp4, 0.5 to 1.25 s, view 3"


def test_info_draws_it(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(made / "store"), "--picture", str(tmp_path / "store.png")]) == 0
    assert (tmp_path / "store.png").stat().st_size > 1000
    assert "store.png" in capsys.readouterr().err
