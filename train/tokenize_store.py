"""From a feature store to tokens: clips are read and copied to the device ahead, while others are encoded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from jaxtyping import Float16
from torch import Tensor

from deltactl.artifacts import Identity, stable_provenance
from deltactl.featurize.background import read_ahead
from deltactl.featurize.events import Job, JobResult, Opened
from deltactl.featurize.fill import JobAgainError
from deltactl.featurize.finish import read_group_file
from deltactl.featurize.layout import Layout
from deltactl.featurize.pipeline import LIBRARIES, made_of
from deltactl.featurize.store import FeatureStore
from deltactl.featurize.transfers import Copies
from deltactl.featurize.writer import group_writer
from deltactl.locations import Location
from deltactl.train.encoder import Encoder, TokenFill

READS_AHEAD = 2


class StoreTokens:
    """Encodes the groups of a feature store into those of `root`."""

    def __init__(self, store: FeatureStore, root: Location, identity: Identity, encoder: Encoder) -> None:
        self.seconds: dict[str, float] = {}
        self._store = store
        self._root = root
        self._identity = identity
        self._layout = Layout("tokens", store.frames, (store.dim,))
        self._encoder = encoder
        self._uploads = Copies(encoder.device)

    def run(self, jobs: Iterable[Job], advance: Callable[[int], None]) -> Iterator[JobResult]:
        """Yield the result of each job once its group is published; `advance` hears of its clips then."""
        for job in jobs:
            result = None
            while result is None:  # with fewer clips at once each time
                with contextlib.suppress(JobAgainError):
                    result = self._run(job)
            advance(result.clips)
            yield result

    def _run(self, job: Job) -> JobResult:
        store = self._store
        source = read_group_file(store.root, job.view, job.unit)
        samples, rows = store.samples_of(job.view, job.unit)
        keys, names = source.keys, store.sources_of(job.unit)
        opened = Opened(job, keys, names, source.shard_sha256)
        with group_writer(self._root, job.view, job.unit, self._layout, keys, names, replace=job.replace) as writer:
            fill = TokenFill(opened, writer, self._encoder)
            for entry in source.quarantined:
                if entry.source in keys:
                    fill.reasons[keys.index(entry.source)] = entry.reason
            for row in set(range(len(keys))) - set(rows):
                fill.leave_out(row)
            if samples:
                fill.times[rows] = store.times(samples).numpy()
                fill.crop[rows] = store.crops(samples).numpy()
                fill.flip[rows] = store.flips(samples).numpy()
            clips = self._encoder.clips
            parts = [slice(start, start + clips) for start in range(0, len(samples), clips)]
            for part, features in zip(parts, self._features([samples[part] for part in parts]), strict=True):
                fill.encode(rows[part], features)
            fill.flush()
            how = stable_provenance(LIBRARIES, tokenizer=self._encoder.provenance)
            return fill.close(store.grid, made_of(self._identity, how))

    def _features(self, batches: Sequence[Sequence[int]]) -> Iterator[Float16[Tensor, "B T P D"]]:
        """Yield the features of batches of samples on the device; one is copied there while another is encoded."""
        arriving = read_ahead((self._uploads.to_device(host).here for host in self._read(batches)), 1)
        return (features for (features,) in arriving)

    def _read(self, batches: Sequence[Sequence[int]]) -> Iterator[Float16[Tensor, "B T P D"]]:
        """Yield the features of batches of samples, pinned where there is a GPU, some of them read ahead."""
        return read_ahead((self._store.start_clips(samples).result for samples in batches), READS_AHEAD)
