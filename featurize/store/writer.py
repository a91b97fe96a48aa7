"""Writes one group of a store: frames in, in order, as they are computed; a published folder out.

Frames gather in memory until a piece is full (eight clips of features, 100 MB at 512 px of a ViT-B/16), which is
written to its place in the group's file while the next one fills (`array_files`); only so many are on their way
(`writes_under_way`), so a slow disk holds the caller back rather than filling the memory. The group appears by one
rename when its last file is on the disk (`publish_folder`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from deltactl.artifacts import canonical_json, seal
from deltactl.featurize.store.array_files import ShardFiles, write_array
from deltactl.featurize.store.carried import COLUMNS
from deltactl.featurize.store.layout import BLACK, GROUP_FILE, SMALL, Layout, black_spec, group_name, view_name
from deltactl.featurize.store.numbers import real_numbers
from deltactl.featurize.store.statistics import Statistics
from deltactl.ingest.shards.clip_index import sources_to_json
from deltactl.locations import Location
from deltactl.staging import publish_folder

CPU_WRITES, GPU_WRITES = 2, 8
"""Pieces on their way to the disk at a time. A GPU fills one in 30 ms, and a disk takes 80 to 110 ms to sync it;
a CPU takes seconds to fill one."""
GPU_WRITE_BYTES = 1 << 30
"""What they may hold of the memory beside a GPU: eight pieces of 100 MB at 512 px with ViT-B, fewer larger ones."""


def writes_under_way(device_type: str, layout: Layout) -> int:
    """Return how many pieces may be on their way to the disk while features come from such a device."""
    if device_type != "cuda":
        return CPU_WRITES
    piece_bytes = layout.piece_clips(1) * layout.clip_bytes
    return max(CPU_WRITES, min(GPU_WRITES, GPU_WRITE_BYTES // piece_bytes))


class GroupWriter:
    """The arrays of one group, in a folder that is not yet published. Use `group_writer`."""

    def __init__(
        self, folder: Path, layout: Layout, keys: Sequence[str], sources: Sequence[str], writes: int = CPU_WRITES
    ) -> None:
        self.layout = layout
        self.keys = tuple(keys)
        self.sources = tuple(sources)
        """The name of the source of each clip."""
        self.bytes = 0
        """Bytes of features or tokens written so far."""
        self._folder = folder
        self._most_writes = writes
        self._specs = layout.arrays(len(keys))
        self._piece_clips = layout.piece_clips(len(keys))
        self._files = ShardFiles(folder / layout.kind, self._specs[layout.kind], writes)
        self._writes: deque[Future[None]] = deque()
        self._piece: np.ndarray | None = None
        self._piece_number = 0
        self._invalid: set[int] = set()
        self._statistics: dict[int, list[Statistics]] = {}
        """Of the frames of each row, as they came."""

    def put(
        self,
        row: int,
        first_frame: int,
        frames: Shaped[np.ndarray, "frame *item"],
        statistics: Statistics | None = None,
    ) -> None:
        """Add frames of a clip, as they are stored: float16, or the bits of bfloat16 as uint16.

        Rows come in order; rows that are left out become invalid (`close` says which). `statistics` are those of the
        frames, where they are known already.
        """
        number, place = divmod(row, self._piece_clips)
        self._advance(number)
        if self._piece is None:
            # NaN, so that a clip that is invalid cannot be taken for features.
            self._piece = self.layout.nans(self._piece_clips, self.layout.frames, *self.layout.frame_shape)
        stored = frames.reshape(len(frames), *self.layout.frame_shape)
        self._piece[place, first_frame : first_frame + len(frames)] = stored
        if statistics is None and row not in self._invalid:
            statistics = Statistics.of(real_numbers(frames))
        if statistics is not None:
            self._statistics.setdefault(row, []).append(statistics)

    def invalidate(self, row: int) -> None:
        """Mark a clip as not to be read, whatever was put."""
        self._invalid.add(row)

    def close(
        self,
        *,
        grid: Sequence[int],
        small: Mapping[str, Shaped[np.ndarray, "clip *rest"]],
        attributes: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write what is left, `times`, `crop` and `flip` of each clip, and the group's sealed attributes.

        Where clips carry numbers, `small` has their `columns`, too, as rows of bytes.
        """
        self._advance(-(-len(self.keys) // self._piece_clips))
        while self._writes:
            self._finish_one()
        self._files.close()
        valid = np.ones(len(self.keys), bool)
        valid[sorted(self._invalid)] = False
        known = {**small, "valid": valid}
        for name, values in self.layout.small_arrays({name: known[name] for name in SMALL}).items():
            # Published files are synced anyway; only the frames are worth syncing early, while others are computed.
            write_array(self._folder / name, self._specs[name], values)
        if self.layout.carried_bytes:
            write_array(self._folder / COLUMNS, self._specs[COLUMNS], small[COLUMNS])
        sealed = seal(
            {
                "format": self.layout.format,
                "layout": self.layout.to_json(),
                "grid": list(grid),
                "keys": list(self.keys),
                "sources": sources_to_json(self.sources),
                "invalid": sorted(self._invalid),
                "bytes": self.bytes,
                "statistics": self._merged_statistics().to_json(),
                "files": {
                    f"{name}/{GROUP_FILE}": hashlib.sha256((self._folder / name / GROUP_FILE).read_bytes()).hexdigest()
                    for name in sorted(self._specs)
                },
                **attributes,
            }
        )
        metadata = group_metadata(sealed) if self.layout.nested else canonical_metadata(sealed)
        (self._folder / GROUP_FILE).write_bytes(metadata)
        return sealed

    def _merged_statistics(self) -> Statistics:
        """Return the statistics of the clips that may be read, merged in the order of their rows."""
        parts = (
            part for row in range(len(self.keys)) if row not in self._invalid for part in self._statistics.get(row, ())
        )
        return Statistics.merged(parts, self.layout.frame_shape[-1])

    def abandon(self) -> None:
        """Wait for writes under way, so that the folder can be removed."""
        for write in self._writes:
            with contextlib.suppress(Exception):
                write.result()
        self._files.close()

    def _advance(self, number: int) -> None:
        """Send the piece that was being filled on its way, and those that hold nothing but invalid clips."""
        assert number >= self._piece_number, "rows must come in order"
        while self._piece_number < number:
            start = self._piece_number * self._piece_clips
            end = min(start + self._piece_clips, len(self.keys))
            piece, self._piece = self._piece, None
            if piece is None:
                piece = self.layout.nans(end - start, self.layout.frames, *self.layout.frame_shape)
            for row in self._invalid & set(range(start, end)):
                piece[row - start] = self.layout.nans(1)[0]
            if len(self._writes) >= self._most_writes:
                self._finish_one()
            self._writes.append(self._files.write(start, piece[: end - start]))
            self.bytes += (end - start) * self.layout.clip_bytes
            self._piece_number += 1

    def _finish_one(self) -> None:
        self._writes.popleft().result()


@contextlib.contextmanager
def group_writer(
    root: Location,
    view: int,
    unit: str,
    layout: Layout,
    keys: Sequence[str],
    sources: Sequence[str],
    *,
    replace: bool = False,
    writes: int = CPU_WRITES,
) -> Iterator[GroupWriter]:
    """Yield the writer of a group, which is published when the body ends, after `close`, without an exception.

    Where another process was first, its group is kept, unless `replace` is set. At most `writes` pieces are on their
    way to the disk at a time; they are held in memory meanwhile.
    """
    with publish_folder(root, group_name(view, unit), marker=GROUP_FILE, replace=replace) as folder:
        writer = GroupWriter(folder, layout, keys, sources, writes)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
    # So that Zarr libraries can list the store; the same bytes whoever writes them.
    if not (root / view_name(view) / GROUP_FILE).exists():
        (root / view_name(view) / GROUP_FILE).write_bytes(group_metadata({}))


def write_root(root: Location, black: Float32[np.ndarray, "patch dim"] | np.ndarray | None) -> None:
    """Write what stands once in a store: the root group and, in a feature store, the black frame's features."""
    if not (root / GROUP_FILE).exists():
        (root / GROUP_FILE).write_bytes(group_metadata({}))
    if black is None or (root / BLACK / GROUP_FILE).exists():
        return
    with publish_folder(root, BLACK, marker=GROUP_FILE) as folder:
        write_array(folder, black_spec(*black.shape), black.astype(np.float32))


def group_metadata(attributes: Mapping[str, Any]) -> bytes:
    """Return the `zarr.json` of a Zarr v3 group."""
    content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def canonical_metadata(attributes: Mapping[str, Any]) -> bytes:
    """Return the same as canonical JSON: the same bytes for the attributes as a pack gives them back."""
    return canonical_json({"zarr_format": 3, "node_type": "group", "attributes": attributes})
