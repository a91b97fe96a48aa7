"""The alarm that a tokenizer's tokens do nothing: when it is heard, in short runs and long ones, and what it says."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest
from small_training import make_features, make_shards, tokenizer_config

from deltactl.configs.load import resolve
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.world import WorldConfig
from deltactl.train.run import train
from deltactl.train.steps.alarm import LAYER_SCALE, PATIENCE, ZSwapAlarm, is_sick


def heard(alarm: ZSwapAlarm, steps: Iterable[int], z_swap: float = 1.0) -> list[int]:
    """Return the steps at which the alarm says something."""
    return [step for step in steps if alarm.read(step, z_swap)]


@pytest.mark.parametrize(
    ("z_swap", "sick"), [(1.0, True), (1.02, True), (0.98, True), (0.9, True), (1.0201, False), (2.0, False)]
)
def test_tokens_matter_above_two_per_cent(z_swap: float, sick: bool) -> None:
    assert is_sick(z_swap) is sick
    assert bool(heard(ZSwapAlarm(), range(1, 50), z_swap)) is sick


def test_a_ratio_that_is_no_number_says_nothing() -> None:
    assert heard(ZSwapAlarm(), range(1, 50), float("nan")) == []


@pytest.mark.parametrize(
    ("warmup", "steps", "every", "step"),
    [
        (5_000, 1_000_000, 50, 20_050),  # a published stage: three warm-ups after it
        (200, 1_800, 50, 850),  # a small one
        (10, 1_000, 1, 41),
        (0, 1_000, 50, 50 * PATIENCE),  # five readings, without a warm-up
        (5_000, 500_000, 20_000, 100_000),  # and where they lie far apart
        (200, 800, 50, 800),  # too short to wait: the last step
        (200, 200, 50, None),  # never out of the warm-up
    ],
)
def test_it_waits_for_three_warm_ups_and_is_heard_once(warmup: int, steps: int, every: int, step: int | None) -> None:
    alarm = ZSwapAlarm(warmup, last_step=steps)
    assert heard(alarm, range(every, steps + 1, every)) == ([] if step is None else [step])


def test_a_run_that_escapes_soon_after_the_warm_up_is_not_warned_of() -> None:
    alarm = ZSwapAlarm(5_000, last_step=500_000)
    assert heard(alarm, range(50, 19_000, 50)) == []
    assert heard(alarm, range(19_000, 19_050, 50), 1.03) == []
    assert heard(alarm, range(19_050, 34_050, 50)) == [], "counts anew"
    assert heard(alarm, [34_050]) == [34_050]


def test_one_that_escapes_later_says_so_once() -> None:
    alarm = ZSwapAlarm(3)
    assert heard(alarm, range(12, 22)) == [21]
    assert alarm.warning
    assert heard(alarm, [*range(22, 25), 26], 1.3) == [], "one reading is not enough"
    assert alarm.read(27, 1.25) == (
        "at step 27 the z-swap ratio is 1.250, and was above 1.02 in 5 readings in a row: the tokens matter now, and "
        "the warning of step 21 holds no more"
    )
    assert alarm.warning is None
    assert heard(alarm, range(28, 40), 1.3) == []
    assert heard(alarm, range(40, 60)) == [49], "and it is heard again if they cease to matter"


def test_a_dip_between_takes_nothing_back() -> None:
    alarm = ZSwapAlarm()
    heard(alarm, range(1, 6))
    for step in range(6, 60, 4):
        assert heard(alarm, range(step, step + 3), 1.5) == []
        assert heard(alarm, [step + 3]) == []
    assert alarm.warning


def test_what_it_says_of_the_published_settings() -> None:
    alarm = ZSwapAlarm.of(resolve(TokenizerConfig, config="deltatok-1-pretrain-256").model_dump())
    (said,) = filter(None, (alarm.read(step, 1.004) for step in range(50, 40_000, 50)))
    assert said == (
        "at step 20,050 the z-swap ratio is 1.004, and never above 1.02 since step 5,050: with the tokens of other "
        "samples the reconstruction is as good (within 2 %). The decoder ignores the tokens, and a world model would "
        "have nothing to predict. Stop it, and start anew from scratch with, in this order, --set network.layer_scale="
        f"{LAYER_SCALE:g} (here 1e-05); a lower --lr (here 0.001); a longer warm-up, --set warmup_steps=N (here 5000); "
        "clips with more motion, from larger gaps between frames (deltactl ingest --stride)"
    )


def test_it_asks_for_no_larger_layer_scales_where_they_are_large() -> None:
    alarm = ZSwapAlarm(last_step=5, layer_scale=0.5)
    heard(alarm, range(1, 6), 0.9)
    assert alarm.warning
    assert "layer_scale" not in alarm.warning
    assert "Start anew from scratch with, in this order, a lower --lr; a longer" in alarm.warning, "nothing to stop"
    assert "is better. The tokens mislead the decoder" in alarm.warning


def test_settings_of_any_kind() -> None:
    world = ZSwapAlarm.of(resolve(WorldConfig, config="demo-world").model_dump())
    assert (world.warmup_steps, world.last_step, world.lr, world.layer_scale) == (100, 1000, 1e-3, 0.1)
    odd = {"warmup_steps": "a", "steps": None, "lr": 10**400, "network": [1]}
    assert ZSwapAlarm.of(odd) == ZSwapAlarm.of({}) == ZSwapAlarm()


def test_a_training_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Weights that never change leave the decoder as it begins: nearly the identity on the frame before."""
    store = make_features(make_shards(tmp_path / "shards"), tmp_path / "features")
    with caplog.at_level(logging.INFO, logger="deltactl"):
        train(
            tokenizer_config(
                store,
                tmp_path / "run",
                steps=12,
                log_every=1,
                warmup_steps=2,
                lr=1e-12,
                network={"width": 128, "depth": 1, "layer_scale": 1e-5},
            ),
            "run",
        )
    (record,) = [each for each in caplog.records if "z-swap" in each.message]
    assert record.levelname == "WARNING"
    assert record.message.startswith("at step 9 the z-swap ratio is 1.000, and never above 1.02 since step 3: with")
    assert "--set network.layer_scale=0.3 (here 1e-05)" in record.message
