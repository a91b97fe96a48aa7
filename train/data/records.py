"""What a run read, of one set or of several with their shares, as its checkpoints remember it; checked on resuming.

A run on one set has the record that it always had (`inputs.DataRecord`); one on several has that of each, its share and
the name it had. Where sets lie does not count, and neither does the order in which they are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from deltactl.errors import IdentityError
from deltactl.fields import Fields
from deltactl.train.data.inputs import DataRecord

SETS = "sets"
"""The entry of the record of several sets that lists them."""
LEFT_OUT = "left_out_sha256"
"""The entry that says which clips were left out, where any were."""


@dataclass(frozen=True)
class SetRecord:
    """One set of several."""

    name: str
    share: Fraction
    record: DataRecord

    def __str__(self) -> str:
        return f"{self.name} (share {float(self.share):g})"


@dataclass(frozen=True)
class RunRecord:
    """What a run read."""

    sets: tuple[SetRecord, ...]
    left_out: str | None = None
    """Hash of the keys of the clips that it left out; None where it left out none."""

    @classmethod
    def alone(cls, record: DataRecord, name: str = "") -> RunRecord:
        """Return the record of a run on one set."""
        return cls((SetRecord(name, Fraction(1), record),))

    @property
    def frozen(self) -> dict[str, str]:
        """Content hashes of the frozen networks whose output the run learns from, the same for all sets."""
        return self.sets[0].record.frozen

    def to_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        without = {} if self.left_out is None else {LEFT_OUT: self.left_out}
        if len(self.sets) == 1:
            return {**self.sets[0].record.to_json(), **without}
        return {
            **without,
            SETS: [{"name": each.name, "share": str(each.share), **each.record.to_json()} for each in self.sets],
        }

    @classmethod
    def of(cls, value: Fields) -> RunRecord:
        """Return what `to_json` wrote.

        Raises:
            DamagedError: it is of another form.
        """
        left_out = value.text(LEFT_OUT) if LEFT_OUT in value else None
        if SETS not in value:
            return replace(cls.alone(DataRecord.of(value)), left_out=left_out)
        sets = tuple(SetRecord(each.text("name"), _share(each), DataRecord.of(each)) for each in value.items(SETS))
        if len(sets) < 2:
            raise value.wrong(SETS, value.array(SETS), "two sets at least")
        return cls(sets, left_out)

    def check(self, now: RunRecord, checkpoint: str, places: Sequence[str]) -> None:
        """Check that `now`, whose sets lie at `places`, is what this run read; groups that came since are welcome.

        Raises:
            IdentityError: it is other data, there are other sets, or their shares differ.
        """
        where = dict(zip(map(id, now.sets), places, strict=True))
        pairs, gone, new = _paired(self.sets, now.sets)
        problems = [f"{each} is not among the sets now" for each in gone]
        problems += [f"{where[id(each)]} (share {float(each.share):g}) was not among its sets" for each in new]
        for then, each in pairs:
            place = where[id(each)]
            found = then.record.problems(each.record, place)
            problems += [f"{place}: {problem}" if len(now.sets) > 1 else problem for problem in found]
            if then.share != each.share and not gone and not new:
                problems.append(
                    f"the share of {place} is {float(each.share):g} now, and was {float(then.share):g} then"
                )
        if not problems and [id(each) for _, each in sorted(pairs, key=lambda pair: self.sets.index(pair[0]))] != list(
            map(id, now.sets)
        ):
            problems.append("sets that are made alike have changed places; call their folders as they were called then")
        if self.left_out != now.left_out:
            problems.append(
                "it left out no clips (--where)"
                if self.left_out is None
                else "it left out clips (--where), and none are named now"
                if now.left_out is None
                else "it left out other clips than the list of --where names now"
            )
        if problems:
            raise IdentityError(
                f"{checkpoint} was trained on other data than {' and '.join(places)}: {'; '.join(problems)}. Give it "
                "the data it was trained on, or start anew from its weights with --init"
            )
        for then, each in pairs:
            then.record.warn_if_grown(each.record, checkpoint, where[id(each)])


def _share(fields: Fields) -> Fraction:
    text = fields.text("share")
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise fields.wrong("share", text, "a fraction above 0, at most 1")
    return share


def _paired(
    then: Sequence[SetRecord], now: Sequence[SetRecord]
) -> tuple[list[tuple[SetRecord, SetRecord]], list[SetRecord], list[SetRecord]]:
    """Return the sets of then with those of now that they are, and on either side those that are left over.

    Sets are known by their identities, then by their names; where one set is left on either side, it is another one.
    """
    if len(then) == len(now) == 1:
        return [(then[0], now[0])], [], []
    pairs, left, rest = list[tuple[SetRecord, SetRecord]](), list(then), list(now)
    tests: tuple[Callable[[SetRecord, SetRecord], bool], ...] = (
        lambda one, other: one.record.identity == other.record.identity and one.name == other.name,
        lambda one, other: one.record.identity == other.record.identity,
        lambda one, other: one.name == other.name,
    )
    for alike in tests:
        for one in list(left):
            found = next((other for other in rest if alike(one, other)), None)
            if found is not None:
                pairs.append((one, found))
                left.remove(one)
                rest.remove(found)
    return pairs, left, rest
