"""Scores of finished clips, kept in a file beside the output until all are there, so that a stopped run goes on.

`.NAME.surprise-HASH.jsonl`: a clip a line, each with its checksum; HASH is that of the run's identity, so that scores
of other settings are never taken. A line that was cut off is as if it were not there. Outputs that are not on a disk
keep nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from typing import Any

from deltactl.artifacts import Identity, canonical_json, seal
from deltactl.evaluate.surprise.measure import FrameScore
from deltactl.evaluate.surprise.scoring import Surprise
from deltactl.evaluate.surprise.table import Scored
from deltactl.fields import without_nan
from deltactl.locations import Location, make_folder, storage_errors


class KeptScores:
    """The scores of one run, by clip and view, in order."""

    def __init__(self, folder: Location, identity: Identity) -> None:
        self.scores: dict[tuple[str, int], Scored] = {}
        self._path = None
        if folder.is_local:
            self._path = folder.path.with_name(f".{folder.name}.surprise-{identity.hash()[:16]}.jsonl")
            with contextlib.suppress(FileNotFoundError):
                for line in self._path.read_bytes().splitlines():
                    if (scored := _read(line)) is not None:
                        self.scores[scored.clip, scored.view] = scored

    def add(self, scored: Scored) -> None:
        """Keep the scores of one more clip."""
        self.scores[scored.clip, scored.view] = scored
        if self._path is not None:
            with storage_errors(self._path, "write"):
                make_folder(self._path.parent)
                with self._path.open("ab") as file:
                    file.write(b"\n" + canonical_json(seal(without_nan(dataclasses.asdict(scored)))) + b"\n")

    def remove(self) -> None:
        """Remove the file: the scores are published."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _read(line: bytes) -> Scored | None:
    """Return the scores of a line; None of one that is not whole."""
    try:
        value = json.loads(line)
        content = {name: each for name, each in value.items() if name != "sha256"}
        if seal(content)["sha256"] != value["sha256"]:
            return None
        frames = tuple(
            FrameScore(each["frame"], each["time"], _surprise(each["features"]), _whole(each["tokens"]))
            for each in content["frames"]
        )
        return Scored(content["video"], content["clip"], content["view"], frames)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _surprise(value: dict[str, Any] | None) -> Surprise | None:
    return None if value is None else _whole(value)


def _whole(value: dict[str, Any]) -> Surprise:
    known: dict[str, Any] = {name: math.nan if each is None else each for name, each in value.items()}
    return Surprise(**known)
