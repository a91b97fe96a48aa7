"""`deltactl curate` and `deltactl nearest` on real videos: what they find, write, feed and refuse."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import token_stores
import torch
from small_runs import tokens_of
from small_stores import contents, run
from small_training import tokenizer_config
from token_stores import LAYOUT, make_store, unit_names

from deltactl.cli import main
from deltactl.configs.ingest import IngestConfig
from deltactl.curation.frames import Frames
from deltactl.curation.nearest import nearest_clips
from deltactl.curation.read import measure, open_store, samples_of
from deltactl.demo.datasets import write_video
from deltactl.errors import ArtifactError
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import ClipStore
from deltactl.featurize.store.scan import blocks_of
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.train.run import train

RATE, SECONDS, SIDE = 10, 4, 72
STILLS, CUTS, COPIES = ("still0", "still1"), ("cut0", "cut1"), ("zcopy3", "zcopy5")


def film(seed: int, speed: float = 1.0) -> np.ndarray:
    """Return frames of a bright square that moves over a ground of its own (frame, side, side, 3)."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    ground = np.repeat(np.repeat(coarse, SIDE // 6, 0), SIDE // 6, 1)
    start, step = draw.uniform(0, SIDE, 2), draw.uniform(1, 3, 2) * speed
    images = []
    for frame in range(RATE * SECONDS):
        image = ground.copy()
        top, left = ((start + step * frame) % (SIDE - 16)).astype(int)
        image[top : top + 16, left : left + 16] = 255 - coarse[0, 0]
        images.append(image)
    return np.stack(images)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos, and the shards, features and tokens of them."""
    root = tmp_path_factory.mktemp("curate")
    films = {f"plain{number}": film(number) for number in range(20)}
    films |= {name: film(100 + number, 0) for number, name in enumerate(STILLS)}
    for number, name in enumerate(CUTS):
        both = film(200 + number), film(300 + number)
        films[name] = np.concatenate([both[frame // 5 % 2][frame : frame + 1] for frame in range(RATE * SECONDS)])
    films |= {name: films[f"plain{name[-1]}"] ^ 1 for name in COPIES}
    for name, images in films.items():
        (root / "videos" / "some").mkdir(parents=True, exist_ok=True)
        write_video(root / "videos" / "some" / f"{name}.mp4", list(images), RATE)
    ingest(root)
    run(root / "shards", root / "features", views="2")
    tokens_of(str(root / "features"), root / "tokens")
    return root


def ingest(root: Path, out: str = "shards", **changes: str) -> ShardSet:
    settings = {"dataset": "folder", "clips": 2, "frames": 6, "stride": "0.1:0.1", "size": 64, "workers": 0}
    run_ingest(IngestConfig(source=str(root / "videos"), out=str(root / out), **settings, **changes))
    return ShardSet.open(str(root / out))


def lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if not line.startswith("#")]


def videos_in(keys: list[str]) -> set[str]:
    return {re.sub(r"^some__|-.*", "", key) for key in keys}


def test_what_it_finds_feeds_training_and_ingest(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found"
    assert main(["curate", str(made / "features"), "--out", str(out), "--alike", "0.36"]) == 0
    assert capfd.readouterr().out.startswith("52 clips of 26 videos: ")
    facts = json.loads((out / "curation.json").read_text())
    by_kind = {
        kind: videos_in([each["key"] for each in facts["clips_found"] if kind in each["found"]])
        for kind in ("cut", "still", "copy")
    }
    assert by_kind["still"] == set(STILLS)
    assert by_kind["cut"] == set(CUTS)
    copies = [each for each in facts["clips_found"] if "copy" in each["found"]]
    pairs = {frozenset(videos_in([each["key"], each["copy"]["of"]])) for each in copies}
    assert {frozenset({"plain3", "zcopy3"}), frozenset({"plain5", "zcopy5"})} <= pairs
    for entry in facts["clips_found"]:
        if "cut" in entry["found"]:
            before, after = entry["cut"]["between_seconds"]
            assert after - before == pytest.approx(0.1, abs=0.01)
            assert round(after * RATE) % 5 == 0, "the first frame of the other film"
    gone = lines(out / "clips.txt")
    assert videos_in(gone) >= {*STILLS, *CUTS}
    paths = lines(out / "sources.txt")
    assert {"some/still0.mp4", "some/still1.mp4"} <= set(paths)

    rest = ingest(made, f"rest-{tmp_path.name}", exclude=str(out / "sources.txt"))
    left = {clip.meta.source for unit in rest.units for clip in rest.read(unit)}
    assert left == {f"some/{path.name}" for path in (made / "videos" / "some").iterdir()} - set(paths)

    where = str(out / "clips.txt")
    train(tokenizer_config(str(made / "features"), tmp_path / "run", steps=2, where=where), "run")


def test_the_page_stands_alone_and_shows_what_lies_on_both_sides(made: Path, tmp_path: Path) -> None:
    assert main(["curate", str(made / "features"), "--out", str(tmp_path / "found")]) == 0
    page = (tmp_path / "found" / "report.html").read_text()
    assert page.count("<svg ") == 4
    assert page.count('src="data:image/jpeg') > 20
    assert 'class="cut"' in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for heading in ("The surest", "Not found, nearest to the threshold"):
        assert heading in page


def test_tokens_alone_tell_stills(made: Path, tmp_path: Path) -> None:
    assert main(["curate", str(made / "tokens"), "--out", str(tmp_path / "found")]) == 0
    facts = json.loads((tmp_path / "found" / "curation.json").read_text())
    stills = [each["key"] for each in facts["clips_found"] if "still" in each["found"]]
    assert videos_in(stills) == set(STILLS)


def test_the_same_bytes_come_again_and_another_store_is_asked_about(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    assert main(["curate", str(made / "features"), "--out", str(out)]) == 0
    first = contents(out)
    assert main(["curate", str(made / "features"), "--out", str(out)]) == 0
    assert contents(out) == first
    assert main(["curate", str(made / "tokens"), "--out", str(out)]) == 1
    assert "nothing was removed or overwritten" in capfd.readouterr().err
    assert contents(out) == first
    assert main(["curate", str(made / "tokens"), "--out", str(out), "--yes"]) == 0
    assert main(["curate", str(made / "tokens"), "--out", str(made / "videos")]) == 1
    assert "holds something other than a curation" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_blocks_of_any_size_measure_the_same(kind: str, made: Path, tmp_path: Path) -> None:
    found = []
    for block in (3, 1000):
        (tmp_path / str(block)).mkdir()
        with open_store(str(made / kind)) as store:
            found.append(measure(store, tmp_path / str(block), block))
    for name in ("changes", "movement", "looks"):
        np.testing.assert_allclose(getattr(found[0], name), getattr(found[1], name), rtol=1e-4, atol=1e-5)


def test_a_sample_is_compared_with_all(made: Path, tmp_path: Path) -> None:
    settings = ["--alike", "0.02", "--leave-out", "copy,repeat"]
    assert main(["curate", str(made / "features"), "--out", str(tmp_path / "all"), *settings]) == 0
    assert main(["curate", str(made / "features"), "--out", str(tmp_path / "some"), *settings, "--sample", "30"]) == 0
    everything, some = (json.loads((tmp_path / name / "curation.json").read_text()) for name in ("all", "some"))
    assert (everything["compared"], some["compared"]) == (None, 30)
    assert set(lines(tmp_path / "some" / "clips.txt")) <= set(lines(tmp_path / "all" / "clips.txt"))


def test_the_nearest_clips_of_a_copy_are_those_of_its_film(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_store(str(made / "features")) as store:
        key = next(key for key in store.keys if "zcopy3" in key)
        numbers = samples_of(store, [key])
        many = nearest_clips(store, numbers, 5, block=7)[0]
        assert [hit.sample for hit in many] == [hit.sample for hit in nearest_clips(store, numbers, 5)[0]]
        assert numbers[0] not in [hit.sample for hit in many]
        assert [hit.cosine for hit in many] == sorted((hit.cosine for hit in many), reverse=True)
    picture = tmp_path / "nearest.png"
    words = ["nearest", str(made / "features"), "--query", key, "-k", "3"]
    assert main([*words, "--other-videos", "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = capfd.readouterr().out.splitlines()
    assert len(said) == 4
    assert "plain3-" in said[1]
    assert main([*words, "--json"]) == 0
    assert "zcopy3" in json.loads(capfd.readouterr().out)[key][0]["key"] or "plain3" in said[1]


def test_pictures_follow_tokens_back_to_their_shards(made: Path, tmp_path: Path) -> None:
    with open_store(str(made / "tokens")) as store:
        shown = Frames.of(store).of_clip(0)
        assert len(shown) == store.frames
        assert all(image.shape[2] == 3 for image in shown)
    alone = tmp_path / "tokens"
    shutil.copytree(made / "tokens", alone)
    header = json.loads((alone / "artifact.json").read_text())
    assert header["provenance"]["data"]


def test_what_cannot_be_looked_at_is_one_clear_line(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: str) -> str:
        assert main(list(words)) in (1, 2)
        (line,) = capfd.readouterr().err.strip().splitlines()
        return line

    assert "holds shards; features or tokens were expected" in refused("curate", str(made / "shards"))
    assert "nothing" in refused("curate", str(tmp_path / "nothing"))
    unfinished = make_store(tmp_path / "unfinished", unit_names(3), expected=unit_names(5))
    assert "view 0 holds 3 of 5 shards" in refused("curate", str(unfinished))
    monkeypatch.setattr(token_stores, "FRAMES", 1)
    one = make_store(tmp_path / "one", unit_names(4), layout=Layout("tokens", 1, (1, LAYOUT.frame_shape[-1])))
    assert "has clips of one frame" in refused("curate", str(one))
    assert "no clip 'nope'; keys are such as" in refused("nearest", str(made / "tokens"), "--query", "nope")
    assert "end it in .png" in refused("nearest", str(made / "tokens"), "--query", "x", "--picture", "a.gif")
    assert "--leave-out names 'cuts'" in refused("curate", str(made / "tokens"), "--leave-out", "cuts")
    assert "whole view 7" in refused("curate", str(made / "tokens"), "--view", "7")


def test_numbers_that_are_not_finite_name_their_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_nan(store: ClipStore) -> Iterator[tuple[int, torch.Tensor]]:
        for start, clips in blocks_of(store):
            clips[4, 2] = torch.nan
            yield start, clips

    monkeypatch.setattr("deltactl.curation.read.blocks_of", lambda store, block=None: with_nan(store))
    said = "the clip 000003-1 holds numbers that are not finite"
    with (
        open_store(str(make_store(tmp_path / "store", unit_names(6)))) as store,
        pytest.raises(ArtifactError, match=said),
    ):
        measure(store, tmp_path)
