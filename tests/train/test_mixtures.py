"""Training from several sets with weights: shares, going on after stops, and damage that is named."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from programs import caller
from small_runs import Interrupt, Sets, assert_same_state, make_sets, mixed, weights
from small_training import make_features, tokenizer_config, world_config

from deltactl.errors import DamagedError, IdentityError
from deltactl.featurize.store.reader import FeatureStore
from deltactl.fields import Fields
from deltactl.locations import Location
from deltactl.train.checkpoints.loading import read
from deltactl.train.data.order import ClipOrder
from deltactl.train.data.records import RunRecord
from deltactl.train.data.sources import TokenTable
from deltactl.train.run import open_data, set_up, train


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return make_sets(tmp_path_factory.mktemp("mixtures"))


def ready(config: Any, run: Path) -> Any:
    """Return the data of a run, ready to be read here."""
    config, opened, labels = open_data(config)
    setup, _ = set_up(config, opened, labels, Location.of(run))
    setup.data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    setup.data.prepare_data()
    setup.data.setup("fit")
    return setup.data


class Seen(pl.Callback):
    """Notes which clips each batch is of, in the order of the stream."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, ...]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert trainer.train_dataloader is not None
        self.keys.append(trainer.train_dataloader.source.keys(np.sort(batch.places)))


def header_row(run: Path) -> list[str]:
    with (run / "metrics.csv").open() as file:
        return next(csv.reader(file))


def last_row(run: Path, column: str) -> float:
    with (run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]][-1]


# --- the samples -----------------------------------------------------------------------------------------------------


def test_each_set_has_its_share_and_every_clip_of_it_comes_once_an_epoch(sets: Sets, tmp_path: Path) -> None:
    seen = Seen()
    train(world_config(mixed(sets, "tokens"), tmp_path / "run", steps=30), "run", [seen])
    keys = [key for step in seen.keys for key in step]
    of_sets = [key.rpartition(" of ")[2] for key in keys]
    assert Counter(of_sets) == {"tokens-a": 168, "tokens-b": 72}, "of 240 samples exactly 0.7 and 0.3"
    for number, step in enumerate(seen.keys, 1):
        share = sum(key.endswith("tokens-a") for done in seen.keys[:number] for key in done)
        assert abs(share - 0.7 * 8 * number) <= 0.5, step
    record = read(str(tmp_path / "run")).provenance["data"]["sets"]
    for name in ("tokens-a", "tokens-b"):
        mine, clips = [key for key in keys if key.endswith(name)], record[name]["training_clips"]
        for epoch in range(len(mine) // clips):
            assert len(set(mine[epoch * clips : (epoch + 1) * clips])) == clips


@pytest.mark.parametrize("kind", ["features", "shards", "tokens", "stored tokens"])
def test_what_is_read_is_what_each_set_holds(
    kind: str, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch of a mixture has, for each place, what a source of that set alone has at its own place."""
    if kind == "stored tokens":
        monkeypatch.setattr(TokenTable, "fits", lambda *stores: False)
    stored = kind.split()[-1]
    config: Any = tokenizer_config if stored != "tokens" else world_config
    data = ready(config(mixed(sets, stored), tmp_path / "run"), tmp_path / "run")
    source, places = data.training_source(), np.arange(100, 140)
    batch = source.start(places)()
    assert sorted(batch.places.tolist()) == places.tolist()
    at = data._mixing.at(batch.places)
    assert set(at.number.tolist()) == {0, 1}
    for row, (number, place) in enumerate(zip(at.number.tolist(), at.place.tolist(), strict=True)):
        alone = data._samples[number].training_source(torch.device("cpu"), None).start(np.array([place]))()
        assert torch.equal(batch.data[row], alone.data[0])
        assert torch.equal(batch.times[row], alone.times[0])


def test_one_set_of_weight_one_is_the_order_of_that_set_bit_for_bit(sets: Sets, tmp_path: Path) -> None:
    store = sets["features-a"]
    for name, data in (("place", store), ("weight", (f"{store}=1",)), ("alone", (store,))):
        train(tokenizer_config(data, tmp_path / name, steps=6), name)
    for name in ("weight", "alone"):
        assert_same_state(weights(tmp_path / "place"), weights(tmp_path / name))
        assert weights(tmp_path / "place")["run"] == weights(tmp_path / name)["run"]
    data = ready(tokenizer_config((f"{store}=3",), tmp_path / "run"), tmp_path / "run")
    source, selection = data.training_source(), data._samples[0].train
    order = ClipOrder(selection.shard_sizes, 0).at(np.arange(50))
    with FeatureStore.open(store) as opened:
        assert source.keys(np.arange(50)) == tuple(opened.keys[sample] for sample in selection.at(order))


def test_the_sets_are_shuffled_unlike(sets: Sets, tmp_path: Path) -> None:
    """Two stores of the same clips: each clip's two versions would else always stand side by side."""
    copy = tmp_path / "again"
    shutil.copytree(sets["features-a"], copy)
    config = tokenizer_config((f"{sets['features-a']}=1", f"{copy}=1"), tmp_path / "run")
    source = ready(config, tmp_path / "run").training_source()
    keys = [key.partition(" of ")[0] for key in source.keys(np.arange(40))]
    assert keys[::2] != keys[1::2]


@pytest.mark.parametrize("cut", [(8, 1), (2, 4), (1, 8)])
def test_batches_of_any_size_train_alike(cut: tuple[int, int], sets: Sets, tmp_path: Path) -> None:
    seen = []
    for name, batch in (("whole", 8), ("parts", cut[0])):
        look = Seen()
        config = world_config(mixed(sets, "tokens"), tmp_path / name, steps=4, batch_size=batch, warmup_steps=0)
        train(config, name, [look])
        seen.append([key for step in look.keys for key in step])
    assert seen[0] == seen[1]
    for name, value in weights(tmp_path / "whole")["state_dict"].items():
        assert torch.allclose(value, weights(tmp_path / "parts")["state_dict"][name], atol=1e-4), name


def test_stores_of_other_types_of_numbers_go_together(sets: Sets, tmp_path: Path) -> None:
    """float16 and bfloat16: in float32, which holds both."""
    store = make_features(sets["shards-b"], tmp_path / "features-16", dtype="bfloat16")
    data = ready(tokenizer_config((f"{sets['features-a']}=1", f"{store}=1"), tmp_path), tmp_path / "run")
    batch = data.training_source().start(np.arange(8))()
    assert batch.data.dtype == torch.float32
    for row, (number, place) in enumerate(zip(*vars(data._mixing.at(batch.places)).values(), strict=True)):
        alone = data._samples[number].training_source(torch.device("cpu"), None).start(np.array([place]))()
        assert torch.equal(batch.data[row], alone.data[0].float())


# --- validation, and what a run says ---------------------------------------------------------------------------------


def test_each_set_is_validated_and_the_mean_is_by_the_shares(
    sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deltactl")
    run = tmp_path / "run"
    train(tokenizer_config(mixed(sets, "features"), run, steps=4, validate_every=4, log_every=2), "run")
    a, b = (last_row(run, f"validation/features-{name}/loss") for name in "ab")
    assert a != b
    assert last_row(run, "validation/loss") == pytest.approx(0.7 * a + 0.3 * b, rel=1e-4)
    assert "validation/features-a/copied" in header_row(run)
    assert "features-a: share 0.7, " in caplog.text
    assert "features-b: share 0.3, " in caplog.text
    code, out, err = caller(capsys)("info", str(run), "--json")
    assert code == 0, err
    said = json.loads(out)["provenance"]["data"]
    assert {name: each["share"] for name, each in said["sets"].items()} == {"features-a": 0.7, "features-b": 0.3}
    assert said["training_clips"] == sum(each["training_clips"] for each in said["sets"].values())
    assert said["from"] == "features"
    assert all(each["held_out_clips"] > 0 for each in said["sets"].values())
    code, out, _ = caller(capsys)("info", str(run))
    assert "data.sets.features-a.share" in out


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tokens", "features"])
def test_a_run_that_was_stopped_twice_ends_with_the_same_weights(kind: str, sets: Sets, tmp_path: Path) -> None:
    config: Any = world_config if kind == "tokens" else tokenizer_config
    made = config(mixed(sets, kind), tmp_path / "whole", steps=14, validate_every=4)
    train(made, "whole")
    parts = made.model_copy(update={"out": str(tmp_path / "parts")})
    assert train(parts, "parts", [Interrupt(3)]).step == 4
    resumed = parts.model_copy(update={"resume": "auto"})
    assert train(resumed, "parts", [Interrupt(8, signal.SIGTERM)]).step == 9
    # Which set is named first does not count.
    turned = resumed.model_copy(update={"data": tuple(reversed(resumed.data))})
    assert train(turned, "parts").step == 14
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_every_number_can_be_gone_on_from(sets: Sets, tmp_path: Path) -> None:
    seen = Seen()
    config = world_config(mixed(sets, "tokens"), tmp_path / "whole", steps=7, checkpoint_every=1)
    train(config, "whole", [seen])
    for step in range(1, 7):
        look = Seen()
        checkpoint = str(tmp_path / "whole" / "checkpoints" / f"step-{step:07d}.ckpt")
        out = tmp_path / str(step)
        train(config.model_copy(update={"out": str(out), "resume": checkpoint}), "again", [look])
        assert look.keys == seen.keys[step:]
        assert_same_state(weights(tmp_path / "whole"), weights(out))


def test_other_sets_or_weights_are_refused_on_resuming(sets: Sets, tmp_path: Path) -> None:
    train(world_config(mixed(sets, "tokens"), tmp_path / "run", steps=3), "run")
    train(world_config(sets["tokens-a"], tmp_path / "alone", steps=3), "alone")
    a, b = sets["tokens-a"], sets["tokens-b"]
    extra = tmp_path / "extra"
    shutil.copytree(sets["tokens-b"], extra)
    for run, data, match in (
        ("run", mixed(sets, "tokens", 0.5, 0.5), rf"the share of {b} is 0.5 now, and was 0.3 then"),
        ("run", a, r"tokens-b \(share 0.3\) is not among the sets now"),
        ("run", b, r"tokens-a \(share 0.7\) is not among the sets now"),
        ("run", (*mixed(sets, "tokens"), f"{extra}=1"), rf"{extra} \(share 0.5\) was not among its sets"),
        ("alone", mixed(sets, "tokens"), rf"{b} \(share 0.3\) was not among its sets"),
        ("alone", b, r"shards is [0-9a-f]{64} there, [0-9a-f]{64} here"),
    ):
        config = world_config(data, tmp_path / run, steps=5, resume="auto")
        with pytest.raises(IdentityError, match=match) as caught:
            train(config, run)
        assert "\n" not in str(caught.value)
        assert "start anew from its weights with --init" in str(caught.value)
    same_ratio = world_config((f"{a}=7", f"{b}=3"), tmp_path / "run", steps=5, resume="auto")
    assert train(same_ratio, "run").step == 5, "weights count by their ratio"


def test_a_set_that_was_made_anew_is_named(sets: Sets, tmp_path: Path) -> None:
    store = make_features(sets["shards-b"], tmp_path / "features-b")
    data = (f"{sets['features-a']}=1", f"{store}=1")
    train(tokenizer_config(data, tmp_path / "run", steps=2), "run")
    shutil.rmtree(store)
    make_features(sets["shards-b"], Path(store), seed=5)
    with pytest.raises(IdentityError, match=rf"{store}: seed is 5 there, 0 here"):
        train(tokenizer_config(data, tmp_path / "run", steps=4, resume="auto"), "run")


def test_a_record_that_is_damaged_says_so() -> None:
    one = {"name": "a", "share": "1/2", "identity": {"kind": "tokens", "values": {}}, "groups": {}}
    assert RunRecord.of(Fields({"sets": [one, {**one, "name": "b"}]}, "x.ckpt")).sets[1].name == "b"
    for bad in ({"share": "1/0"}, {"share": "x"}, {"share": "3/2"}, {"share": 0.5}, {"name": 3}, {"groups": []}):
        with pytest.raises(DamagedError, match=r"x\.ckpt is damaged"):
            RunRecord.of(Fields({"sets": [{**one, **bad}, one]}, "x.ckpt"))
    with pytest.raises(DamagedError, match="expected two sets"):
        RunRecord.of(Fields({"sets": [one]}, "x.ckpt"))


# --- damage while a run goes on --------------------------------------------------------------------------------------


class Harm(pl.Callback):
    """Damages the units of a set in the middle of a run."""

    def __init__(self, place: str, how: Callable[[Path], object]) -> None:
        self._files = [path for path in Path(place).rglob("*") if path.is_file() and is_data(path)]
        self._how = how
        assert self._files

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            for path in self._files:
                self._how(path)


def is_data(path: Path) -> bool:
    return path.suffix == ".tar" or path.name.startswith("c.")


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("how", [Path.unlink, cut, zero], ids=["deleted", "truncated", "zeroed"])
@pytest.mark.parametrize("kind", ["features", "tokens", "shards"])
def test_units_that_are_damaged_while_a_run_goes_on_are_named_with_their_set(
    kind: str, how: Callable[[Path], object], sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after repair the run goes on as if nothing had been."""
    monkeypatch.setattr(TokenTable, "fits", lambda *stores: False)
    copy = tmp_path / "harmed"
    shutil.copytree(sets[f"{kind}-b"], copy)
    data = (f"{sets[f'{kind}-a']}=0.6", f"{copy}=0.4")
    config: Any = world_config if kind == "tokens" else tokenizer_config
    made = config(data, tmp_path / "run", steps=8, last_every=2, validate_every=100)
    with pytest.raises(DamagedError) as caught:
        train(made, "run", [Harm(str(copy), how)])
    assert str(copy) in str(caught.value), "the set that is damaged"
    assert sets[f"{kind}-a"] not in str(caught.value), "and no other"
    assert "\n" not in str(caught.value)
    shutil.rmtree(copy)
    shutil.copytree(sets[f"{kind}-b"], copy)
    assert train(made.model_copy(update={"resume": "auto"}), "run").step == 8
    train(made.model_copy(update={"out": str(tmp_path / "whole")}), "whole")
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "run"))
