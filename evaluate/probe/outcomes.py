"""What a probe says of clips that it did not see, and how often that is right.

Takes weights and vectors, returns for each sample (a clip under a view), each clip and each video the likeliest class,
its probability, and at which place the true class stands. Probabilities of a clip are the mean over its views, those of
a video over all of its clips; a video whose clips have several labels counts once for each. Vectors are taken video by
video, so memory holds the probabilities of one block of them.

Shares of videos have Wilson's 95 % interval. Clips of one video are alike, so shares of clips have that of a bootstrap
over videos (`protocol.intervals`).

Shapes: N samples · G clips or videos · C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from deltactl.evaluate.probe.logistic import BLOCK, Standard, Weights
from deltactl.evaluate.protocol.intervals import Interval, Resampling, ends_of, wilson

TOP = 5
MOST_CLUSTERS = 4096
"""Videos that the bootstrap draws; more are drawn in groups of them, which changes nothing but its cost."""


@dataclass(frozen=True)
class Samples:
    """What is known of samples beside their vectors."""

    truth: Int64[np.ndarray, " N"]
    """Number of the class."""
    videos: tuple[str, ...]
    clips: tuple[str, ...]
    """Keys."""
    views: Int64[np.ndarray, " N"]


@dataclass(frozen=True)
class Outcome:
    """What was said of samples, clips or videos."""

    first: Int64[np.ndarray, " G"]
    """One of the samples of each."""
    predicted: Int64[np.ndarray, " G"]
    probability: Float64[np.ndarray, " G"]
    """Of the predicted class."""
    rank: Int64[np.ndarray, " G"]
    """Place of the true class, from 1; of two that are equally likely the first named stands before the other."""

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Outcomes:
    """What was said of the same samples one by one, by clip and by video."""

    samples: Outcome
    clips: Outcome
    videos: Outcome


def outcomes_of(
    weights: Weights,
    standard: Standard,
    vectors: np.ndarray,
    numbers: Int64[np.ndarray, " N"],
    samples: Samples,
    block: int = BLOCK,
) -> Outcomes:
    """Return what a probe says of samples; `numbers` are the rows of their vectors."""
    order, clips, videos = _in_groups(samples)
    parts: list[list[Outcome]] = [[], [], []]
    device = weights.weight.device
    for place in _blocks(videos, block):
        here = order[place]
        rows = standard.apply(np.ascontiguousarray(vectors[numbers[here]]), device)
        found = weights.log_probabilities(rows).exp_().cpu().numpy()
        whole = np.arange(len(here))
        for part, groups in zip(parts, (whole, clips[place], videos[place]), strict=True):
            part.append(_outcome(found, here, groups, samples.truth))
    return Outcomes(*(_joined(part) for part in parts))


def _in_groups(samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an order in which samples of one video stand together, those of one clip too, and both groups in it."""
    of_video = list(zip(samples.videos, samples.truth.tolist(), strict=True))
    # By name, so that intervals from drawn videos do not depend on the order of a store.
    numbers = {video: number for number, video in enumerate(sorted(set(of_video)))}
    videos = [numbers[video] for video in of_video]
    of_clip = list(zip(videos, samples.clips, strict=True))
    keys = {clip: number for number, clip in enumerate(sorted(set(of_clip)))}
    clips = [keys[clip] for clip in of_clip]
    order = np.lexsort((samples.views, np.array(clips), np.array(videos)))
    return order, np.array(clips)[order], np.array(videos)[order]


def _blocks(videos: Int64[np.ndarray, " N"], block: int) -> Iterator[slice]:
    """Yield places of whole videos, about `block` samples each."""
    ends = [*(np.flatnonzero(np.diff(videos)) + 1).tolist(), len(videos)]
    start = 0
    for end in ends:
        if end - start >= block or end == len(videos):
            yield slice(start, end)
            start = end


def _outcome(
    found: Float64[np.ndarray, "B C"], here: np.ndarray, groups: np.ndarray, truth: Int64[np.ndarray, " N"]
) -> Outcome:
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.diff(starts, append=len(groups))
    mean = np.add.reduceat(found, starts, axis=0) / sizes[:, None]
    first, predicted = here[starts], mean.argmax(1)
    each, true = np.arange(len(starts)), truth[here[starts]]
    of_true = mean[each, true][:, None]
    before = (mean > of_true) | ((mean == of_true) & (np.arange(mean.shape[1]) < true[:, None]))
    return Outcome(first, predicted, mean[each, predicted], 1 + before.sum(1))


def _joined(parts: Sequence[Outcome]) -> Outcome:
    names = ("first", "predicted", "probability", "rank")
    return Outcome(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


# --- figures ---------------------------------------------------------------------------------------------------------


def accuracies(outcomes: Outcomes, samples: Samples, training: Int64[np.ndarray, " C"]) -> dict[str, Any]:
    """Return how often the true class is the likeliest, and among the first five, by video and by clip.

    `training` is how many videos of each class trained. Beside them stand what chance gives and the class that most
    videos of the training have.
    """
    count, commonest = len(training), int(training.argmax())
    names = {1: "top1", TOP: "top5"} if count > TOP else {1: "top1"}
    clusters = _clusters([samples.videos[number] for number in outcomes.clips.first])
    found: dict[str, Any] = {}
    for what, outcome in (("by_video", outcomes.videos), ("by_clip", outcomes.clips)):
        truth = samples.truth[outcome.first]
        entry: dict[str, Any] = {"count": len(outcome)}
        for places, name in names.items():
            right = outcome.rank <= places
            value = float(right.mean())
            ends = wilson(value, len(right)) if what == "by_video" else _over_clusters(right, clusters)
            entry[name] = {"accuracy": value, **ends_of(ends)}
        entry["majority"] = float((truth == commonest).mean())
        entry["chance"] = {name: places / count for places, name in names.items()}
        found[what] = entry
    of_class = [each["accuracy"] for each in by_class(outcomes, samples, training) if each["accuracy"] is not None]
    found["by_video"]["mean_over_classes"] = float(np.mean(of_class))
    return found


def by_class(outcomes: Outcomes, samples: Samples, training: Int64[np.ndarray, " C"]) -> list[dict[str, Any]]:
    """Return of each class how many videos trained, how many were held out, and how often those are told right."""
    outcome = outcomes.videos
    truth = samples.truth[outcome.first]
    count = np.bincount(truth, minlength=len(training))
    right = np.bincount(truth[outcome.rank == 1], minlength=len(training))
    entries = []
    for number, videos in enumerate(count.tolist()):
        value = right[number] / videos if videos else None
        ends = None if value is None else wilson(value, videos)
        entry = {"training_videos": int(training[number]), "videos": videos, "accuracy": value, **ends_of(ends)}
        entries.append(entry)
    return entries


def confusions(outcomes: Outcomes, samples: Samples) -> list[tuple[int, int, int]]:
    """Return true class, predicted class and number of held-out videos, for all pairs that there are, in order."""
    outcome = outcomes.videos
    pairs = np.stack((samples.truth[outcome.first], outcome.predicted), 1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return [(true, predicted, count) for (true, predicted), count in zip(found.tolist(), counts.tolist(), strict=True)]


def _clusters(videos: Sequence[str]) -> Int64[np.ndarray, " G"]:
    """Return a number for the video of each clip; groups of videos share one where there are many."""
    numbers: dict[str, int] = {}
    found = np.fromiter((numbers.setdefault(video, len(numbers)) for video in videos), np.int64, len(videos))
    return found % MOST_CLUSTERS


def _over_clusters(right: np.ndarray, clusters: Int64[np.ndarray, " G"]) -> Interval | None:
    sums = np.stack([np.bincount(clusters, right), np.bincount(clusters)], 1).astype(np.float64)
    resampling = Resampling(len(sums))
    drawn = resampling.sums(sums)
    return resampling.intervals(drawn[:, :1] / drawn[:, 1:])[0]
