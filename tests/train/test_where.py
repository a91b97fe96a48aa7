"""`train --where FILE`: clips that a list names do not train, and a run goes on with the same list only."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import Sets, assert_same_state, make_sets, mixed, weights
from small_training import tokenizer_config, world_config

from deltactl.errors import ConfigError, IdentityError
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.train.checkpoints.loading import read
from deltactl.train.data.left_out import LeftOut
from deltactl.train.data.selection import select
from deltactl.train.run import open_data, set_up, train


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return make_sets(tmp_path_factory.mktemp("where"))


def listed(file: Path, keys: list[str]) -> str:
    file.write_text("# clips to leave out\n" + "".join(f"{key}\n" for key in keys))
    return str(file)


def keys_of(store: ClipStore) -> list[str]:
    return sorted(set(store.keys))


@pytest.mark.parametrize("kind", ["features", "tokens", "shards"])
def test_what_is_named_neither_trains_nor_is_held_out_and_the_others_stay_where_they_were(
    kind: str, sets: Sets
) -> None:
    opener = {"features": FeatureStore, "tokens": TokenStore, "shards": ShardSet}[kind]
    index = opener.open(sets[f"{kind}-a"])
    keys = [key for unit in index.units for key in index.keys_of(unit)]
    units, rows = index.origins[1].tolist(), index.origins[2].tolist()
    key_of = [index.keys_of(index.units[unit])[row] for unit, row in zip(units, rows, strict=True)]

    def chosen(left_out: frozenset[str]) -> list[list[str]]:
        return [[key_of[sample] for sample in each.samples[0]] for each in select(index, 0.3, left_out)]

    before, gone = chosen(frozenset()), frozenset(keys[1::3])
    after = chosen(gone)
    assert after == [[key for key in part if key not in gone] for part in before]
    assert sum(map(len, after)) == sum(map(len, before)) - len(gone)


def test_a_run_draws_every_other_clip_once_an_epoch_and_remembers_the_list(sets: Sets, tmp_path: Path) -> None:
    with TokenStore.open(sets["tokens-a"]) as store:
        keys = keys_of(store)
    where = listed(tmp_path / "clips.txt", keys[:5])
    config, opened, labels = open_data(
        world_config(sets["tokens-a"], tmp_path / "run", where=where, validation_fraction=0.0)
    )
    setup, _ = set_up(config, opened, labels, Location.of(tmp_path / "run"))
    selection = setup.data._samples[0].train
    assert setup.data.clips == len(keys) - 5
    order = setup.data._samples[0].training_source(torch.device("cpu"), None)
    epoch = order.keys(np.arange(selection.clips))
    assert sorted(epoch) == sorted(keys[5:])
    record = setup.record.to_json()
    assert record["left_out_sha256"] == LeftOut.read(where).digest
    again = LeftOut.read(listed(tmp_path / "other order.txt", keys[:5][::-1]))
    assert again.digest == record["left_out_sha256"], "neither the place nor the order of a list counts"


def test_a_stopped_run_goes_on_bit_for_bit_with_its_list_and_with_no_other(sets: Sets, tmp_path: Path) -> None:
    with FeatureStore.open(sets["features-a"]) as store:
        keys = keys_of(store)
    where, other = listed(tmp_path / "clips.txt", keys[:4]), listed(tmp_path / "other.txt", keys[2:6])
    data = sets["features-a"]
    train(tokenizer_config(data, tmp_path / "whole", where=where, steps=10), "whole")
    train(tokenizer_config(data, tmp_path / "run", where=where, steps=5), "run")
    for changes, said in (
        ({"where": other}, "it left out other clips than the list of --where names now"),
        ({}, r"it left out clips \(--where\), and none are named now"),
    ):
        with pytest.raises(IdentityError, match=said):
            train(tokenizer_config(data, tmp_path / "run", resume="auto", steps=10, **changes), "run")
    train(tokenizer_config(data, tmp_path / "run", where=where, resume="auto", steps=10), "run")
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    train(tokenizer_config(data, tmp_path / "plain", steps=5), "plain")
    assert "left_out_sha256" not in read(str(tmp_path / "plain")).provenance["data"]
    with pytest.raises(IdentityError, match=r"it left out no clips \(--where\)"):
        train(tokenizer_config(data, tmp_path / "plain", where=where, resume="auto", steps=10), "plain")


def test_one_list_serves_the_sets_of_a_mixture(sets: Sets, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FeatureStore.open(sets["features-a"]) as one, FeatureStore.open(sets["features-b"]) as two:
        keys = {name: keys_of(store) for name, store in (("a", one), ("b", two))}
    only = [key for key in keys["b"] if key not in keys["a"]]
    gone = [*keys["a"][:3], *only[:1], "nowhere-0"]
    where = listed(tmp_path / "clips.txt", gone)
    counts = []
    for changes in ({}, {"where": where}):
        config, opened, labels = open_data(tokenizer_config(mixed(sets, "features"), tmp_path / "run", **changes))
        with caplog.at_level(logging.WARNING):
            setup, _ = set_up(config, opened, labels, Location.of(tmp_path / "run"))
        counts.append([each.train.clips + each.held_out.clips for each in setup.data._samples])
    expected = [sum(key in gone for key in keys[each.set.name[-1]]) for each in setup.data._samples]
    assert [before - after for before, after in zip(*counts, strict=True)] == expected
    assert sum(expected) >= 3
    assert "1 clips of" in caplog.text or "1 clip of" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "expected a list of clips' keys"),
        (b"# nothing\n\n", "names no clip; leave it out"),
        (b"\xff\xfe\n", "is not text"),
        (b"elsewhere-0\n", "names none of the clips of .*elsewhere-0 is not there"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(content: bytes | None, said: str, sets: Sets, tmp_path: Path) -> None:
    file = tmp_path / "clips.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--where .*clips.txt.* {said}|--where .*clips.txt {said}"):
        train(tokenizer_config(sets["features-a"], tmp_path / "run", where=str(file)), "run")


def test_a_list_of_every_clip_leaves_nothing_to_train_on(sets: Sets, tmp_path: Path) -> None:
    with FeatureStore.open(sets["features-a"]) as store:
        where = listed(tmp_path / "clips.txt", keys_of(store))
    with pytest.raises(ConfigError, match="no clip to train on: 0 clips can be read.* are named to be left out"):
        train(tokenizer_config(sets["features-a"], tmp_path / "run", where=where), "run")
