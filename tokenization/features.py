"""From a feature store to tokens: its clips are read and copied to the device ahead, while others are encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from deltactl.featurize.pipeline.background import read_ahead
from deltactl.featurize.pipeline.events import (
    BatchFeatures,
    ClipView,
    Closed,
    ComputedEvent,
    Found,
    Job,
    JobResult,
    NoFrames,
    Opened,
)
from deltactl.featurize.pipeline.fill import Filler
from deltactl.featurize.pipeline.transfers import Copies
from deltactl.featurize.store.finish import read_group_file
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.views import View
from deltactl.ingest.shards.geometry import Box
from deltactl.tokenization.encoder import Encoder

READS_AHEAD = 2


class StoreTokens:
    """Encodes the groups of a feature store: the pipeline of featurize, with stored features for its first steps."""

    def __init__(self, store: FeatureStore, encoder: Encoder, filler: Filler) -> None:
        self.seconds: dict[str, float] = {}
        self._store = store
        self._encoder = encoder
        self._filler = filler
        self._uploads = Copies(encoder.device)

    def run(self, jobs: Iterable[Job], advance: Callable[[int], None]) -> Iterator[JobResult]:
        """Yield the result of each job once its group is published; those that had to begin anew come last."""
        left: Iterable[Job] | None = jobs
        while left:
            yield from self._filler.run((event for job in left for event in self._events(job)), advance)
            left = self._filler.again

    def close(self) -> None:
        """Do nothing: what reads ahead ends with `run`."""

    def _events(self, job: Job) -> Iterator[ComputedEvent]:
        """Yield what a group of features holds, as the backbone would, and why clips have no features."""
        store, source = self._store, read_group_file(self._store.root, job.view, job.unit)
        samples, rows = store.samples_of(job.view, job.unit)
        yield Opened(job, source.keys, store.sources_of(job.unit), source.shard_sha256)
        reasons = {entry.source: entry.reason for entry in source.quarantined}
        for row in sorted(set(range(len(source.keys))) - set(rows)):
            yield NoFrames(row, (), reasons.get(source.keys[row]))
        parts = [slice(start, start + self._encoder.clips) for start in range(0, len(samples), self._encoder.clips)]
        for part, features in zip(parts, self._features([samples[part] for part in parts]), strict=True):
            shown = zip(
                *(each(samples[part]).tolist() for each in (store.times, store.crops, store.flips)), strict=True
            )
            numbers = store.start_columns(samples[part])()
            for place, (row, (times, crop, flip)) in enumerate(zip(rows[part], shown, strict=True)):
                columns = {name: values[place].numpy() for name, values in numbers.items()}
                columns |= {name: np.array(texts[row], str) for name, texts in source.texts.items()}
                yield ClipView(row, tuple(times), View(Box(*crop), flip), columns)
            places = tuple((row, frame) for row in rows[part] for frame in range(store.frames))
            yield BatchFeatures(places, features.flatten(0, 1), Found(np.zeros(len(places), np.float32)))
        yield Closed()

    def _features(self, batches: Sequence[Sequence[int]]) -> Iterator[Float[Tensor, "B T P D"]]:
        """Yield the features of batches of samples on the device; one is copied there while another is encoded."""
        arriving = read_ahead((self._uploads.to_device(host).here for host in self._read(batches)), 1)
        return (features for (features,) in arriving)

    def _read(self, batches: Sequence[Sequence[int]]) -> Iterator[Float[Tensor, "B T P D"]]:
        """Yield the features of batches of samples, pinned where there is a GPU, some of them read ahead."""
        return read_ahead((self._store.start_clips(samples).result for samples in batches), READS_AHEAD)
