"""The sources of clips, as sidecars and indexes record them: odd names, several clips a video, damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_shards import make_clip, write_shards

from deltactl.artifacts import canonical_json, seal
from deltactl.errors import ArtifactError, ConfigError, DamagedError
from deltactl.fields import Fields
from deltactl.ingest.shards.clip_index import ClipIndex, sources_from, sources_to_json
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.keys import source_name
from deltactl.ingest.shards.old_keys import guess_sources
from deltactl.locations import Location
from deltactl.train.data.selection import select

texts = st.text(st.characters(), max_size=5) | st.sampled_from(["a", "b", "\udcff", ""])


@given(st.lists(texts, max_size=20))
def test_runs_of_sources_come_back_as_they_were(sources: list[str]) -> None:
    content = sources_to_json(sources)
    assert len(content["names"]) == len(list(groupby(sources)))
    read = json.loads(canonical_json(content))
    assert sources_from(Fields(read, "f.json"), len(sources)) == tuple(sources)


def test_eight_clips_of_a_video_cost_as_much_as_one() -> None:
    names = [source_name(f"train/a class/video {number}.mp4") for number in range(64)]
    sizes = [len(canonical_json(sources_to_json([name for name in names for _ in range(clips)]))) for clips in (1, 8)]
    assert sizes[0] == sizes[1] < 50 * len(names)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "sources is None; expected an object"),
        ({"names": ["a"]}, "it has no 'sources.clips'"),
        ({"names": ["a", 1], "clips": [1, 2]}, r"sources.names\[1\] is 1; expected text"),
        ({"names": ["a", "b"], "clips": [3]}, "sources.clips is a list of 1; expected a list of 2"),
        ({"names": ["a", "b"], "clips": [3, 0]}, r"sources.clips\[1\] is 0; expected a whole number of at least 1"),
        ({"names": ["a", "b"], "clips": [1, 1]}, "sources.clips is 2; expected 3 clips in all"),
        ({"names": ["a"], "clips": [2**62]}, f"sources.clips is {2**62}; expected 3 clips in all"),
    ],
)
def test_a_sidecar_whose_sources_are_not_those_of_its_clips_is_damaged(tmp_path: Path, content: Any, said: str) -> None:
    shards = write_shards(tmp_path / "shards", [[make_clip(key) for key in "abc"]])
    reseal(tmp_path / "shards/000000.json", lambda sidecar: sidecar.update(sources=content))
    with pytest.raises(DamagedError, match=rf"000000\.json is damaged: {said}") as caught:
        select(shards, 0.1)
    assert "\n" not in str(caught.value)


def test_a_format_to_come_is_refused(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", [[make_clip("a")]])
    reseal(tmp_path / "shards/000000.json", lambda sidecar: sidecar.update(format=3))
    with pytest.raises(ArtifactError, match=r"000000\.json has format 3; this program reads 1 and 2"):
        shards.sources_of("000000")


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_bytes())
    del content["sha256"]
    change(content)
    path.write_bytes(canonical_json(seal(content)))


def named(key: str, source: str | None, path: str = "a.mp4") -> Clip:
    clip = make_clip(key)
    return replace(clip, source_name=source, meta=replace(clip.meta, source=path))


def test_names_that_look_like_keys_and_paths_that_are_not_text_keep_their_clips_together(tmp_path: Path) -> None:
    like_a_key = "v-0123456789ab-3"
    units = [
        [named("x-0123456789ab-0", like_a_key), named("x-0123456789ab-1", "another"), named("ü-1", like_a_key)],
        [named("é 1", None, "odd\udcff.mp4"), named("é 2", None, "odd\udcff.mp4"), named("z", like_a_key)],
    ]
    shards = write_shards(tmp_path / "shards", units)
    assert isinstance(shards, ClipIndex)
    assert shards.sources_of("000000") == (like_a_key, "another", like_a_key)
    assert shards.sources_of("000001") == ("odd\udcff.mp4", "odd\udcff.mp4", like_a_key)
    of_clip = [source for unit in shards.units for source in shards.sources_of(unit)]
    for share in (0.1, 0.4, 0.7):
        train, held = ({of_clip[number] for number in each.samples[0]} for each in select(shards, share))
        assert train
        assert held
        assert not train & held


def test_clips_that_are_read_and_written_again_keep_their_sources(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", [[named("a-1", "one"), named("a-2", "two")]])
    again = write_shards(tmp_path / "again", [list(shards.read("000000"))])
    assert again.sources_of("000000") == ("one", "two")
    assert [clip.source_name for clip in shards.stream("000000")] == ["one", "two"]


def test_one_source_alone_cannot_be_held_out_and_train(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", [[named("a-1", "one"), named("a-2", "one")]])
    train, held = select(shards, 0.1)
    assert (train.clips, held.clips) == (2, 0)
    with pytest.raises(ConfigError, match="has no clip to train on"):
        select(shards, 0.9999999)


def test_guesses_are_those_of_earlier_versions() -> None:
    keys = ["a_b-0123456789ab-3", "a-0123456789ab-3-3fa22862694b-0", "frankfurt_000000_000294", "drive_image_02_0030"]
    assert guess_sources(keys, evaluation=False) == ("a_b-0123456789ab", "a-0123456789ab-3-3fa22862694b", *keys[2:])
    assert guess_sources(keys, evaluation=True)[2:] == ("frankfurt_000000", "drive")


def test_an_index_of_shards_is_asked_of_a_location_alike(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [[make_clip("a"), make_clip("b")], [], [make_clip("c")]])
    view, unit, row = ShardSet.open(Location.of(tmp_path / "shards")).origins
    assert (view.tolist(), unit.tolist(), row.tolist()) == ([0, 0, 0], [0, 0, 2], [0, 1, 0])
