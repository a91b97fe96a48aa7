"""Bare `deltactl train`: the missing steps of a recipe, one after the other.

Each step is one command, which the plan prints and anyone can run by hand. What is done is read from the disk (a run
that has reached its last step, a token store with its index), so the recipe can be stopped and started again anywhere,
and no step shares a process with another: each may start processes of its own for its devices.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deltactl.artifacts import INDEX, default_location, workspace
from deltactl.configs.base import Config
from deltactl.configs.head import HeadConfig
from deltactl.configs.load import assignments_of, load_preset, resolve, stage_model
from deltactl.configs.recipe import RecipeConfig, StepConfig
from deltactl.configs.rgb import RGBConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import TrainingConfig
from deltactl.configs.world import WorldConfig
from deltactl.errors import STOPPED_CODE, ConfigError, DeltactlError, StoppedError, WorkerError
from deltactl.featurize.backbones.hub import is_hub_name
from deltactl.featurize.origins import are_videos
from deltactl.locations import Location
from deltactl.train.checkpoints.files import find
from deltactl.train.checkpoints.resume_point import FOLDER, LAST, read_resume_point
from deltactl.train.data.heads_inputs import open_head_inputs
from deltactl.train.data.inputs import find_input
from deltactl.train.data.rgb_inputs import open_rgb_inputs
from deltactl.train.data.sets import named_sets, open_sets
from deltactl.train.run import check_tokenizer
from deltactl.train.settle import kinds_of, settle, settle_sets
from deltactl.train.start import check_start


@dataclass(frozen=True)
class PlannedStep:
    """One step, what became of it so far, and the command that does it."""

    name: str
    state: str
    """`done`, `to do`, or how far it is."""
    cost: str
    """What it costs, as far as that is known."""
    words: tuple[str, ...]
    """The command, after `deltactl`."""
    problem: str = ""
    """Why its inputs will not do; empty if they are there, or are made by earlier steps."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.state == "done"

    def line(self) -> str:
        """Return the step for the plan."""
        line = (
            f"{self.name}: {self.state}{f' ({self.cost})' if self.cost else ''}\n    deltactl {shlex.join(self.words)}"
        )
        return f"{line}\n    cannot run: {self.problem}" if self.problem else line


def plan_recipe(recipe: RecipeConfig) -> list[PlannedStep]:
    """Return the steps in order.

    The inputs of every step that is not done are looked at, those of the last before the first runs.

    Raises:
        ConfigError: the config of a step is not acceptable.
    """
    planned = [_plan(name, step, recipe.steps) for name, step in recipe.steps.items()]
    return [
        each if each.done else replace(each, problem=_problem(recipe.steps[each.name], recipe.steps, each.name))
        for each in planned
    ]


def check_inputs(steps: Sequence[PlannedStep]) -> None:
    """Check that each step can run when its turn comes.

    Raises:
        ConfigError: one cannot; nothing was started.
    """
    by_problem: dict[str, list[str]] = {}
    for step in steps:
        if step.problem:
            by_problem.setdefault(step.problem, []).append(step.name)
    if by_problem:
        said = "; ".join(f"{', '.join(names)}: {problem}" for problem, names in by_problem.items())
        raise ConfigError(f"nothing was started, since the recipe could not end: {said}")


def run_recipe(steps: Sequence[PlannedStep]) -> None:
    """Run the steps, each in a process of its own.

    Raises:
        WorkerError: a step fails.
        StoppedError: a signal stopped a step, or this process.
    """
    for step in steps:
        print(f"{step.name}: deltactl {shlex.join(step.words)}", file=sys.stderr, flush=True)
        process = subprocess.Popen([sys.executable, "-m", "deltactl", *step.words])
        try:
            code = process.wait()
        except KeyboardInterrupt as stop:
            # Of Ctrl-C the terminal has told the step as well: it ends its work on its own, and says how to go on.
            if isinstance(stop, StoppedError) and stop.number != signal.SIGINT:
                process.send_signal(stop.number)
            process.wait()
            raise
        if code > STOPPED_CODE:
            raise StoppedError(code - STOPPED_CODE)
        if code != 0:
            raise WorkerError(f"the step {step.name} failed; what is done is kept: run deltactl train again to go on")


def _plan(name: str, step: StepConfig, steps: Mapping[str, StepConfig]) -> PlannedStep:
    if step.run == "tokenize":
        return _plan_tokens(name, step, steps)
    out = default_location("runs", name)
    total = _total_steps(step)
    last = out / FOLDER / LAST
    data = _data(step, steps)
    words = ["train", step.run, *(["--store"] if data and step.run == "head" else []), *data, "--out", str(out)]
    if step.config is not None:
        words += ["--config", step.config]
    if step.tokenizer is not None:
        words += ["--tokenizer", _checkpoint(step.tokenizer, steps)]
    state = "to do"
    if last.exists():
        words += ["--resume", "auto"]
        point = read_resume_point("auto", out)
        assert point is not None
        state = "done" if point.step >= total else f"at step {point.step:,} of {total:,}"
    elif step.resume is not None:
        words += ["--resume", _checkpoint(step.resume, steps)]
    elif step.init is not None:
        words += ["--init", _checkpoint(step.init, steps)]
    words += _settings(step)
    summary = load_preset(step.config).summary if step.config is not None else ""
    return PlannedStep(name, state, summary or f"{total:,} steps", tuple(words))


def _plan_tokens(name: str, step: StepConfig, steps: Mapping[str, StepConfig]) -> PlannedStep:
    out = default_location("tokens", name)
    words = ["tokenize", *_data(step, steps), "--out", str(out)]
    if step.config is not None:
        words += ["--config", step.config]
    if step.tokenizer is not None:
        words += ["--tokenizer", _checkpoint(step.tokenizer, steps)]
    state = "done" if (out / INDEX).exists() and _whole(out) else "to do"
    return PlannedStep(name, state, "one pass over the features", (*words, *_settings(step)))


def _whole(tokens: Location) -> bool:
    from deltactl.featurize.store.index import StoreIndex

    index = StoreIndex.read(tokens)
    return bool(index.whole_views()) and set(index.whole_views()) == set(index.views)


def _total_steps(step: StepConfig) -> int:
    """Return the steps of a run; the settings are checked on the way."""
    config = _resolved(step)
    assert isinstance(config, TrainingConfig)
    return config.steps


def _resolved(step: StepConfig) -> Config:
    return resolve(stage_model(step.run), config=step.config, assignments=assignments_of(step.settings))


def _problem(step: StepConfig, steps: Mapping[str, StepConfig], name: str) -> str:
    """Return why a step could not read what it needs; empty if nothing speaks against it.

    What earlier steps make is not there yet, and Hub names are not asked for.
    """
    try:
        for place in (step.init, step.resume, step.tokenizer):
            if place is not None and place not in steps and not is_hub_name(place):
                find(place)
        names = list(steps)
        makes_tokens = any(steps[earlier].run == "tokenize" for earlier in names[: names.index(name)])
        will_be_there = step.data in steps or (step.data is None and step.run == "world" and makes_tokens)
        if not will_be_there:
            _check_data(step, _data(step, steps), default_location("runs", name))
    except DeltactlError as error:
        return str(error)
    return ""


def _check_data(step: StepConfig, data: Sequence[str], run: Location) -> None:
    """Open what a step reads, and compare it with the settings; raises what the step would raise."""
    config, place = _resolved(step), data[0] if data else None
    if isinstance(config, TrainingConfig):
        check_start(config, weights=step.init is not None, state=step.resume is not None)
    match config:
        case HeadConfig():
            open_head_inputs(config.model_copy(update={"data": place or config.data}))
        case RGBConfig():
            _, store = open_rgb_inputs(config.model_copy(update={"data": place or config.data}))
            settle(config, store, run)
        case TokenizerConfig() | WorldConfig():
            sets = open_sets(named_sets(place or config.data), kinds_of(config))
            settle_sets(config, sets, run)
            if isinstance(config, WorldConfig) and config.network.kind == "deltaworld":
                check_tokenizer(sets[0].data, given=(step.tokenizer or config.tokenizer) is not None)
        case TokenizeConfig():
            places = config.places if place is None else (place,)
            if not are_videos(places, config.videos):
                find_input(places[0] if places else None, ("features", "shards"))


def _data(step: StepConfig, steps: Mapping[str, StepConfig]) -> list[str]:
    """Return the argument that names the step's data; none if the workspace has one that fits."""
    if step.data is None:
        return []
    if step.data in steps:
        return [str(default_location("tokens", step.data))]
    within = workspace() / step.data
    absolute = "://" in step.data or step.data.startswith(("/", "~", "."))
    return [step.data if absolute else str(within)]


def _checkpoint(name: str, steps: Mapping[str, StepConfig]) -> str:
    """Return the checkpoint that an earlier step ends with, or the one that is named."""
    return str(default_location("runs", name) / FOLDER / LAST) if name in steps else name


def _settings(step: StepConfig) -> list[str]:
    return [word for text in assignments_of(step.settings) for word in ("--set", text)]
