"""A tar that WebDataset's reader would misread is an error that names the tar and the clip, wherever it is read."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from small_shards import make_clip, write_shards

from deltactl.artifacts import canonical_json, seal
from deltactl.cli import main
from deltactl.errors import DamagedError
from deltactl.featurize.verify import Verification
from deltactl.ingest.shards.format import ShardSet, finish
from deltactl.ingest.shards.random_access import RandomAccess

KEYS = ("one", "two")
Members = list[tuple[str, bytes]]


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    """A set of two shards of two clips each."""
    units = [[make_clip(key, frames=2) for key in KEYS], [make_clip(f"{key}-b", frames=2) for key in KEYS]]
    return write_shards(tmp_path / "shards", units, frames=2)


def members_of(shards: ShardSet) -> Members:
    with tarfile.open((shards.root / "000000.tar").path) as tar:
        found = [(info.name, tar.extractfile(info)) for info in tar]
        return [(name, file.read()) for name, file in found if file is not None]


def tar_of(members: Sequence[tuple[str, bytes]], change: Callable[[tarfile.TarInfo], None] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if change is not None:
                change(info)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def replace_tar(shards: ShardSet, data: bytes) -> None:
    """Put another tar in the place of the first, and make sidecar and index fit it, as somebody's script would."""
    (shards.root / "000000.tar").write_bytes(data)
    sidecar = shards.sidecar("000000").to_json()
    sidecar.update(tar_bytes=len(data), tar_sha256=hashlib.sha256(data).hexdigest())
    (shards.root / "000000.json").write_bytes(canonical_json(seal(sidecar)))
    finish(shards.root)


def scattered(members: Members) -> Members:
    """Take the members of the clips in turn."""
    half = len(members) // 2
    return [each for pair in zip(members[:half], members[half:], strict=True) for each in pair]


def described(data: bytes) -> Callable[[Members], Members]:
    return lambda members: [(name, data if name == "one.json" else old) for name, old in members]


def without(name: str) -> Callable[[Members], Members]:
    return lambda members: [each for each in members if each[0] != name]


WRONG: dict[str, tuple[Callable[[Members], Members], str]] = {
    "members in turn": (scattered, r"clip 'one' has no description \(one\.json\) beside its other members"),
    "a member behind the next clip": (
        lambda members: [*(each for each in members if each[0] != "one.001.jpg"), ("one.001.jpg", b"")],
        r"members of clip 'one' do not lie together",
    ),
    "no description": (without("one.json"), r"clip 'one' has no description \(one\.json\)"),
    "a description that is no JSON": (described(b"{"), r"description of clip 'one' is damaged: expected JSON"),
    "a deep description": (described(b"[" * 200_000), r"description of clip 'one' is damaged: .*deep"),
    "an odd description": (described(b'{"source": 3}'), r"description of clip 'one' is damaged: it has no"),
    "a list for a description": (described(b"[]"), r"description of clip 'one' is damaged: .* expected an object"),
    "times that are no numbers": (
        lambda members: [
            (name, data.replace(b"10.25", b"NaN") if name == "one.json" else data) for name, data in members
        ],
        r"description of clip 'one' is damaged: .*NaN",
    ),
    "a member twice": (lambda members: [members[0], *members], r"clip 'one' has '[a-z0-9.]+' twice"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_in_a_tar_is_named_with_the_clip_wherever_it_is_read(shards: ShardSet, wrong: str) -> None:
    change, said = WRONG[wrong]
    replace_tar(shards, tar_of(change(members_of(shards))))
    match = rf"000000\.tar.*{said}"
    for read in (shards.read, shards.stream):
        with pytest.raises(DamagedError, match=match):
            list(read("000000"))
    with pytest.raises(DamagedError, match=match):
        RandomAccess(shards).read("000000", "one", None)
    findings = Verification.of(str(shards.root)).run()
    assert [(finding.kind, finding.path, finding.unit) for finding in findings] == [("damaged", "000000.tar", "000000")]


def test_verify_says_so_and_ends_with_1(shards: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    replace_tar(shards, tar_of(scattered(members_of(shards))))
    assert main(["verify", str(shards.root)]) == 1
    shown = capsys.readouterr()
    assert "damaged: 000000.tar is damaged: clip 'one' has no description (one.json)" in shown.out
    assert "Error" not in shown.err


@pytest.mark.parametrize("kind", ["link", "device", "sparse", "large"])
def test_members_that_are_no_plain_files_are_refused(shards: ShardSet, kind: str) -> None:
    def change(info: tarfile.TarInfo) -> None:
        if info.name != "one.json":
            return
        match kind:
            case "link":
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
            case "device":
                info.type, info.size = tarfile.CHRTYPE, 0
            case "sparse":
                info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}
            case "large":
                info.size = 1 << 40

    data = tar_of(members_of(shards)) if kind == "large" else tar_of(members_of(shards), change)
    if kind == "large":
        info = tarfile.TarInfo("one.json")
        change(info)
        data = info.tobuf(tarfile.GNU_FORMAT) + data
    replace_tar(shards, data)
    said = "claims 1,099,511,627,776 bytes" if kind == "large" else "is a link, a device or sparse"
    for read in (shards.read, shards.stream):
        with pytest.raises(DamagedError, match=rf"000000\.tar is damaged: 'one\.json' {said}"):
            list(read("000000"))


def test_a_compressed_tar_is_not_unpacked(shards: ShardSet) -> None:
    import gzip

    replace_tar(shards, gzip.compress(tar_of(members_of(shards))))
    with pytest.raises(DamagedError, match=r"000000\.tar is damaged"):
        list(shards.read("000000"))


def test_folders_and_names_without_a_suffix_are_passed_over_as_webdataset_does(shards: ShardSet) -> None:
    before = list(shards.read("000000"))
    replace_tar(shards, tar_of([("README", b"about"), ("__meta__/x.txt", b""), *members_of(shards)]))
    assert list(shards.read("000000")) == before
    assert [name for name, _ in RandomAccess(shards).read("000000", "two", None)[1]] == ["two.000.jpg", "two.001.jpg"]
    assert Verification.of(str(shards.root)).run() == []


def test_a_frame_that_is_missing_is_told_in_live_training_too(shards: ShardSet) -> None:
    replace_tar(shards, tar_of(without("one.001.jpg")(members_of(shards))))
    with pytest.raises(Exception, match="it has 1 frames and 2 times"):
        RandomAccess(shards).read("000000", "one", [0, 1])
