"""The shard format: WebDataset tars of clips, each with a sidecar that says whether the tar is whole.

    SHARDS/artifact.json            identity and provenance of the set
    SHARDS/NNNNNN.tar               samples KEY.000.jpg … KEY.json, KEY.columns.npz where the set has columns, and
                                    KEY.000.mask.png / KEY.000.depth.png
    SHARDS/NNNNNN.json              sidecar: count, keys, their sources, bytes, sha256 of the tar; quarantined sources;
                                    written last
    SHARDS/index.json, quarantine.jsonl     made from the sidecars by `finish`

The plain `webdataset` library reads the tars, and writes them here. It does not notice a tar that was cut between two
members, or a damaged header (samples just go missing), and its decoders cut 16-bit PNGs to 8 bits; `ShardSet.read`
checks the sidecar's hash first, `ShardSet.stream` on the way, both read members by `tars`, and leave decoding to
`images.decode_frame` and `images.decode_label`.

A unit is one tar with its sidecar; without a sidecar the tar does not count. Equal clips give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from deltactl.artifacts import (
    INDEX,
    Identity,
    Quarantined,
    canonical_json,
    read_header,
    read_index,
    seal,
    write_index,
    write_quarantine,
)
from deltactl.errors import ArtifactError, DamagedError, StorageError
from deltactl.fields import Fields
from deltactl.ingest.shards.clip_index import Origins
from deltactl.ingest.shards.columns import SUFFIX, Columns, columns_of_identity, decode_columns, encode_columns
from deltactl.ingest.shards.keys import key_fault
from deltactl.ingest.shards.sidecars import Sidecar, finished_units, read_sidecar
from deltactl.ingest.shards.tars import DESCRIPTION, REMEDY, description_of, group_members, read_members
from deltactl.locations import Location, damage_in_place_of, storage_errors
from deltactl.reading import PICTURE, parse_json
from deltactl.staging import publish_files

DATA_FORMAT = 1
"""Of the clips, for the identity: tars of both formats are alike, and one set may hold shards of both."""
KIND = "shards"
BLOCK_BYTES = 1 << 22  # read and hashed at a time: large, for it seldom interrupts the threads beside it
FrameFormat = Literal["jpg", "png", "ppm"]
"""Of the frames of a clip; `ppm` (`images.encode_plain`) on their way only, never in a shard."""
LabelKind = Literal["mask", "depth"]

NO_DEPTH = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000110000000006aee47160000000e494441547801010300fcff"
    "00000000030001aa07e5fe0000000049454e44ae426082"
)
"""The depth of a frame without measurements: a PNG of one 16-bit pixel that is 0. So all samples of a set have the same
members, which other readers of WebDataset ask for."""


@dataclass(frozen=True)
class ClipMeta:
    """What `KEY.json` says about a clip."""

    source: str
    """Path of the video or frame folder, relative to the root of the data set."""
    dataset: str
    times: tuple[float, ...]
    """Time of each frame in seconds, as the container tells it."""
    indices: tuple[int, ...]
    """Number of each frame in its source, in display order, from 0."""
    original_size: tuple[int, int]
    """Height and width of the source's frames in pixels, before any cut or resize."""
    decoder: str
    """What decoded the frames, such as `pyav` or `dali`."""

    def to_json(self) -> bytes:
        """Return the content of `KEY.json`."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes, place: Location | str = "the description of a clip") -> ClipMeta:
        """Return what `to_json` wrote; DamagedError, which calls it `place`, where it is something else."""
        try:
            value = Fields(parse_json(data), place)
        except ValueError as error:
            raise DamagedError(f"{place} is damaged: expected JSON ({error})") from error
        height, width = value.integers("original_size", 2, least=1)
        return cls(
            source=value.text("source"),
            dataset=value.text("dataset"),
            times=tuple(value.numbers("times")),
            indices=tuple(value.integers("indices")),
            original_size=(height, width),
            decoder=value.text("decoder"),
        )


@dataclass(frozen=True)
class Clip:
    """One sample: encoded frames, and the encoded labels of some of them."""

    key: str
    """Unique in the set, and without a `key_fault`."""
    meta: ClipMeta
    frames: Sequence[bytes]
    frame_format: FrameFormat = "jpg"
    labels: Mapping[int, bytes] = field(default_factory=dict)
    """PNG files as the data set's owner wrote them, by number of the frame within the clip. In a tar every frame of a
    clip with depth has a member for it; that of a frame without is `NO_DEPTH`, which is no label here."""
    label_kind: LabelKind | None = None
    source_name: str | None = None
    """What all clips of its source have in common, for they are held out together; None stands for `meta.source`."""
    columns: Mapping[str, Shaped[np.ndarray, "..."]] = field(default_factory=dict)
    """What is known of its frames, (T, …), and of all of it (names with `clip.`), the same names in all clips of a
    set."""


def write_shard(
    root: Location,
    unit: str,
    clips: Iterable[Clip],
    quarantined: list[Quarantined],
    provenance: Mapping[str, Any],
    *,
    replace: bool = False,
) -> Sidecar:
    """Publish one shard: `UNIT.tar`, then `UNIT.json`; whole or not at all.

    Clips are drawn one at a time, and memory holds one; `quarantined` is read after the last of them, so the caller
    may add to it meanwhile. `provenance` should hold what is the same in every run (see `stable_provenance`).
    """
    import webdataset

    keys: list[str] = []
    sources: list[str] = []
    with publish_files(root, f"{unit}.json", replace=replace) as folder:
        tar = folder / f"{unit}.tar"
        with tar.open("wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0.0) as writer:
            for clip in clips:
                writer.write(_to_sample(clip))
                keys.append(clip.key)
                sources.append(clip.meta.source if clip.source_name is None else clip.source_name)
        if len(set(keys)) != len(keys):
            raise ValueError(f"shard {unit}: two clips have the same key")
        with tar.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        sidecar = Sidecar(unit, tuple(keys), tuple(sources), tar.stat().st_size, digest, tuple(quarantined), provenance)
        (folder / f"{unit}.json").write_bytes(canonical_json(seal(sidecar.to_json())))
    return sidecar


def finish(root: Location) -> None:
    """Write the index and the quarantine of a set from its sidecars."""
    units: dict[str, IndexedShard] = {}
    quarantined: list[Quarantined] = []
    for unit in finished_units(root):
        sidecar = read_sidecar(root, unit)  # not kept: the keys of all clips of Kinetics take half a gigabyte
        units[unit] = IndexedShard.of(sidecar)
        quarantined += sidecar.quarantined
    write_quarantine(root, quarantined)
    entries = {unit: asdict(entry) for unit, entry in units.items()}
    write_index(root, {"kind": KIND, "count": sum(entry.count for entry in units.values()), "units": entries})


@dataclass(frozen=True)
class IndexedShard:
    """What the index of a set says about a shard."""

    count: int
    """Clips in it."""
    bytes: int
    """Of its tar."""
    tar_sha256: str

    @classmethod
    def of(cls, sidecar: Sidecar) -> IndexedShard:
        """Return the entry that a sidecar makes."""
        return cls(sidecar.count, sidecar.tar_bytes, sidecar.tar_sha256)


def read_indexed(root: Location) -> dict[str, IndexedShard]:
    """Return the index of a set.

    Raises:
        ArtifactError: it is not complete.
        DamagedError: the file is damaged.
    """
    index = read_index(root)
    units = {
        unit: IndexedShard(entry.integer("count"), entry.integer("bytes"), entry.text("tar_sha256"))
        for unit, entry in index.objects("units")
    }
    clips = sum(entry.count for entry in units.values())
    if index.text("kind") != KIND or index.integer("count") != clips:
        raise index.wrong("count", index.values["count"], f"{clips} of {KIND}, the sum of its units")
    return units


class ShardSet:
    """A set of shards to read. Opening reads the index alone, or lists the folder while the set is being made."""

    def __init__(
        self,
        root: Location,
        identity: Identity,
        units: Mapping[str, int],
        *,
        complete: bool,
        generations: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.root = root
        self.identity = identity
        self.generations = tuple(generations)
        """What was added to the sources since the first generation."""
        self._counts = dict(units)
        self.complete = complete
        """Whether the stage that makes the set has ended."""

    @classmethod
    def open(cls, place: str | Location) -> ShardSet:
        """Open the set at a path or URL.

        Raises:
            ArtifactError: there is none.
            DamagedError: it is damaged.
        """
        root = Location.of(place)
        header = read_header(root)
        identity = header.identity
        if identity.kind != KIND:
            raise ArtifactError(f"{root} holds {identity.kind}; shards were expected")
        if (root / INDEX).exists():
            units = {unit: entry.count for unit, entry in read_indexed(root).items()}
            return cls(root, identity, units, complete=True, generations=header.generations)
        units = {unit: read_sidecar(root, unit).count for unit in finished_units(root)}
        return cls(root, identity, units, complete=False, generations=header.generations)

    @property
    def units(self) -> list[str]:
        """Names of the units, in order."""
        return sorted(self._counts)

    @cached_property
    def count(self) -> int:
        """Number of clips."""
        return sum(self._counts.values())

    @cached_property
    def columns(self) -> Columns:
        """What clips carry besides their frames."""
        return columns_of_identity(self.identity.values, self.root)

    def clips_in(self, unit: str) -> int:
        """Return the number of clips of a unit."""
        return self._counts[unit]

    @property
    def views(self) -> tuple[int, ...]:
        """One view: the clips as they are."""
        return (0,)

    @property
    def origins(self) -> Origins:
        """View, unit (its position among `units`) and row in the unit of each clip."""
        counts = [self._counts[unit] for unit in self.units]
        rows = [np.arange(count, dtype=np.int32) for count in counts]
        units = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return np.zeros_like(units), units, np.concatenate(rows) if rows else units

    def keys(self, unit: str) -> tuple[str, ...]:
        """Return the keys of a unit's clips, in order."""
        return self.sidecar(unit).keys

    def keys_of(self, unit: str) -> tuple[str, ...]:
        """Return the same: what a `ClipIndex` calls them."""
        return self.keys(unit)

    def sources_of(self, unit: str) -> tuple[str, ...]:
        """Return the name of the source of each of a unit's clips, in order: clips of one are held out together."""
        return self.source_names(self.sidecar(unit))

    def source_names(self, sidecar: Sidecar) -> tuple[str, ...]:
        """Return the same from a sidecar that was read."""
        return sidecar.source_names(evaluation="clips" not in self.identity.values)

    def sidecar(self, unit: str) -> Sidecar:
        """Return the sidecar of a unit.

        Raises:
            DamagedError: it is gone or damaged.
        """
        try:
            return read_sidecar(self.root, unit)
        except FileNotFoundError as error:
            raise DamagedError(f"{self.root / f'{unit}.json'} is missing, though the index names it") from error

    def read(self, unit: str) -> Iterator[Clip]:
        """Yield the clips of a unit in order, after its bytes were checked; DamagedError names the tar."""
        sidecar = self.sidecar(unit)
        place = self.root / f"{unit}.tar"
        with self._checked(place, sidecar) as file:
            yield from self._with_sources(sidecar, _clips(file, place))

    def stream(self, unit: str) -> Generator[Clip, None, None]:
        """Yield the clips of a unit in order while its bytes are checked, in one pass, a few of them in memory.

        Where they are damaged, DamagedError names the tar at the end of the iteration at the latest: what comes of the
        clips must not be used before. A clip that can be told not to belong there is not yielded.
        """
        sidecar = self.sidecar(unit)
        yield from self._with_sources(sidecar, stream_shard(self.root, sidecar))

    def _with_sources(self, sidecar: Sidecar, clips: Iterable[Clip]) -> Iterator[Clip]:
        """Yield clips with the names of their sources, which their tar does not hold."""
        names = dict(zip(sidecar.keys, self.source_names(sidecar), strict=True))
        for clip in clips:
            yield replace(clip, source_name=names.get(clip.key))

    def _checked(self, place: Location, sidecar: Sidecar) -> io.BufferedReader | io.BytesIO:
        """Return the tar, opened, after a first pass over its bytes (in memory where it is remote)."""
        try:
            file = open_tar(place) if place.is_local else io.BytesIO(place.read_bytes())
        except FileNotFoundError as error:
            raise DamagedError(f"{place} is missing, though its sidecar is there") from error
        try:
            _check_length(place, sidecar)
            _check_hash(place, hashlib.file_digest(file, "sha256").hexdigest(), sidecar)
        except DamagedError:
            file.close()
            raise
        file.seek(0)
        return file


def stream_shard(root: Location, sidecar: Sidecar) -> Generator[Clip, None, None]:
    """Yield the clips of a shard while its bytes are checked; see `ShardSet.stream`."""
    place = root / f"{sidecar.unit}.tar"
    with open_tar(place) as raw:
        _check_length(place, sidecar)
        file = _HashedFile(raw, place)
        try:
            whole = yield from _named(_clips(file, place), sidecar.keys)
        except Exception as error:  # of a damaged tar, whose hash says more
            if file.failure is not None:
                raise file.failure from error
            _check_hash(place, file.hexdigest(), sidecar)
            raise
        _check_hash(place, file.hexdigest(), sidecar)
        if not whole:
            raise DamagedError(
                f"{place} does not hold the {sidecar.count} clips that its sidecar names, in their order{REMEDY}"
            )


def open_tar(place: Location) -> io.BufferedReader:
    """Open the tar of a shard.

    Raises:
        DamagedError: it is gone, or no file.
    """
    try:
        with damage_in_place_of(place, REMEDY):
            return place.open()
    except FileNotFoundError as error:
        raise DamagedError(f"{place} is missing, though its sidecar is there") from error


class _HashedFile:
    """A file that is read once, from its beginning; the hash of its bytes is taken on the way, a block at a time."""

    def __init__(self, file: io.BufferedReader, place: Location) -> None:
        self.failure: StorageError | None = None
        """Why reading failed, where it did."""
        self._file = file
        self._place = place
        self._hash = hashlib.sha256()
        self._block = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes: `size` of them or fewer, none at the end."""
        if self._at == len(self._block):
            self._block, self._at = self._next(), 0
        piece = self._block[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def hexdigest(self) -> str:
        """Return the hash of the whole file, whose rest is read."""
        while self._next():
            pass
        return self._hash.hexdigest()

    def _next(self) -> bytes:
        try:
            with storage_errors(self._place, "read"):
                block = self._file.read(BLOCK_BYTES)
        except StorageError as error:
            self.failure = error
            raise
        self._hash.update(block)
        return block


def _check_length(place: Location, sidecar: Sidecar) -> None:
    """Raise DamagedError if a tar on a disk is longer than it was: it need not be read to the end."""
    if place.is_local and (size := place.size()) > sidecar.tar_bytes:
        raise DamagedError(f"{place} is damaged: it has {size:,} bytes, {sidecar.tar_bytes:,} were expected{REMEDY}")


def _check_hash(place: Location, digest: str, sidecar: Sidecar) -> None:
    if digest != sidecar.tar_sha256:
        raise DamagedError(
            f"{place} is damaged: its SHA-256 is {digest[:16]}…, {sidecar.tar_sha256[:16]}… was expected{REMEDY}"
        )


def _clips(file: Any, place: Location) -> Iterator[Clip]:
    """Yield the clips of an open tar; DamagedError, which names tar and clip, where its members are not as expected."""
    for key, members in group_members(read_members(file, place), place):
        yield _from_members(key, members, place)


def _named(clips: Iterator[Clip], keys: Sequence[str]) -> Generator[Clip, None, bool]:
    """Yield clips as long as they have these keys, in order; return whether they are just these."""
    expected = iter(keys)
    for clip in clips:
        if clip.key != next(expected, None):
            return False
        yield clip
    return next(expected, None) is None


def _to_sample(clip: Clip) -> dict[str, Any]:
    if fault := key_fault(clip.key):
        raise ValueError(f"the key {clip.key!r} {fault}")
    sample: dict[str, Any] = {"__key__": clip.key, "json": clip.meta.to_json()}
    for number, frame in enumerate(clip.frames):
        sample[f"{number:03}.{clip.frame_format}"] = frame
        if number in clip.labels:
            sample[f"{number:03}.{clip.label_kind}.png"] = clip.labels[number]
        elif clip.label_kind == "depth":  # which lacks for some frames of some clips
            sample[f"{number:03}.depth.png"] = NO_DEPTH
    if clip.columns:
        sample[SUFFIX] = encode_columns(clip.columns)
    return sample


def _from_members(key: str, members: Mapping[str, bytes], place: Location) -> Clip:
    frames: dict[int, bytes] = {}
    labels: dict[int, bytes] = {}
    frame_format: FrameFormat = "jpg"
    label_kind: LabelKind | None = None
    for name, data in members.items():
        number, _, rest = name.partition(".")
        if not number.isdecimal():
            continue
        match rest:
            case "jpg" | "png":
                frames[int(number)] = data
                frame_format = rest
            case "mask.png" | "depth.png":
                if data != NO_DEPTH:
                    labels[int(number)] = data
                label_kind = rest.removesuffix(".png")  # type: ignore[assignment]
    ordered = [frames[number] for number in sorted(frames)]
    meta = ClipMeta.from_json(members[DESCRIPTION], description_of(key, place))
    columns = read_columns(members[SUFFIX], key, place) if SUFFIX in members else {}
    return Clip(key, meta, ordered, frame_format, labels, label_kind, columns=columns)


def read_columns(data: bytes, key: str, place: Location) -> dict[str, np.ndarray]:
    """Return the columns of a clip from its member of the tar at `place`; DamagedError names both."""
    try:
        return decode_columns(data, None, PICTURE.bytes)
    except ValueError as error:
        raise DamagedError(f"{place} is damaged: the columns of clip {key!r}: {error}{REMEDY}") from error
