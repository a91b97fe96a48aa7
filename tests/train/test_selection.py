"""Clips that train and clips that are held out share no video, for keys as ingest really makes them."""

from __future__ import annotations

from pathlib import Path

from small_stores import run
from videos import make_video

from deltactl.configs.ingest import IngestConfig
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.train.data.selection import select


def test_no_video_is_in_both_whether_cached_or_live(tmp_path: Path) -> None:
    for number in range(8):
        make_video(tmp_path / "in" / f"class {number % 2}" / f"video.{number}.mp4", frames=40)
    shards = str(tmp_path / "shards")
    settings = {"dataset": "folder", "clips": 4, "frames": 3, "size": 64, "shard_clips": 8, "workers": 0}
    run_ingest(IngestConfig(source=str(tmp_path / "in"), out=shards, **settings))
    opened = ShardSet.open(shards)
    source = {clip.key: clip.meta.source for unit in opened.units for clip in opened.read(unit)}
    assert len(set(source.values())) == 8
    assert len(source) == 32

    keys = [key for unit in opened.units for key in opened.keys(unit)]
    train, held = select(opened, 0.3)
    trained, kept = ({source[keys[number]] for number in each.samples[0]} for each in (train, held))
    assert trained
    assert kept
    assert trained.isdisjoint(kept)
    assert (len(trained) + len(kept), train.clips + held.clips) == (8, 32)

    run(Path(shards), tmp_path / "features", views="2")
    with FeatureStore.open(str(tmp_path / "features")) as store:
        train, held = select(store, 0.3)
        for view in range(2):
            assert {source[store.keys[number]] for number in train.samples[view]} == trained
            assert {source[store.keys[number]] for number in held.samples[view]} == kept
