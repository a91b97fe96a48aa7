"""Shards made straight into an object store are those that a disk would get, and a stopped ingest goes on there."""

from __future__ import annotations

from pathlib import Path

import pytest
from videos import make_video

from deltactl.configs.ingest import IngestConfig
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location

# moto, botocore and aiohttp leave sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.slow
def test_an_object_store_gets_the_same_bytes_in_parts_and_again(bucket: Location, tmp_path: Path):
    for number in range(4):
        make_video(tmp_path / "in" / f"{number}.mp4", frames=20)
    settings = {"source": str(tmp_path / "in"), "dataset": "folder", "shard_clips": 2, "workers": 2}
    run_ingest(IngestConfig(**settings, out=str(tmp_path / "out")))
    remote = str(bucket / "shards")
    run_ingest(IngestConfig(**settings, out=remote, part="2/2"))
    assert not ShardSet.open(remote).complete
    summary = run_ingest(IngestConfig(**settings, out=remote))
    assert (summary.done, summary.skipped) == (2, 2)
    assert ShardSet.open(remote).complete
    for name in ("000000.tar", "000000.json", "000001.tar", "000001.json", "index.json"):
        assert (bucket / "shards" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
