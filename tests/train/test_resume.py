"""A run that was interrupted and resumed ends with the same weights, bit for bit, and follows new settings."""

from __future__ import annotations

import csv
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from small_runs import Interrupt, assert_same_state, weights
from small_training import make_features, make_shards, tokenizer_config, world_config

from deltactl.artifacts import Identity
from deltactl.errors import ArtifactError, CheckpointError, ConfigError, IdentityError
from deltactl.locations import Location
from deltactl.train.callbacks.checkpointing import Checkpoints
from deltactl.train.callbacks.cost import Cost
from deltactl.train.callbacks.guard import FiniteGuard
from deltactl.train.callbacks.metrics import Metrics
from deltactl.train.checkpoints.resume_point import read_resume_point
from deltactl.train.data.inputs import DataRecord
from deltactl.train.data.records import RunRecord
from deltactl.train.loop import RunResult
from deltactl.train.run import train
from deltactl.train.steps.alarm import ZSwapAlarm

STEPS = 14


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("resume") / "shards")


@pytest.fixture(scope="module")
def store(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("resume") / "features")


def stop_and_resume(config: Any, whole: Path, parts: Path, step: int, number: signal.Signals) -> RunResult:
    """Train in one go, then with a signal in the middle of a step; return the end of the resumed run."""
    train(config.model_copy(update={"out": str(whole)}), "whole")
    stopped = train(config.model_copy(update={"out": str(parts)}), "parts", [Interrupt(step, number)])
    assert stopped.stopped
    assert stopped.step == step + 1
    assert "--resume auto" in stopped.lines()[0]
    return train(config.model_copy(update={"out": str(parts), "resume": "auto"}), "parts")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_tokenizer_stopped_by_a_signal_goes_on_as_if_nothing_had_been(store: str, tmp_path: Path, number) -> None:
    config = tokenizer_config(store, tmp_path, steps=STEPS, validate_every=4)
    result = stop_and_resume(config, tmp_path / "whole", tmp_path / "parts", 6, number)
    assert (result.step, result.stopped) == (STEPS, False)
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.parametrize("step", [3, 7])
def test_with_accumulated_batches_as_well(store: str, tmp_path: Path, step: int) -> None:
    """Step 3 + 1 ends where a validation begins, step 7 + 1 does not."""
    config = tokenizer_config(store, tmp_path, steps=STEPS, batch_size=4, effective_batch=12, validate_every=4)
    stop_and_resume(config, tmp_path / "whole", tmp_path / "parts", step, signal.SIGINT)
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_live_world_training_resumes_as_well(shards: str, golden: Path, tmp_path: Path) -> None:
    """Backbone and tokenizer in the loop; crops and queries come from the samples' places."""
    config = world_config(
        shards, tmp_path, steps=6, validate_every=3, last_every=2, tokenizer=str(golden / "deltatok.bin")
    )
    stop_and_resume(config, tmp_path / "whole", tmp_path / "parts", 2, signal.SIGINT)
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


class PowerCut(pl.Callback):
    """Ends the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(store: str, tmp_path: Path) -> None:
    """A crash between checkpoints: the steps since `last` are done again, and their rows are there once."""

    config = tokenizer_config(store, tmp_path / "parts", steps=STEPS, log_every=2, last_every=4, validate_every=6)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, "parts", [PowerCut(7)])
    assert weights(tmp_path / "parts")["global_step"] == 4
    train(config.model_copy(update={"resume": "auto"}), "parts")
    train(config.model_copy(update={"out": str(tmp_path / "whole")}), "whole")
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert reported(tmp_path / "parts") == reported(tmp_path / "whole")


@pytest.mark.parametrize(("minutes", "kept"), [(0.0, 6), (1000.0, None)])
def test_last_is_written_by_the_clock(store: str, tmp_path: Path, minutes: float, kept: int | None) -> None:
    changes = {"last_every": None, "last_minutes": minutes, "validate_every": 100}
    config = tokenizer_config(store, tmp_path / "parts", steps=STEPS, log_every=2, **changes)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, "parts", [PowerCut(7)])
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert (weights(tmp_path / "parts")["global_step"] if last.exists() else None) == kept
    train(config.model_copy(update={"resume": "auto"}), "parts")
    train(config.model_copy(update={"out": str(tmp_path / "whole")}), "whole")
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.parametrize(("step", "asked", "due"), [(9, False, False), (10, True, True), (20, True, True)])
def test_all_processes_save_when_the_clock_of_one_says_so(tmp_path: Path, step: int, asked: bool, due: bool) -> None:
    """Saving is done together: a process that began it alone would wait for the others for ever."""
    answers: list[float] = []

    def reduce(flag: torch.Tensor, reduce_op: str) -> torch.Tensor:
        answers.append(float(flag))
        return flag + 1  # the other process's clock

    checkpoints = Checkpoints(
        Location.of(tmp_path),
        every=100,
        last_every=None,
        last_seconds=600,
        metrics=Metrics(Location.of(tmp_path), 1, ZSwapAlarm()),
        cost=Cost(0.0),
        guard=FiniteGuard(),
        data=RunRecord.alone(DataRecord(Identity("tokens", {}), {})),
        provenance={},
    )
    trainer = Mock(spec=pl.Trainer, world_size=2, global_step=step, strategy=Mock(reduce=reduce))
    module = Mock(spec=pl.LightningModule, device=torch.device("cpu"))
    assert checkpoints._last_is_due(trainer, module) is due
    assert answers == ([0.0] if asked else []), "its own clock says no"


class Crash(pl.Callback):
    """Ends the run in the middle of the validation after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


def reported(run: Path) -> list[tuple[str, str, str]]:
    """Return step, loss and held-out loss of each row of a run's figures."""
    with (run / "metrics.csv").open() as file:
        return [(row["step"], row["train/loss"], row["validation/loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("last_every", [4, 6])
def test_a_validation_that_was_cut_off_is_done_when_the_run_goes_on(
    store: str, tmp_path: Path, last_every: int
) -> None:
    """Step 8 validates; where it is saved as well, the run goes on with that validation, else from step 6."""
    config = tokenizer_config(
        store, tmp_path / "parts", steps=STEPS, log_every=2, last_every=last_every, validate_every=4
    )
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, "parts", [Crash(8)])
    assert weights(tmp_path / "parts")["global_step"] == (8 if last_every == 4 else 6)
    train(config.model_copy(update={"resume": "auto"}), "parts")
    train(config.model_copy(update={"out": str(tmp_path / "whole")}), "whole")
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert reported(tmp_path / "parts") == reported(tmp_path / "whole")
    assert [row[0] for row in reported(tmp_path / "whole") if row[2]] == ["4", "8", "12", "14"]
    best = [weights(tmp_path / run, "best.ckpt")["global_step"] for run in ("whole", "parts")]
    assert best[0] == best[1]


def test_a_stop_validates_nothing_that_was_not_due(store: str, tmp_path: Path) -> None:
    """Neither at a step that has no validation, nor before the run ends at one that has: that comes on resuming."""
    config = tokenizer_config(store, tmp_path / "parts", steps=STEPS, log_every=2, validate_every=4)
    train(config.model_copy(update={"out": str(tmp_path / "whole")}), "whole")
    resumed = config.model_copy(update={"resume": "auto"})
    assert train(config, "parts", [Interrupt(5)]).step == 6
    assert [row[0] for row in reported(tmp_path / "parts") if row[2]] == ["4"]
    assert train(resumed, "parts", [Interrupt(7)]).step == 8
    assert [row[0] for row in reported(tmp_path / "parts") if row[2]] == ["4"]
    train(resumed, "parts")
    assert reported(tmp_path / "parts") == reported(tmp_path / "whole")


def test_the_best_checkpoint_is_never_replaced_by_a_worse_one(store: str, tmp_path: Path) -> None:
    """`last` is older than the best here, and does not know of it; after it, the loss is made worse."""
    config = tokenizer_config(store, tmp_path / "run", steps=STEPS, validate_every=4, last_every=3)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, "run", [Crash(8)])  # last is of step 6
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    assert content["global_step"] == 4
    content["callbacks"]["Checkpoints"]["best_loss"] = 1e-6
    torch.save(content, best)
    before = best.read_bytes()
    train(config.model_copy(update={"resume": "auto"}), "run")
    assert best.read_bytes() == before


def test_every_kept_checkpoint_can_be_resumed(store: str, tmp_path: Path) -> None:
    class KeepBest(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 9:
                folder = tmp_path / "whole" / "checkpoints"
                shutil.copy(folder / "best.ckpt", folder / "best-so-far.ckpt")

    config = tokenizer_config(store, tmp_path / "whole", steps=STEPS, validate_every=4, checkpoint_every=5)
    train(config, "whole", [KeepBest()])
    for name in ("step-0000005.ckpt", "step-0000010.ckpt", "best-so-far.ckpt"):
        out = tmp_path / f"from-{name}"
        checkpoint = str(tmp_path / "whole" / "checkpoints" / name)
        train(config.model_copy(update={"out": str(out), "resume": checkpoint}), "again")
        assert_same_state(weights(tmp_path / "whole"), weights(out))


def test_other_accumulation_goes_on_with_whole_steps(store: str, tmp_path: Path) -> None:
    """The same effective batch from other batch sizes: the same samples in each step, so nearly the same weights."""
    config = tokenizer_config(store, tmp_path / "first", steps=7, batch_size=8, effective_batch=8)
    train(config, "first")
    ends = []
    for size in (8, 2):
        out = tmp_path / f"batches-of-{size}"
        more = {"out": str(out), "resume": str(tmp_path / "first"), "steps": 12, "batch_size": size}
        train(config.model_copy(update=more), "second")
        ends.append(weights(out))
    assert [end["global_step"] for end in ends] == [12, 12]
    for name, value in ends[0]["state_dict"].items():
        assert torch.allclose(value, ends[1]["state_dict"][name], atol=1e-4), name


def test_a_cool_down_takes_the_new_learning_rate_and_decay_and_keeps_the_steps(store: str, tmp_path: Path) -> None:
    seen = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            groups = trainer.optimizers[0].param_groups
            seen.append((trainer.global_step, groups[0]["lr"], groups[0]["weight_decay"], groups[1]["weight_decay"]))

    train(tokenizer_config(store, tmp_path / "first", steps=6), "first")
    config = tokenizer_config(
        store, tmp_path / "second", steps=8, start="state", resume=str(tmp_path / "first"), lr=1e-5, weight_decay=0.3
    )
    train(config, "second", [Look()])
    assert seen == [(7, 1e-5, 0.3, 0.0), (8, 1e-5, 0.3, 0.0)]


def test_the_command_of_a_stage_that_was_stopped_goes_on_where_it_was(store: str, tmp_path: Path) -> None:
    """As a job that is put back into the queue does; another start in the same folder is still refused."""
    train(tokenizer_config(store, tmp_path / "first", steps=4), "first")
    config = tokenizer_config(store, tmp_path / "second", steps=10, start="state", resume=str(tmp_path / "first"))
    whole = config.model_copy(update={"out": str(tmp_path / "whole")})
    stopped = train(config, "second", [Interrupt(6)])
    assert (stopped.stopped, stopped.step) == (True, 7)
    seen: list[int] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append(trainer.global_step)

    train(config, "second", [Look()])
    assert seen == [8, 9, 10]
    train(whole, "whole")
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "second"))
    with pytest.raises(ArtifactError, match="holds a run already"):
        train(config.model_copy(update={"resume": str(tmp_path / "whole")}), "second")


def test_a_finished_run_says_so_and_trains_no_more(store: str, tmp_path: Path) -> None:
    config = tokenizer_config(store, tmp_path / "run", steps=5)
    train(config, "run")
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    assert train(config.model_copy(update={"resume": "auto"}), "run") == RunResult(
        read_resume_point("auto", location(tmp_path / "run")).location.parent.parent, 5, False, {}
    )
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


def location(path: Path) -> Any:
    from deltactl.locations import Location

    return Location.of(path)


# --- other data ------------------------------------------------------------------------------------------------------


def test_added_views_are_welcome_and_dropped_or_remade_ones_are_not(shards: str, tmp_path: Path) -> None:
    from deltactl.configs.featurize import FeaturizeConfig
    from deltactl.featurize.run import drop
    from deltactl.removal import agree

    store = make_features(shards, tmp_path / "features")
    config = tokenizer_config(store, tmp_path / "run", steps=4)
    train(config, "run")
    make_features(shards, tmp_path / "features", views="0:3")
    resumed = config.model_copy(update={"steps": 6, "resume": "auto"})
    assert train(resumed, "run").step == 6
    drop(FeaturizeConfig(out=store, drop_views="0"), agree)
    with pytest.raises(IdentityError, match=r"v000/000000, v000/000001 gone; view 0 was dropped by `"):
        train(resumed.model_copy(update={"steps": 8}), "run")


def test_data_of_another_backbone_or_size_is_refused(shards: str, store: str, tmp_path: Path) -> None:
    from small_training import BACKBONE

    from deltactl.configs.featurize import FeaturizeConfig
    from deltactl.featurize.run import run as featurize

    train(tokenizer_config(store, tmp_path / "run", steps=4), "run")
    other = FeaturizeConfig(
        shards=shards, backbone=str(BACKBONE), size=64, seed=1, out=str(tmp_path / "other"), device="cpu", workers=0
    )
    featurize(other)
    config = tokenizer_config(str(tmp_path / "other"), tmp_path / "again", steps=8, resume=str(tmp_path / "run"))
    with pytest.raises(IdentityError, match=r"seed is 1 there, 0 here"):
        train(config, "again")


# --- what cannot be resumed ------------------------------------------------------------------------------------------


def test_weights_alone_cannot_be_resumed(store: str, golden: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    with pytest.raises(CheckpointError, match="weights only.*--init"):
        train(tokenizer_config(store, tmp_path / "run", resume=str(tmp_path / "weights.ckpt")), "run")


def test_a_damaged_or_absent_checkpoint_is_named(store: str, tmp_path: Path) -> None:
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"bad\.ckpt is not a checkpoint"):
        train(tokenizer_config(store, tmp_path / "run", resume=str(tmp_path / "bad.ckpt")), "run")
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*gone"):
        train(tokenizer_config(store, tmp_path / "run", resume=str(tmp_path / "gone")), "run")


def test_one_flipped_bit_of_a_checkpoint_is_found_before_it_trains(store: str, tmp_path: Path) -> None:
    config = tokenizer_config(store, tmp_path / "run", steps=4)
    train(config, "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged: .* does not match its checksum"):
        train(config.model_copy(update={"steps": 6, "resume": "auto"}), "run")


def test_stages_that_start_from_an_earlier_one_ask_for_it(store: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--init CKPT"):
        train(tokenizer_config(store, tmp_path / "run", start="weights"), "run")
    with pytest.raises(ConfigError, match="--resume CKPT"):
        train(tokenizer_config(store, tmp_path / "run", start="state", resume="auto"), "run")
