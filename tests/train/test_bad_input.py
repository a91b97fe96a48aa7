"""What goes wrong in training is told in one sentence, before it can do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from small_training import BACKBONE, make_features, make_shards, tokenizer_config, world_config

from deltactl.errors import ArtifactError, CheckpointError, ConfigError, DamagedError, StorageError, TrainingError
from deltactl.featurize.store.reader import FeatureStore
from deltactl.locations import Location
from deltactl.train.callbacks.tracking import MetricsLogger
from deltactl.train.callbacks.wandb_login import wandb_mode
from deltactl.train.run import train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("bad") / "shards")


@pytest.fixture(scope="module")
def store(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("bad") / "features")


class Poison(pl.Callback):
    """Makes the loss of one step NaN."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.places: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.places = batch.places.tolist()
            with torch.no_grad():
                pl_module.network.norm.bias.fill_(torch.nan)


@pytest.mark.parametrize("look_every", [1, 50])
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_last_as_it_was(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_every: int
) -> None:
    """Step 6 is poisoned, `last` is of step 5; on a GPU the loss is looked at before the next checkpoint only."""
    if look_every > 1:
        monkeypatch.setattr("deltactl.train.callbacks.guard.CHECK_EVERY_ON_CPU", look_every)
    poison = Poison(6)
    with pytest.raises(TrainingError, match=r"not finite at step 6, on the clips video\d+-") as caught:
        train(tokenizer_config(store, tmp_path / "run"), "run", [poison])
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 5
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())
    assert sum(key in str(caught.value) for key in FeatureStore.open(store).keys) >= 1
    assert poison.places == list(range(48, 56))


def test_a_finished_run_is_not_overwritten(store: str, tmp_path: Path) -> None:
    config = tokenizer_config(store, tmp_path / "run", steps=2)
    train(config, "run")
    with pytest.raises(ArtifactError, match=r"holds a run already.*--resume auto"):
        train(config, "run")


def test_data_is_looked_for_in_the_workspace(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "home"))
    config = tokenizer_config(store, tmp_path / "run", steps=1).model_copy(update={"data": None})
    with pytest.raises(ConfigError, match="nothing to train from.*features or shards"):
        train(config, "run")
    (tmp_path / "home" / "features").mkdir(parents=True)
    (tmp_path / "home" / "features" / "one").symlink_to(store)
    assert train(config, "run").step == 1
    (tmp_path / "home" / "features" / "two").symlink_to(store)
    with pytest.raises(ConfigError, match="several features: one, two"):
        train(config, "run")


def test_the_wrong_kind_of_data_is_named(store: str, golden: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not an artifact.*expected features or shards"):
        train(tokenizer_config(str(golden), tmp_path / "run"), "run")
    from deltactl.configs.tokenize import TokenizeConfig
    from deltactl.tokenization.run import run as tokenize

    out = str(tmp_path / "tokens")
    tokenize(TokenizeConfig(data=store, out=out, tokenizer=str(golden / "deltatok.bin"), device="cpu", workers=0))
    with pytest.raises(ConfigError, match="holds tokens; expected features or shards"):
        train(tokenizer_config(out, tmp_path / "run"), "run")


def test_sizes_that_do_not_fit_name_the_setting(store: str, shards: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"size is set to 256, but .* has 64; leave size out, add --size 64"):
        train(tokenizer_config(store, tmp_path / "run", size=256), "run")
    with pytest.raises(ConfigError, match=r"network.width is set to 64, but .* has 128; .* --set network.width=128"):
        train(tokenizer_config(store, tmp_path / "run", network={"width": 64, "depth": 1}), "run")
    for data in (store, shards):
        network = {"depth": 1, "tokens_per_frame": 17}
        with pytest.raises(ConfigError, match=r"17 tokens a frame are more than its 16 patches \(4 × 4, at 64 px\)"):
            train(tokenizer_config(data, tmp_path / "run", network=network, backbone=str(BACKBONE)), "run")
    with pytest.raises(ConfigError, match="does not divide effective_batch"):
        train(tokenizer_config(store, tmp_path / "run", batch_size=3), "run")


def test_a_network_of_another_kind_or_size_cannot_be_started_from(store: str, golden: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer.*was expected"):
        train(tokenizer_config(store, tmp_path / "run", init=str(golden / "deltaworld.bin")), "run")
    with pytest.raises(CheckpointError, match="depth 2 there, 1 here"):
        train(tokenizer_config(store, tmp_path / "other", init=str(golden / "deltatok.bin")), "run")


def test_damaged_features_are_an_error_that_names_them(shards: str, tmp_path: Path) -> None:
    store = make_features(shards, tmp_path / "features")
    path = Path(store) / "v000" / "000000" / "features" / "c.0.0.0.0"
    data = bytearray(path.read_bytes())
    data[::64] = bytes(len(data[::64]))
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"v000/000000.*checksum"):
        train(tokenizer_config(store, tmp_path / "run"), "run")


def test_damaged_tars_are_an_error_that_names_them(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    tar = Path(shards) / "000000.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    with pytest.raises(DamagedError, match=r"000000\.tar is damaged"):
        train(tokenizer_config(shards, tmp_path / "run"), "run")


def test_frames_that_are_no_images_are_named(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    tar = Path(shards) / "000001.tar"
    data = tar.read_bytes()
    tar.write_bytes(data.replace(b"\xff\xd8\xff", b"\x00\x00\x00"))
    with pytest.raises(DamagedError, match=r"clip video.* of shard 000001 cannot be used"):
        train(tokenizer_config(shards, tmp_path / "run"), "run")


def test_one_source_trains_without_validation(tmp_path: Path) -> None:
    store = make_features(make_shards(tmp_path / "shards", units=1, clips=2), tmp_path / "features")
    result = train(tokenizer_config(store, tmp_path / "run", steps=4, validate_every=2), "run")
    assert result.step == 4
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_a_run_that_cannot_be_written_says_so(store: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((StorageError, ArtifactError, NotADirectoryError)):
        train(tokenizer_config(store, tmp_path / "file" / "run"), "run")


# --- the tracker -----------------------------------------------------------------------------------------------------


def test_wandb_is_never_left_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert wandb_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("auto") == "disabled"
    assert wandb_mode("offline") == "offline"


def test_an_offline_wandb_run_lies_in_the_runs_folder(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 7)
    train(tokenizer_config(store, tmp_path / "run", steps=5, wandb="offline"), "run")
    files = [path for path in (tmp_path / "run" / "wandb").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not any(b"secretsecret" in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_metrics_keep_what_stands_before_the_step_and_widen(tmp_path: Path) -> None:
    file = MetricsLogger(Location.of(tmp_path / "metrics.csv"))
    file.log_metrics({"a": 1.0}, step=1)
    file.log_metrics({"a": 2.0}, step=2)
    file.log_metrics({"b": 3.0}, step=2)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,a,b", "1,1,", "2,2,", "2,,3"]
    again = MetricsLogger(Location.of(tmp_path / "metrics.csv"))
    again.start_at(1)
    again.log_metrics({"a": 5.0}, step=2)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,a,b", "1,1,", "2,5,"]


def test_the_world_model_is_as_careful(shards: str, golden: Path, tmp_path: Path) -> None:
    class PoisonHead(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 1:
                with torch.no_grad():
                    pl_module.network.predictor.head.bias.fill_(np.inf)

    config = world_config(shards, tmp_path / "run", tokenizer=str(golden / "deltatok.bin"))
    with pytest.raises(TrainingError, match="step 1"):
        train(config, "run", [PoisonHead()])
