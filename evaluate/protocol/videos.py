"""What each video adds to every row: sums from which the numbers of any choice of videos follow.

Takes the tally of an evaluation. Kept beside a report as `videos.npz`, so that reports are compared video by video
without their clips. About 2 kB a row and video for 124 classes, of which compression leaves a tenth.

V videos · L rows · M sums, of which the task has all but three
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64

from deltactl.errors import DamagedError
from deltactl.evaluate.protocol.predictions import Row
from deltactl.evaluate.protocol.tally import Tally
from deltactl.tasks.record import Summed

LOSS, COSINE, CLIPS, METRIC = 0, 1, 2, 3
"""Columns of the sums of a row; from METRIC on those of the task's metric."""


@dataclass(frozen=True)
class VideoSums:
    """The sums of every row and video."""

    videos: tuple[str, ...]
    """Names, in the order of the plan."""
    rows: tuple[Row, ...]
    sums: Float64[np.ndarray, "L V M"]
    """Feature losses and cosine distances of the clips, the number of clips, the sums of the metric; none of these
    where there is no metric, or one that is not `Summed`."""

    @property
    def summed(self) -> bool:
        """Whether there are sums of a metric."""
        return bool(self.sums.shape[2] > METRIC)

    def of(self, row: Row) -> Float64[np.ndarray, "V M"]:
        """Return the sums of one row."""
        return np.asarray(self.sums[self.rows.index(row)])

    def of_videos(self, videos: Sequence[str]) -> VideoSums:
        """Return the same in another order of the videos."""
        return VideoSums(tuple(videos), self.rows, self.sums[:, [self.videos.index(video) for video in videos]])

    @property
    def clips(self) -> tuple[float, ...]:
        """How many clips of each video were counted."""
        return tuple(self.sums[0, :, CLIPS].round(6).tolist()) if self.rows else ()

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads: an npz file, the same bytes for the same sums."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            videos=np.array(self.videos, dtype=np.str_),
            rows=np.array([json.dumps(asdict(row)) for row in self.rows], dtype=np.str_),
            sums=self.sums,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> VideoSums:
        """Return what such bytes hold; `place` is named in messages.

        Raises:
            DamagedError: they are no such file.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                videos, rows, sums = (file[name] for name in ("videos", "rows", "sums"))
            known = tuple(Row(**json.loads(row)) for row in rows.tolist())
            wrong = sums.dtype != np.float64 or sums.ndim != 3 or sums.shape[:2] != (len(known), len(videos))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise DamagedError(f"{place} is not what deltactl eval writes ({error})") from error
        if wrong:
            raise DamagedError(f"{place} is damaged: its sums are not those of {len(known)} rows, {len(videos)} videos")
        return cls(tuple(map(str, videos.tolist())), known, sums)


def video_sums(tally: Tally, rows: Iterable[Row]) -> VideoSums:
    """Return the sums of some rows of a tally."""
    chosen = tuple(rows)
    videos = tuple(dict.fromkeys(crop.video for crop in tally.crops))
    number = {video: place for place, video in enumerate(videos)}
    of_crop = np.array([number[crop.video] for crop in tally.crops], np.int64)
    clips = _by_video(of_crop, [crop.share for crop in tally.crops], len(videos))
    summed = {
        row: {
            video: metric.sums() for video, metric in tally.metrics.get(row, {}).items() if isinstance(metric, Summed)
        }
        for row in chosen
    }
    width = max((len(sums) for of_row in summed.values() for sums in of_row.values()), default=0)
    sums = np.zeros((len(chosen), len(videos), METRIC + width))
    for place, row in enumerate(chosen):
        sums[place, :, LOSS] = _by_video(of_crop, tally.losses[row], len(videos))
        sums[place, :, COSINE] = _by_video(of_crop, tally.cosines[row], len(videos))
        sums[place, :, CLIPS] = clips
        for video, values in summed[row].items():
            sums[place, number[video], METRIC:] = values
    return VideoSums(videos, chosen, sums)


def clips_hash(tally: Tally) -> str:
    """Return the SHA-256 of the keys of the clips, whatever their order: evaluations that have it look at the same."""
    keys = sorted({crop.key for crop in tally.crops})
    return hashlib.sha256(b"".join(key.encode() + b"\0" for key in keys)).hexdigest()


def _by_video(of_crop: np.ndarray, values: Sequence[float], videos: int) -> Float64[np.ndarray, " V"]:
    return np.bincount(of_crop, weights=values, minlength=videos).astype(np.float64)
