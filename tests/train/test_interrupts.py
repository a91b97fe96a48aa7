"""Several processes ask one another often enough to stop in time, and not at every step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from small_training import tokenizer_config

from deltactl.artifacts import Identity
from deltactl.train.callbacks import interrupts as interrupts_module
from deltactl.train.callbacks.agreement import ASK_EVERY
from deltactl.train.callbacks.checkpointing import Checkpoints
from deltactl.train.callbacks.interrupts import ASK_SECONDS, Interrupts
from deltactl.train.checkpoints.trained import Trained
from deltactl.train.data.batches import Batch
from deltactl.train.data.inputs import DataRecord
from deltactl.train.data.module import RunData
from deltactl.train.data.order import BatchPlan
from deltactl.train.data.records import RunRecord
from deltactl.train.loop import Setup, make_trainer
from deltactl.train.steps.choices import choose


def run(monkeypatch: pytest.MonkeyPatch, seconds: float, asked_at: int, steps: int) -> tuple[int, int]:
    """Train steps of so many seconds; another process is told to stop at one. Return the last step, and exchanges."""
    clock, exchanges = [0.0], [0]
    monkeypatch.setattr(interrupts_module.time, "monotonic", lambda: clock[0])

    def reduce(mine: torch.Tensor, reduce_op: str) -> torch.Tensor:
        exchanges[0] += 1
        return mine + torch.tensor([float(trainer.global_step >= asked_at), mine[1].item()])

    trainer = mock.Mock(spec=pl.Trainer)
    trainer.global_step, trainer.max_steps, trainer.world_size = 100, 10_000, 2
    trainer.accumulate_grad_batches, trainer.should_stop = 1, False
    trainer.strategy = SimpleNamespace(reduce=reduce)
    module = mock.Mock(spec=pl.LightningModule, device=torch.device("cpu"))
    batch, checkpoints = mock.Mock(spec=Batch), mock.Mock(spec=Checkpoints)
    callback = Interrupts(checkpoints)
    callback.on_train_start(trainer, module)
    try:
        for step in range(101, 101 + steps):
            trainer.global_step = step
            clock[0] += seconds
            callback.on_train_batch_end(trainer, module, None, batch, 0)
            if trainer.should_stop:
                checkpoints.save_last.assert_called_once_with(trainer)
                break
    finally:
        callback.on_train_end(trainer, module)
    return trainer.global_step, exchanges[0]


def test_slow_steps_stop_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, _ = run(monkeypatch, seconds=8.0, asked_at=133, steps=100)
    assert stopped <= 134
    stopped, _ = run(monkeypatch, seconds=1.0, asked_at=133, steps=100)
    assert stopped - 133 <= ASK_SECONDS


def test_nothing_is_asked_before_each_batch(tmp_path: Path) -> None:
    """Lightning would wait for the GPU there; where it asks by another name, this test has to follow."""
    config = tokenizer_config("features", tmp_path, trainer={"accelerator": "cpu"})
    data = mock.Mock(spec=RunData, held_out=1)
    setup = Setup(
        config, choose(config, on_gpu=False), data, RunRecord.alone(DataRecord(Identity("features", {}), {})), Trained()
    )
    trainer = make_trainer(setup, BatchPlan(8), [], [])
    loop = trainer.fit_loop.epoch_loop
    assert (loop.min_steps, loop.max_steps) == (None, 20)
    with mock.patch("torch.distributed.broadcast") as broadcast:
        _TrainingEpochLoop._broadcast_sigterm_tensor(loop)
        assert broadcast.call_count == 1
        loop._broadcast_sigterm_tensor()
        assert broadcast.call_count == 1


def test_fast_steps_ask_every_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, exchanges = run(monkeypatch, seconds=0.03, asked_at=10_000, steps=200)
    assert stopped == 300
    assert exchanges <= 200 / ASK_EVERY + 1
