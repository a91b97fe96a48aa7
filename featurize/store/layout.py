"""How a store lies on disk: the Zarr v3 arrays of one group, shared by the feature store and the token store.

    STORE/artifact.json                 identity and provenance (see `deltactl.artifacts`)
    STORE/index.json                    keys, sources, groups, their hashes and invalid clips; made from the groups
    STORE/quarantine.jsonl              each clip or shard that could not be used, and why
    STORE/zarr.json                     the root group
    STORE/black/                        feature store only: float32 (patch, dim), the features of an all-zero frame
    STORE/v000/NNNNNN/                  one group for each view (crop and flip) and shard, published whole
        features   float16 (clip, frame, patch, dim)      or      tokens   float16 (clip, frame, token, dim)
        clips      float64 (clip, column)   columns: the frames' times in seconds, crop (top, left, height and width in
                                            pixels of the stored frame; 0: no crop was made), flip (1: mirrored), valid
                                            (0: quarantined, or the clip has no such view; its features are NaN)
        columns    uint8 (clip, byte)       where the shards have columns: see `carried`
        zarr.json                           attributes: keys, sources, grid, identity, provenance, hashes; sealed
    STORE/v000/NNNNNN-NNNNNN-HHHHHHHH/  tokens only: the groups of up to 64 shards in one (see `packs`)

Row i of a group is clip i of the shard. An array is one file, a Zarr shard: of features with inner chunks of one frame,
so that pairs of frames and clips are read alike, of tokens with inner chunks of one clip. With its two folders a group
is eight inodes, whatever the number of clips. Every chunk carries its CRC-32C, none is compressed, and every chunk is
stored: the fill value is NaN, so what is missing can never be taken for zeros, not even by a reader that asks no
questions.

Stores of formats 1 to 3 are `nested`: a file for eight clips of features, a folder for each axis, and arrays `times`,
`crop`, `flip` and `valid` of their own, 151 inodes for 256 clips. They are read as they are, and grow so: all groups of
a store have one layout. Tokens of formats 1 and 2 lack the axis `token`, and are read as if they had it.

With `dtype` bfloat16 the array holds uint16, the bits of bfloat16, and says so in its attribute `dtype`: zarr knows no
data type of that name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from deltactl.artifacts import written
from deltactl.featurize.store.carried import ABSENT_BYTE, COLUMNS, bytes_of, described
from deltactl.fields import Fields
from deltactl.ingest.shards.columns import Columns, columns_from, columns_to_json

StoreKind = Literal["features", "tokens"]
StoreDtype = Literal["float16", "bfloat16"]
"""Type of the numbers of a store."""

FORMATS = (1, 2, 3, 4, 5)
"""Of groups and indexes that are read: 2 records the sources of the clips, 1 did not; tokens of 3 have an axis for
those of a frame, which a reader of 2 would take for damage; of 4 an array is one file, and tokens lie in packs; of 5
clips carry columns, too."""
ONE_FILE_FORMAT = 4
"""The first whose arrays are one file each."""
CARRIED_FORMAT = 5
"""Of groups whose clips carry columns."""
DATA_FORMAT = 1
"""Of the data, for the identity: whatever the format, it holds the same numbers, and one store may hold groups of 1 and
2."""
PIECE_CLIPS = 8
"""Clips of features that are written at once: 100 MB at 512 px of a ViT-B/16. In a nested store they are a file."""
CLIPS = "clips"
"""Name of the array of what is known of each clip."""
CHUNK_ROWS = 32
"""Clips of an inner chunk of it, 4 kB: a group's rows are read without those of the others in its pack."""
SMALL = ("times", "crop", "flip", "valid")
"""What is known of each clip, in the order of the columns."""
CROP_COLUMNS = ("top", "left", "height", "width")
BLACK = "black"
GROUP_FILE = "zarr.json"
ITEM_BYTES = 2
"""Of a number of either type."""
LARGEST: Mapping[str, float] = {"float16": 65504.0, "bfloat16": (2 - 2**-7) * 2.0**127}
"""The largest number of each type."""
BFLOAT16_NAN = 0x7FC0
LARGEST_CLIP_BYTES = 1 << 36
"""A thousand times the largest clip there is; more is a slip of a file."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a group, as its `zarr.json` describes it."""

    shape: tuple[int, ...]
    dtype: str
    dimensions: tuple[str, ...]
    chunk: tuple[int, ...]
    """Shape of a file: a Zarr shard, or a chunk where `inner` is None."""
    inner: tuple[int, ...] | None = None
    """Shape of the chunks inside a Zarr shard."""
    bits_of: str | None = None
    """The type whose bits the numbers are, where Zarr has none of that name."""
    separator: str = "/"
    """Between the numbers in the name of a file: a slash makes a folder of each."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a table."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the array says of itself."""

    def file(self, number: int) -> str:
        """Return the path, within the array, of a file, counted along the first axis."""
        return self.separator.join(["c", str(number), *"0" * (len(self.shape) - 1)])

    @property
    def files(self) -> int:
        """How many files the array has."""
        return -(-self.shape[0] // self.chunk[0])

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the Zarr v3 specification, as `zarr.json` holds it and tensorstore takes it."""
        codecs: list[dict[str, Any]] = [
            {"name": "bytes", "configuration": {"endian": "little"}} if self.dtype != "bool" else {"name": "bytes"},
            {"name": "crc32c"},
        ]
        if self.inner is not None:
            sharding = {
                "chunk_shape": list(self.inner),
                "codecs": codecs,
                "index_codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "crc32c"},
                ],
            }
            codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        fills: dict[str, Any] = {
            **{"float16": "NaN", "float32": "NaN", "float64": "NaN", "int32": 0, "bool": False},
            **{"uint16": BFLOAT16_NAN, "uint8": ABSENT_BYTE},
        }
        separator = {} if self.separator == "/" else {"configuration": {"separator": self.separator}}
        attributes = {
            **({"dtype": self.bits_of} if self.bits_of else {}),
            **({"columns": list(self.columns)} if self.columns else {}),
            **self.attributes,
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk)}},
            "chunk_key_encoding": {"name": "default", **separator},
            "codecs": codecs,
            "fill_value": fills[self.dtype],
            "dimension_names": list(self.dimensions),
            **({"attributes": attributes} if attributes else {}),
        }


@dataclass(frozen=True)
class Layout:
    """The shapes that all groups of a store share."""

    kind: StoreKind
    """Name of the artifact's kind and of the array."""
    frames: int
    """Frames in a clip."""
    frame_shape: tuple[int, ...]
    """As it is stored: (patches, dim) of features, (tokens, dim) of tokens, (dim,) of tokens in an old store."""
    dtype: StoreDtype = "float16"
    """Type of the numbers."""
    nested: bool = False
    """Whether files lie in folders by axis, as in stores of formats 1 to 3."""
    carried: Columns = ()
    """What clips carry besides."""

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of a frame for whoever reads or writes it: (patches, dim) or (tokens, dim)."""
        return self.frame_shape if len(self.frame_shape) > 1 else (1, *self.frame_shape)

    @property
    def format(self) -> int:
        """The format of groups and indexes that are written."""
        if not self.nested:
            return CARRIED_FORMAT if self.carried else ONE_FILE_FORMAT
        return 3 if self.kind == "tokens" and len(self.frame_shape) > 1 else 2

    @property
    def packed(self) -> bool:
        """Whether the groups of several shards are put into one."""
        return self.kind == "tokens" and not self.nested

    @property
    def bits(self) -> str:
        """The type that Zarr and NumPy know the numbers as: float16, or uint16 for the bits of bfloat16."""
        return "float16" if self.dtype == "float16" else "uint16"

    @property
    def largest(self) -> float:
        """The largest number that can be stored."""
        return LARGEST[self.dtype]

    def nans(self, *shape: int) -> Shaped[np.ndarray, "*shape"]:
        """Return an array of NaN, as it is stored."""
        return np.full(shape, np.nan if self.dtype == "float16" else BFLOAT16_NAN, self.bits)

    @property
    def chunk_frames(self) -> int:
        """Frames in an inner chunk: one of features, all of a clip's tokens."""
        return 1 if self.kind == "features" else self.frames

    def piece_clips(self, clips: int) -> int:
        """Return how many clips of a group of `clips` are written at once."""
        return PIECE_CLIPS if self.kind == "features" else max(clips, 1)

    def file_clips(self, clips: int) -> int:
        """Return how many clips of a group of `clips` lie in one file, a Zarr shard."""
        return self.piece_clips(clips) if self.nested else max(clips, 1)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's features or tokens."""
        return math.prod(self.frame_shape) * ITEM_BYTES

    @property
    def clip_bytes(self) -> int:
        """Bytes of one clip."""
        return self.frames * self.frame_bytes

    def arrays(self, clips: int) -> Mapping[str, ArraySpec]:
        """Return the arrays of a group of so many clips, by name."""
        names = ("patch" if self.kind == "features" else "token", "dim")[-len(self.frame_shape) :]
        data = ArraySpec(
            (clips, self.frames, *self.frame_shape),
            self.bits,
            ("clip", "frame", *names),
            (self.file_clips(clips), self.frames, *self.frame_shape),
            (1, self.chunk_frames, *self.frame_shape),
            None if self.dtype == "float16" else self.dtype,
            "/" if self.nested else ".",
        )
        rows = max(clips, 1)
        if not self.nested:
            columns = self.columns
            return {
                self.kind: data,
                CLIPS: ArraySpec(
                    (clips, len(columns)),
                    "float64",
                    ("clip", "column"),
                    (-(-rows // CHUNK_ROWS) * CHUNK_ROWS, len(columns)),
                    (CHUNK_ROWS, len(columns)),
                    separator=".",
                    columns=columns,
                ),
                **({COLUMNS: self._carried_array(clips)} if self.carried_bytes else {}),
            }
        return {
            self.kind: data,
            "times": ArraySpec((clips, self.frames), "float64", ("clip", "frame"), (rows, self.frames)),
            "crop": ArraySpec((clips, 4), "int32", ("clip", "edge"), (rows, 4)),
            "flip": ArraySpec((clips,), "bool", ("clip",), (rows,)),
            "valid": ArraySpec((clips,), "bool", ("clip",), (rows,)),
        }

    @cached_property
    def carried_bytes(self) -> int:
        """Bytes of the numbers that a clip carries."""
        return bytes_of(self.carried, self.frames)

    def _carried_array(self, clips: int) -> ArraySpec:
        width = self.carried_bytes
        return ArraySpec(
            (clips, width),
            "uint8",
            ("clip", "byte"),
            (max(clips, 1), width),
            (1, width),
            separator=".",
            attributes={"columns": described(self.carried, self.frames)},
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the array of clips."""
        return (*(f"time_{frame}" for frame in range(self.frames)), *CROP_COLUMNS, "flip", "valid")

    @property
    def _widths(self) -> tuple[int, ...]:
        """Columns of `times`, `crop`, `flip` and `valid`."""
        return (self.frames, len(CROP_COLUMNS), 1, 1)

    def small_shape(self, name: str) -> tuple[tuple[int, ...], str]:
        """Return shape and type of what is known of one clip: `times`, `crop`, `flip` or `valid`."""
        shapes: Mapping[str, tuple[tuple[int, ...], str]] = {
            **{"times": ((self.frames,), "float64"), "crop": ((4,), "int32")},
            **{"flip": ((), "bool"), "valid": ((), "bool")},
        }
        return shapes[name]

    def small_arrays(
        self, values: Mapping[str, Shaped[np.ndarray, "clip ..."]]
    ) -> Mapping[str, Shaped[np.ndarray, "clip ..."]]:
        """Return the arrays that hold `times`, `crop`, `flip` and `valid`, by name."""
        if self.nested:
            return values
        parts = [
            np.asarray(values[name], np.float64).reshape(len(values[name]), width)
            for name, width in zip(SMALL, self._widths, strict=True)
        ]
        return {CLIPS: np.concatenate(parts, axis=1)}

    def small_column(self, name: str, table: Shaped[np.ndarray, "clip column"]) -> Shaped[np.ndarray, "clip ..."]:
        """Return `times`, `crop`, `flip` or `valid` from the array of clips."""
        number = SMALL.index(name)
        start = sum(self._widths[:number])
        shape, dtype = self.small_shape(name)
        return table[:, start : start + self._widths[number]].reshape(len(table), *shape).astype(dtype)

    def to_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        shapes = {"kind": self.kind, "frames": self.frames, "frame_shape": list(self.frame_shape)}
        carried = {"columns": columns_to_json(self.carried)} if self.carried else {}
        return {**shapes, **written(dtype=self.dtype), **carried}

    @classmethod
    def of(cls, value: Fields, written: int) -> Layout:
        """Return the layout that an index or a group of the format `written` describes.

        Raises:
            DamagedError: it is none.
        """
        kind, nested = value.text("kind"), written < ONE_FILE_FORMAT
        axes = {"features": (2,), "tokens": (1, 2) if nested else (2,)}
        if kind not in axes:
            raise value.wrong("kind", kind, "features or tokens")
        shape = value.integers("frame_shape", least=1)
        if len(shape) not in axes[kind]:
            raise value.wrong("frame_shape", shape, f"{' or '.join(map(str, axes[kind]))} numbers")
        dtype = value.text("dtype") if "dtype" in value else "float16"
        if dtype not in LARGEST:
            raise value.wrong("dtype", dtype, " or ".join(LARGEST))
        frames = value.integer("frames", least=1)
        carried = columns_from(value.nested("columns")) if written >= CARRIED_FORMAT else ()
        layout = cls(kind, frames, tuple(shape), dtype, nested, carried)  # type: ignore[arg-type]
        if layout.clip_bytes > LARGEST_CLIP_BYTES:
            raise value.wrong("frame_shape", shape, f"clips of at most {LARGEST_CLIP_BYTES:,} bytes")
        return layout


def view_name(view: int) -> str:
    """Return the folder of a view, such as `v003`."""
    return f"v{view:03d}"


def group_name(view: int, unit: str) -> str:
    """Return the folder of a group within the store, such as `v003/000017`."""
    return f"{view_name(view)}/{unit}"


def view_number(name: str) -> int | None:
    """Return the number of a view from its folder's name; None for another folder."""
    return int(name[1:]) if len(name) >= 4 and name[0] == "v" and name[1:].isdigit() else None


def black_spec(patches: int, dim: int) -> ArraySpec:
    """Return the array of the black frame's features; float32, since it is there once."""
    return ArraySpec((patches, dim), "float32", ("patch", "dim"), (patches, dim))
