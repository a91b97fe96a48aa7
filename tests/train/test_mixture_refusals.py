"""Several sets as they are given on the command line and in files, and which do not go together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from programs import caller
from small_runs import TOKENIZER, Sets, assert_same_state, make_sets, mixed, tokens_of, weights
from small_training import make_features, make_shards, tokenizer_config, world_config

from deltactl.artifacts import Identity, read_header
from deltactl.configs.yaml_text import read_yaml_file
from deltactl.errors import ConfigError
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.locations import Location
from deltactl.train.data.sets import TrainingSet, check_agreement
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.run import train


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return make_sets(tmp_path_factory.mktemp("mixtures"))


# --- on the command line, and in files -------------------------------------------------------------------------------


def test_the_command_takes_sets_a_file_of_them_and_goes_on_without_naming_them(
    sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "workspace"))
    a, b = mixed(sets, "tokens")
    small = read_settings()
    run = caller(capsys)
    code, _, err = run("train", "world", "--data", a, "--data", b, "--steps", "2", *small)
    assert code == 0, err
    out = tmp_path / "workspace" / "runs" / "deltaworld-tokens-a+tokens-b"
    other = "deltaworld-tokens-b+tokens-a"
    out = out if out.exists() else out.with_name(other)
    assert sorted(read_yaml_file(out / "config.yaml")["data"]) == sorted([a, b])
    code, _, err = run("train", "world", "--resume", "auto", "--out", str(out), "--steps", "3")
    assert code == 0, err
    (tmp_path / "mix.yaml").write_text(f"{sets['tokens-a']}: 0.7\n{sets['tokens-b']}: 0.3\n")
    (tmp_path / "mix.json").write_text(json.dumps({sets["tokens-b"]: 3, sets["tokens-a"]: 7}))
    for number, words in enumerate(
        (
            ("--data", str(tmp_path / "mix.yaml")),
            (str(tmp_path / "mix.json"),),
            ("--set", f"data=[{a}, {b}]"),
        )
    ):
        again = tmp_path / f"run{number}"
        code, _, err = run("train", "world", *words, "--steps", "2", "--out", str(again), *small)
        assert code == 0, err
        code, _, err = run("train", "world", "--resume", "auto", "--out", str(again), "--steps", "3")
        assert code == 0, err
        assert_same_state(weights(out), weights(again))
    settings = read_yaml_file(tmp_path / "run0" / "config.yaml")["data"]
    assert settings == [a, b], "the run keeps the sets, not the file, which may change"


def read_settings() -> list[str]:
    values = {"batch_size": 4, "effective_batch": 4, "validation_fraction": 0.2, "wandb": "disabled", "queries": 2}
    network = {"network.width": 64, "network.depth": 1}
    return [word for name, value in {**values, **network}.items() for word in ("--set", f"{name}={value}")]


def test_what_is_given_wrongly_is_one_line(
    sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = sets["tokens-a"], sets["tokens-b"]
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "workspace"))
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "text.yaml").write_text(f"{a}: much\n{b}: 1\n")
    (tmp_path / "zero.json").write_text(json.dumps({a: 0, b: 1}))
    (tmp_path / "twice.yaml").write_text(f"{a}: 1\n{a}: 1\n")
    (tmp_path / "link").symlink_to(a)

    def refusal(*words: str) -> tuple[int, str]:
        code, _, err = caller(capsys)("train", "world", "--out", str(tmp_path / "run"), *words)
        return code, err

    for given, said in (
        ((f"{a}=0", f"{b}=1"), f"the weight of {a} is '0'; expected a number above 0"),
        ((f"{a}=-2", f"{b}=1"), f"the weight of {a} is '-2'; expected a number above 0"),
        ((f"{a}=nan", f"{b}=1"), f"the weight of {a} is 'nan'"),
        ((f"{a}=half", f"{b}=1"), f"the weight of {a} is 'half'"),
        ((f"{a}=1", b), f"{b} has no weight beside others that have one"),
        ((f"{a}=1", f"{b}=1e-9"), f"the weight of {b} is 1e-09 of 1 in all, less than one sample in 1,000,000"),
        ((f"{a}=1", f"{a}=2"), f"{a} is named twice"),
        ((f"{a}=1", f"{tmp_path}/link=2"), f"{a} and {tmp_path}/link are one set"),
        ((f"{a}=1", f"{a}/=2"), f"{a} and {a}/ are one set"),
        ((f"{a}=1", f"{tmp_path}/gone=2"), "gone"),
        (("=1", f"{b}=1"), "the weight 1 stands behind no place"),
        ((str(tmp_path / "mix.yaml"), f"{b}=1"), "mix.yaml is a file of sets, and 1 more are named beside it"),
        ((str(tmp_path / "mix.yaml"),), "mix.yaml is not a file"),
        ((str(tmp_path / "empty.yaml"),), "empty.yaml names no sets"),
        ((str(tmp_path / "text.yaml"),), f"text.yaml: the weight of {a} is 'much'; expected a number above 0"),
        ((str(tmp_path / "zero.json"),), f"zero.json: the weight of {a} is '0'"),
        ((str(tmp_path / "twice.yaml"),), "is there twice"),
    ):
        code, err = refusal(*(word for each in given for word in ("--data", each)))
        assert code == 1, given
        assert said in err, err
        assert err.count("\n") == 1, err
        assert not (tmp_path / "run").exists()
    code, err = refusal(a, "--data", f"{b}=1")
    assert (code, "data is given twice" in err) == (2, True)
    code, err = refusal("--set", "data=3")
    assert code == 1
    assert "the setting 'data' is 3" in err


# --- sets that do not go together ------------------------------------------------------------------------------------


def other_tokenizer(folder: Path, **sizes: Any) -> str:
    torch.manual_seed(9)
    torch.save(DeltaTok(DeltaTokConfig(**{"width": 128, "depth": 1, **sizes})).state_dict(), folder / "other.bin")
    return str(folder / "other.bin")


def unlike(sets: Sets, folder: Path, what: str) -> tuple[str, str, tuple[str, ...]]:
    """Return a kind, a set that is unlike the first of it in something, and what a message says of both."""
    shards = sets["shards-b"]
    match what:
        case "kind":
            return "tokens", sets["features-b"], ("they hold", "tokens in the", "features in the")
        case "shards":
            return "features", shards, ("they hold", "features in the", "shards in the")
        case "layers":
            place = make_features(shards, folder / "other", layers=(1,))
            hashes = (hash_of(sets["features-a"], "backbone"), hash_of(place, "backbone"))
            return "features", place, ("the backbone is", *hashes)
        case "size":
            place = make_features(shards, folder / "other", size=32)
            return "features", place, ("the size is", "64 px in the", "32 px in the")
        case "shape":
            place = make_features(shards, folder / "other", size="32x64")
            return "features", place, ("the size is", "64 px in the", "32x64 px in the")
        case "tokenizer":
            place = tokens_of(sets["features-b"], folder / "other", other_tokenizer(folder))
            hashes = (hash_of(sets["tokens-a"], "tokenizer"), hash_of(place, "tokenizer"))
            return "tokens", place, ("the tokenizer is", *hashes)
    longer = make_shards(folder / "longer", 1, 6, frames=5)
    values = ("clips have", "4 frames in the", "5 frames in the")
    if what == "frames of shards":
        return "shards", longer, values
    place = make_features(longer, folder / "longer-features")
    return "tokens", tokens_of(place, folder / "other"), values


def hash_of(store: str, network: str) -> str:
    """Return how a message shows the hash of a frozen network, behind its name."""
    return f"({read_header(Location.of(store)).identity.text(network)[:12]}…) in the"


@pytest.mark.parametrize(
    "what", ["kind", "shards", "layers", "size", "shape", "tokenizer", "frames of shards", "frames of tokens"]
)
def test_sets_that_do_not_go_together_are_refused_with_both(what: str, sets: Sets, tmp_path: Path) -> None:
    kind, other, expected = unlike(sets, tmp_path, what)
    first = sets[f"{kind}-a"]
    more: dict[str, Any] = {} if kind == "tokens" else {"tokenizer": TOKENIZER}
    config = world_config((f"{first}=1", f"{other}=1"), tmp_path / "run", **more)
    with pytest.raises(ConfigError, match="do not go together") as caught:
        train(config, "run")
    said = str(caught.value)
    assert all(text in said for text in (first, other, *expected)), said
    assert "\n" not in said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_widths_grids_and_tokens_are_compared_by_themselves() -> None:
    """Where two networks share a hash, these cannot differ; a store that says so all the same is refused."""
    identity = Identity("tokens", {"backbone": "b" * 64, "tokenizer": "t" * 64, "size": 64})

    def store(kind: type, **facts: Any) -> TrainingSet:
        values = {"kind": "tokens" if kind is TokenStore else "features", "frames": 4, "dim": 8, **facts}
        return TrainingSet(Mock(spec=kind, identity=identity, root=Location(f"/{len(facts)}{facts}"), **values))

    for kind, one, other, said in (
        (TokenStore, {"tokens_per_frame": 1}, {"tokens_per_frame": 4}, "a frame has 1 token in the first, 4 tokens in"),
        (TokenStore, {"tokens_per_frame": 1, "dim": 8}, {"tokens_per_frame": 1, "dim": 16}, "the width is 8 in the"),
        (FeatureStore, {"grid": (2, 2)}, {"grid": (1, 4)}, "the grid of patches is 2x2 in the first, 1x4 in the"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_agreement([store(kind, **one), store(kind, **other)], same_frames=True)


def test_pairs_may_come_from_clips_of_other_lengths(sets: Sets, tmp_path: Path) -> None:
    longer = make_features(make_shards(tmp_path / "longer", 1, 6, frames=5), tmp_path / "features-longer")
    config = tokenizer_config((f"{sets['features-a']}=1", f"{longer}=1"), tmp_path / "run", steps=3)
    assert train(config, "run").step == 3
