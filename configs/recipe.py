"""A recipe: the steps that `deltactl train` runs one after the other, each missing one in its turn.

A recipe is a preset of the stage `recipe` whose `steps` map a name to a step, in order. A step refers to an earlier
one by that name.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from deltactl.configs.base import Config

StepKind = Literal["tokenizer", "tokenize", "world", "head", "rgb"]


class StepConfig(Config):
    """One training run, or the making of tokens."""

    run: StepKind
    """What the step does: `train tokenizer`, `tokenize`, `train world`, `train head` or `train rgb`."""

    config: str | None = None
    """Preset or settings file that the step starts from."""

    data: str | None = None
    """What it reads: an artifact of the workspace (`features/NAME`, `shards/NAME`), a path, or the earlier step that
    made the tokens. None takes the only fitting one in the workspace."""

    init: str | None = None
    """Earlier step, or checkpoint, whose weights it starts from."""

    resume: str | None = None
    """Earlier step, or checkpoint, whose full state it goes on from."""

    tokenizer: str | None = None
    """Earlier step, or checkpoint, that is the frozen tokenizer."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings over those of the preset, as with `--set`."""


class RecipeConfig(Config):
    """The steps of a recipe."""

    steps: dict[str, StepConfig] = Field(min_length=1)
    """Name to step, in the order they run. A step has `run` (tokenizer, tokenize, world, head or rgb), `config` (a
    preset), `data` (what it reads), `init`, `resume` and `tokenizer` (an earlier step, or a checkpoint), and `settings`
    (over those of the preset). Runs and tokens are named after their step."""

    @model_validator(mode="after")
    def _refers_to_earlier_steps(self) -> RecipeConfig:
        earlier: dict[str, StepKind] = {}
        for name, step in self.steps.items():
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
                raise ValueError(f"the step {name!r} is not named with letters, digits, - and _ only")
            if step.init is not None and step.resume is not None:
                raise ValueError(f"the step {name!r} has init and resume; a run starts from one of them")
            kinds: dict[str, StepKind] = {
                "data": "tokenize",
                "init": step.run,
                "resume": step.run,
                "tokenizer": "tokenizer",
            }
            for key, kind in kinds.items():
                target = getattr(step, key)
                if target is None or "/" in target or "." in target:
                    continue
                if target not in earlier:
                    known = ", ".join(earlier) or "none"
                    raise ValueError(
                        f"{key} of the step {name!r} is {target!r}; expected an earlier step ({known}) or a path"
                    )
                if earlier[target] != kind:
                    raise ValueError(
                        f"{key} of the step {name!r} is {target!r}, which runs {earlier[target]!r}; expected {kind!r}"
                    )
            earlier[name] = step.run
        return self
