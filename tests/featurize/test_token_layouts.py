"""Token stores with and without an axis for the tokens of a frame: read alike, told alike, grown as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stores import tokens as tokenize_with
from torch import Tensor

from deltactl.artifacts import Identity, open_artifact
from deltactl.cli import main
from deltactl.errors import ArtifactError, DamagedError
from deltactl.featurize.store.finish import finish, layout_there
from deltactl.featurize.store.group import Span
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.local_reader import LocalReader
from deltactl.featurize.store.ranges_reader import RangesReader
from deltactl.featurize.store.reader import TokenStore
from deltactl.featurize.store.reads import Reader
from deltactl.featurize.store.remote_reader import RemoteReader
from deltactl.featurize.store.writer import group_writer, write_root
from deltactl.fields import Fields
from deltactl.locations import Location

OLD = Path(__file__).parents[1] / "old_files" / "format_1"
CLIPS, FRAMES, DIM = 5, 3, 8


def numbers(count: int) -> np.ndarray:
    return np.arange(CLIPS * FRAMES * count * DIM, dtype=np.float16).reshape(CLIPS, FRAMES, count, DIM)


def make(root: Path, shape: tuple[int, ...]) -> TokenStore:
    place, identity = Location.of(root), Identity("tokens", {"made": "by hand"})
    open_artifact(place, identity, {})
    write_root(place, None)
    layout = Layout("tokens", FRAMES, shape, nested=len(shape) == 1)
    keys = [str(row) for row in range(CLIPS)]
    with group_writer(place, 0, "000000", layout, keys, keys) as writer:
        for row, clip in enumerate(numbers(layout.item_shape[0])):
            writer.put(row, 0, clip)
        small = {"times": np.zeros((CLIPS, FRAMES)), "crop": np.zeros((CLIPS, 4)), "flip": np.zeros(CLIPS)}
        made_from = {"identity": {"kind": "tokens", "values": dict(identity.values)}, "quarantined": []}
        writer.close(grid=(2, 2), small=small, attributes={**made_from, "shard_sha256": ""})
    finish(place, expected=["000000"])
    return TokenStore.open(str(root))


@pytest.mark.parametrize("shape", [(DIM,), (1, DIM), (4, DIM)])
@pytest.mark.parametrize("reader", [LocalReader, RangesReader, RemoteReader])
def test_every_reader_hands_out_the_axis(shape: tuple[int, ...], reader: type[Reader], tmp_path: Path) -> None:
    with make(tmp_path / "tokens", shape) as store:
        count = store.tokens_per_frame
        out = np.zeros((CLIPS, FRAMES, count, DIM), np.float16)
        spans = [Span(store._group(sample), sample, 0, FRAMES) for sample in range(CLIPS)]
        reading = reader(4)  # type: ignore[call-arg]
        for future in reading.start(spans, out):
            future.result()
        reading.close()
        assert np.array_equal(out, numbers(count))
        buffer: Tensor = store.clip_buffer(2)
        assert buffer.shape == (2, FRAMES, count, DIM)
        assert torch.equal(store.read_clips([3, 0], buffer), torch.from_numpy(numbers(count)[[3, 0]]))


@pytest.mark.parametrize(("shape", "written"), [((DIM,), 2), ((1, DIM), 4), ((4, DIM), 4)])
def test_what_lacks_the_axis_is_of_the_format_that_lacks_it(
    shape: tuple[int, ...], written: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "tokens", shape).close()
    group = json.loads((tmp_path / "tokens/v000/000000/zarr.json").read_text())["attributes"]
    index = json.loads((tmp_path / "tokens/index.json").read_text())
    assert (group["format"], index["format"]) == (written, written)
    array = json.loads((tmp_path / "tokens/v000/000000/tokens/zarr.json").read_text())
    assert array["dimension_names"] == ["clip", "frame", *["token", "dim"][-len(shape) :]]
    assert array["shape"] == [CLIPS, FRAMES, *shape]
    assert layout_there(Location.of(tmp_path / "tokens")) == Layout("tokens", FRAMES, shape, nested=len(shape) == 1)
    assert main(["info", str(tmp_path / "tokens")]) == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tokens", "per", "frame", str([1, *shape][-2])] in told
    assert ["width", str(DIM), "float16"] in told


def test_other_numbers_of_axes_are_damage() -> None:
    for kind, shape in (("tokens", [1, 2, 3]), ("tokens", []), ("features", [8])):
        with pytest.raises(DamagedError, match="frame_shape"):
            Layout.of(Fields({"kind": kind, "frames": 2, "frame_shape": shape}, Location.of("/store")), 3)
    with pytest.raises(DamagedError, match="frame_shape"):
        Layout.of(Fields({"kind": "tokens", "frames": 2, "frame_shape": [8]}, Location.of("/store")), 4)


def test_a_format_to_come_is_refused_with_those_that_are_read(tmp_path: Path) -> None:
    from deltactl.featurize.store.index import read_format

    with pytest.raises(ArtifactError, match="has format 6; this program reads 1, 2, 3, 4, 5"):
        read_format(Fields({"format": 6}, Location.of(tmp_path)))


@pytest.mark.parametrize("lost", ["a group", "a group and the index"])
def test_an_old_store_is_repaired_and_grows_in_its_own_layout(lost: str, tmp_path: Path) -> None:
    """Whatever of it is left says which layout that is."""
    root = tmp_path / "tokens"
    shutil.copytree(OLD / "tokens", root)
    with TokenStore.open(str(root)) as store:
        before = store.read_clips(range(len(store)))
    shutil.rmtree(root / "v001/000001")
    if lost != "a group":
        (root / "index.json").unlink()
    assert layout_there(Location.of(root)) == Layout("tokens", 3, (128,), nested=True)
    tokenize_with(OLD / "features", root)
    with TokenStore.open(str(root)) as store:
        assert torch.allclose(store.read_clips(range(len(store))).float(), before.float(), atol=2e-3)
    assert {len(json.loads(path.read_text())["shape"]) for path in root.glob("v*/*/tokens/zarr.json")} == {3}
    assert main(["verify", str(root)]) == 0
