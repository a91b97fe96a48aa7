"""The data sets that a run trains from, opened, and whether they go together.

Takes the value of `data`, returns each set with its share of the samples. In which order sets are named does not count:
they stand in the order of their identities. Sets go together where a batch can hold samples of them all and one
network can learn from them: of one kind, behind one backbone (and tokenizer), of one width, grid and size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from deltactl.artifacts import HASH_DIGITS, hash_told
from deltactl.configs.mixture import Weighted, file_of_sets, read_sets, weighted
from deltactl.errors import ConfigError
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.progress import counted
from deltactl.train.data.inputs import frames_of, open_input

LONGEST_NAME = 80
"""Letters of the sets' names together, in the name of a run."""


@dataclass(frozen=True)
class TrainingSet:
    """One set of those that a run trains from."""

    data: ClipStore | ShardSet
    share: Fraction = Fraction(1)
    """Of the samples that train."""
    name: str = ""
    """The last name of its place; with a number behind it where another set is called so."""

    @property
    def frames(self) -> int:
        """Frames of a clip of shards, steps of a clip of a store."""
        return frames_of(self.data)


def named_sets(value: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    """Return the value of `data` with the content of the file that it names, if any; one set as its place alone.

    Raises:
        ConfigError: the file is not there or names no sets, or a weight is no number above 0.
    """
    if value is None:
        return None
    if (file := file_of_sets(value)) is not None:
        value = read_sets(file)
    sets = _weighted(value)
    return sets[0].place if len(sets) == 1 else tuple(value)


def open_sets(value: str | Sequence[str] | None, kinds: Sequence[str]) -> tuple[TrainingSet, ...]:
    """Open what `named_sets` returns; raises like `open_input`.

    Raises:
        ConfigError: two places are one set.
    """
    if value is None or isinstance(value, str):
        data = open_input(value, kinds)
        return (TrainingSet(data, name=data.root.name),)
    sets = _weighted(value)
    places: dict[str, str] = {}
    for each in sets:
        place = Location.of(each.place)
        real = str(place.path.resolve()) if place.is_local else str(place).rstrip("/")
        if real in places:
            raise ConfigError(f"{places[real]} and {each.place} are one set; name it once, with one weight")
        places[real] = each.place
    opened = [TrainingSet(open_input(each.place, kinds), each.share) for each in sets]
    opened.sort(key=lambda each: (each.data.identity.hash(), each.data.root.name))
    names, seen = Counter(each.data.root.name for each in opened), Counter[str]()
    found = []
    for training_set in opened:
        name = training_set.data.root.name
        seen[name] += 1
        found.append(replace(training_set, name=name if names[name] == 1 else f"{name}-{seen[name]}"))
    return tuple(found)


def _weighted(value: str | Sequence[str]) -> tuple[Weighted, ...]:
    try:
        return weighted(value)
    except ValueError as error:
        raise ConfigError(f"data: {error}") from error


def run_name(sets: Sequence[TrainingSet]) -> str:
    """Return what stands for the sets in the name of a run."""
    name = "+".join(each.name for each in sets)
    return name if len(sets) == 1 or len(name) <= LONGEST_NAME else f"{sets[0].name}+{len(sets) - 1}-more"


def check_agreement(sets: Sequence[TrainingSet], *, same_frames: bool) -> None:
    """Check that sets go together; `same_frames`: whether their clips must have the same number of frames.

    Raises:
        ConfigError: two do not; says in what, with both values and both places.
    """
    first = sets[0].data
    here = facts_of(first, same_frames=same_frames)
    for each in sets[1:]:
        there = facts_of(each.data, same_frames=same_frames)
        if (said := disagreement(here, there, (first.identity.names, each.data.identity.names))) is not None:
            raise ConfigError(
                f"{first.root} and {each.data.root} do not go together: {said}; the sets of a run agree in this: leave "
                "one out, or make it anew"
            )


def disagreement(
    here: Mapping[str, Any], there: Mapping[str, Any], names: Sequence[Mapping[str, Any]] = ({}, {})
) -> str | None:
    """Return the first fact in which two sets differ, with both values; None where they go together.

    `names`: what people call the networks of each (`Identity.names`).
    """
    for name in here:
        if name in there and here[name] != there[name]:
            called = name.removeprefix("the ").removesuffix(" is")
            first, second = (_shown(each[name], of.get(called)) for each, of in zip((here, there), names, strict=True))
            return f"{name} {first} in the first, {second} in the second"
    return None


def facts_of(data: ClipStore | ShardSet, *, same_frames: bool) -> dict[str, Any]:
    """Return what sets must have in common, by what it is called; what they are comes first. Values are JSON."""
    clips = {"clips have": counted(frames_of(data), "frames")} if same_frames else {}
    if isinstance(data, ShardSet):
        return {"they hold": "shards", **clips}
    facts: dict[str, Any] = {"they hold": data.kind, "the backbone is": data.identity.text("backbone")}
    if isinstance(data, TokenStore):
        facts["the tokenizer is"] = data.identity.text("tokenizer")
        facts["a frame has"] = counted(data.tokens_per_frame, "tokens")
    facts["the size is"] = f"{data.identity.size} px"
    facts["the width is"] = data.dim
    if isinstance(data, FeatureStore):
        facts["the grid of patches is"] = "x".join(map(str, data.grid))
    return {**facts, **clips}


def _shown(value: object, name: object) -> str:
    """Return a value for a message; of a content hash its beginning, behind the name where one is known."""
    text = str(value)
    return hash_told(text, name) if len(text) == HASH_DIGITS else text
