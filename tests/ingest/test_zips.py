"""Zips of frame folders are read in place, whole or split, and a path that leads out of them is refused."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from deltactl.errors import ConfigError, SourceError
from deltactl.ingest.sources import RefusedSource, ZippedFolder, list_kinetics
from deltactl.ingest.video.frames import open_zipped_folder
from deltactl.ingest.video.zips import ZipArchive


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def split(path: Path, part_bytes: int) -> Path:
    data = path.read_bytes()
    for number, start in enumerate(range(0, len(data), part_bytes)):
        Path(f"{path}.part{number:03d}").write_bytes(data[start : start + part_bytes])
    path.unlink()
    return Path(f"{path}.part000")


FRAMES = {
    f"train/{folder}/frame_{number / 10:.3f}.jpg": f"{folder} {number}".encode() * 50
    for folder in ("abseiling/one", "abseiling/two", "déjà vu/three")
    for number in range(12)
}


def read_all(path: Path) -> dict[str, bytes]:
    found = {}
    with ZipArchive(path) as archive:
        for source in list_kinetics(path, "train").sources:
            assert isinstance(source, ZippedFolder)
            sequence = open_zipped_folder(archive, source.spans)
            found |= {f"{source.name}/{name}": sequence.read(n) for n, name in enumerate(sequence.names)}
    return found


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("part_bytes", [None, 100_000, 777])
def test_every_frame_comes_out_as_it_went_in(tmp_path: Path, method: int, part_bytes: int | None):
    path = make_zip(tmp_path / "kinetics.zip", FRAMES, method)
    assert read_all(split(path, part_bytes) if part_bytes else path) == FRAMES


def test_times_are_in_the_names_and_sort_as_numbers(tmp_path: Path):
    path = make_zip(tmp_path / "a.zip", {f"train/c/v/frame_{s}.jpg": b"x" for s in ("10.5", "9.25", "0", "100")})
    (source,) = list_kinetics(path, "train").sources
    with ZipArchive(path) as archive:
        assert open_zipped_folder(archive, source.spans).times.tolist() == [0.0, 9.25, 10.5, 100.0]


def test_a_root_may_hold_the_zip_in_place_of_the_folder(tmp_path: Path):
    split(make_zip(tmp_path / "train.zip", FRAMES), 2000)
    listing = list_kinetics(tmp_path, "train")
    assert [source.name for source in listing.sources] == [
        "train/abseiling/one",
        "train/abseiling/two",
        "train/déjà vu/three",
    ]
    make_zip(tmp_path / "other.zip", FRAMES)
    assert len(list_kinetics(tmp_path, "train").sources) == 3
    with pytest.raises(ConfigError, match=r"there are other\.zip, train\.zip\.part000: name one"):
        list_kinetics(tmp_path, "val")


def test_the_split_is_taken_from_the_folders_and_leading_folders_do_not_matter(tmp_path: Path):
    members = {"k700/train/c/v/frame_0.jpg": b"a", "k700/val/c/w/frame_0.jpg": b"b", "__MACOSX/train/c/v/x": b"c"}
    path = make_zip(tmp_path / "a.zip", members)
    assert [source.name for source in list_kinetics(path, "train").sources] == ["train/c/v"]
    path = make_zip(tmp_path / "b.zip", {"c/v/frame_0.jpg": b"a", "c/v/frame_1.jpg": b"b"})
    assert [source.name for source in list_kinetics(path, "train").sources] == ["train/c/v"]


def test_frames_of_one_folder_may_be_scattered_over_the_zip(tmp_path: Path):
    members = {f"train/c/{v}/frame_{s}.jpg": f"{v}{s}".encode() for s in range(5) for v in ("v", "w")}
    assert read_all(make_zip(tmp_path / "a.zip", members)) == members


@pytest.mark.parametrize("name", ["train/../../etc/v/frame_0.jpg", "/train/etc/frame_0.jpg", "train\\..\\v/f_0.jpg"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str):
    path = make_zip(tmp_path / "a.zip", {"train/c/v/frame_0.jpg": b"a", name: b"b"})
    refused = [source for source in list_kinetics(path, "train").sources if isinstance(source, RefusedSource)]
    assert len(refused) == 1
    assert "leads out of the archive" in refused[0].reason
    assert ".." not in refused[0].name


def test_zip64_archives_are_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name, data in FRAMES.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(data)
        file.comment = b"PK\5\6 in a comment"
    assert read_all(tmp_path / "a.zip") == FRAMES


def test_a_zip_of_more_members_than_the_old_format_counts_is_read(tmp_path: Path):
    members = {f"train/c/v{number // 100:04d}/frame_{number % 100}.jpg": b"" for number in range(66_000)}
    path = make_zip(tmp_path / "a.zip", members)
    listing = list_kinetics(path, "train")
    assert len(listing.sources) == 660
    with ZipArchive(path) as archive:
        assert len(archive.members(listing.sources[-1].spans)) == 100


def test_a_missing_part_is_named(tmp_path: Path):
    first = split(make_zip(tmp_path / "a.zip", FRAMES), 2000)
    (tmp_path / "a.zip.part001").unlink()
    with pytest.raises(ConfigError, match=r"a\.zip\.part001 is missing"):
        list_kinetics(first, "train")


def test_a_zip_that_is_cut_short_is_refused(tmp_path: Path):
    first = split(make_zip(tmp_path / "a.zip", FRAMES), 2000)
    sorted(tmp_path.iterdir())[-1].unlink()
    with pytest.raises(ConfigError, match="is not a whole zip file"):
        list_kinetics(first, "train")
    (tmp_path / "b.zip").write_bytes(b"not a zip")
    with pytest.raises(ConfigError, match="is not a whole zip file"):
        list_kinetics(tmp_path / "b.zip", "train")


def test_a_damaged_member_is_an_error_for_that_member_alone(tmp_path: Path):
    path = make_zip(tmp_path / "a.zip", FRAMES)
    data = bytearray(path.read_bytes())
    data[data.index(b"abseiling/one 0" * 3) + 5] ^= 1
    path.write_bytes(data)
    source = list_kinetics(path, "train").sources[0]
    with ZipArchive(path) as archive:
        sequence = open_zipped_folder(archive, source.spans)
        with pytest.raises(SourceError, match=r"frame_0\.000\.jpg is damaged: it does not match its checksum"):
            sequence.read(0)
        assert sequence.read(1) == b"abseiling/one 1" * 50


@pytest.mark.parametrize("offset", [10**9, 2**63, 2**64 - 2])
def test_a_member_that_claims_to_lie_elsewhere_is_refused(tmp_path: Path, offset: int):
    path = make_zip(tmp_path / "a.zip", {"train/c/v/frame_1.jpg": b"x"})
    with ZipArchive(path) as archive:
        (member,) = archive.members([span for _, span in archive.folders()])
        assert archive.read(member) == b"x"
        with pytest.raises(SourceError, match="is not where the zip's directory says it is"):
            archive.read(replace(member, offset=offset))
