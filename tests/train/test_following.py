"""Size, width, frames, step and backbone are those of the data and the checkpoints at hand, unless they were set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from preset_runs import FEW, ON_CPU, train_by_presets
from small_shards import write_shards
from small_training import BACKBONE, FRAMES, SIZE, make_features, make_shards
from videos import numbered_frame

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.configs.follow import Difference, Fact, follow, is_chosen, is_set, refuse_unused
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.head import HeadConfig
from deltactl.configs.load import resolve
from deltactl.configs.predict import PredictConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.world import WorldConfig
from deltactl.configs.yaml_text import read_yaml
from deltactl.errors import ConfigError
from deltactl.featurize.store.reader import TokenStore
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.loading import load, read
from deltactl.train.checkpoints.trained import Steps, mismatched_checkpoints, trained_of
from deltactl.train.networks.deltaworld import WORLD
from deltactl.train.settle import settle

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("following") / "shards")


@pytest.fixture(scope="module")
def store(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("following") / "features")


@pytest.fixture(scope="module")
def runs(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, its tokens and a world model, trained with the demo's presets on data of other sizes."""
    return train_by_presets(store, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 30 frames, 0.1 s apart."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("video")
    for number in range(30):
        Image.fromarray(numbered_frame(number)).save(folder / f"frame_{number / 10:.1f}.png")
    return str(folder)


def settings_of(run: Path) -> dict[str, Any]:
    content = read_yaml((run / "config.yaml").read_text(), "config.yaml")
    assert isinstance(content, dict)
    return content


# --- the rule --------------------------------------------------------------------------------------------------------


def test_what_was_not_set_follows_and_what_was_stays() -> None:
    config = TokenizerConfig.model_validate({"size": 64, "network": {"depth": 3}})
    facts = [Fact("size", FrameSize.of(128), "X"), Fact("network.width", 384, "X"), Fact("network.depth", 3, "X")]
    followed, differences = follow(config, [*facts, Fact("network.width", 1024, "a later one")])
    assert (followed.size.value, followed.network.width, followed.network.depth) == (64, 384, 3)
    assert differences == [Difference("size", FrameSize.of(64), facts[0])]
    assert str(differences[0]) == "size is set to 64, but X has 128"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ({}, False),
        ({"assignments": ["size=512"]}, True),
        ({"flags": {"size": 512}}, True),
        ({"flags": {"size": None}}, False),
        ({"config": "deltatok-2-finetune-512"}, True),
        ({"config": "demo-tokenizer"}, False),
    ],
)
def test_set_is_what_a_preset_a_flag_or_an_assignment_gave(words: dict[str, Any], given: bool) -> None:
    config = resolve(TokenizerConfig, **words)
    assert is_set(config, "size") is given
    assert not is_set(config, "network.width")


def test_a_setting_without_effect_is_named_only_where_it_was_chosen() -> None:
    config = EvaluateConfig(samples=20)
    assert is_set(config, "samples")
    assert not is_chosen(config, "samples")
    refuse_unused(config, ("--samples", False, "goes with --world"))
    refuse_unused(EvaluateConfig(samples=3), ("--samples", True, "goes with --world"))
    with pytest.raises(ConfigError, match=r"--samples 3 has no effect: it goes with --world; leave it out"):
        refuse_unused(EvaluateConfig(samples=3), ("--samples", False, "goes with --world"))


# --- training --------------------------------------------------------------------------------------------------------


def test_the_demos_presets_train_on_data_of_any_size(runs: Path, shards: str) -> None:
    """As the README says for one's own videos; the store is of 64 px and width 128, clips have 4 frames."""
    tokenizer, world = settings_of(runs / "tokenizer"), settings_of(runs / "world")
    assert (tokenizer["size"], tokenizer["network"]["width"], tokenizer["backbone"]) == (SIZE, 128, str(BACKBONE))
    assert (world["size"], world["frames"], world["network"]["width"]) == (SIZE, FRAMES, 128)
    assert len(TokenStore.open(str(runs / "tokens"))) == 24


@pytest.mark.parametrize("size", [32, 128])
def test_another_size_and_all_the_flags(shards: str, tmp_path: Path, run: Run, size: int) -> None:
    store = str(tmp_path / "features")
    words = ("featurize", shards, "--size", str(size), "--backbone", str(BACKBONE), "--out", store, *ON_CPU)
    assert run(*words)[0] == 0
    out = tmp_path / "run"
    code, _, err = run("train", "tokenizer", store, "--lr", "3e-3", "--set", "network.depth=1", *FEW, "--out", str(out))
    assert code == 0, err
    settings = settings_of(out)
    assert (settings["size"], settings["lr"], settings["steps"], settings["batch_size"]) == (size, 3e-3, 1, 8)
    code, _, err = run("train", "tokenizer", store, "--size", "256", *FEW, "--out", str(tmp_path / "other"))
    assert (code, f"size is set to 256, but {store} has {size}; leave size out, add --size {size}" in err) == (1, True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("network.width=64", r"network.width is set to 64, but .* has 128"),
        ("size=128", rf"size is set to 128, but .* has {SIZE}"),
    ],
)
def test_what_features_cannot_be_is_refused(store: str, tmp_path: Path, assignment: str, words: str) -> None:
    from deltactl.locations import Location
    from deltactl.train.data.inputs import open_input

    config = resolve(TokenizerConfig, assignments=[assignment])
    with pytest.raises(ConfigError, match=words):
        settle(config, open_input(store, ("features",)), Location.of(tmp_path))


@pytest.mark.parametrize("preset", [None, "deltaworld", "demo-world"])
def test_world_models_take_tokens_of_any_size(runs: Path, tmp_path: Path, preset: str | None) -> None:
    """The published stage is for 512 px and clips of 8 frames; that is no reason to refuse others."""
    from deltactl.locations import Location

    tokens = TokenStore.open(str(runs / "tokens"))
    config, notes = settle(resolve(WorldConfig, config=preset), tokens, Location.of(tmp_path))
    assert (config.size.value, config.frames, config.backbone, notes) == (SIZE, FRAMES, str(BACKBONE), [])
    with pytest.raises(ConfigError, match=rf"size is set to 512, but {runs}/tokens has {SIZE}"):
        settle(resolve(WorldConfig, config=preset, flags={"size": 512}), tokens, Location.of(tmp_path))


def test_a_backbone_that_is_not_the_stores_is_refused(store: str, tmp_path: Path, run: Run) -> None:
    import shutil

    other = tmp_path / "backbone"
    shutil.copytree(BACKBONE, other)
    (config,) = other.glob("preprocessor_config.json")
    config.write_text(config.read_text().replace("0.485", "0.5"))
    words = ("train", "tokenizer", store, "--set", "network.depth=1", *FEW)
    code, _, err = run(*words, "--out", str(tmp_path / "one"), "--backbone", str(BACKBONE))
    assert code == 0, err
    if "0.485" in (BACKBONE / "preprocessor_config.json").read_text():
        code, _, err = run(*words, "--out", str(tmp_path / "two"), "--backbone", str(other))
        assert (code, "leave --backbone out: a store brings its own" in err) == (1, True)
        assert f"--backbone is {other} (" in err
        assert f"are of {BACKBONE} (" in err


def test_live_training_follows_the_shards_and_the_backbone(shards: str, tmp_path: Path, run: Run) -> None:
    """Shards for 64 px; the default of 256 would enlarge them."""
    words = ("train", "tokenizer", shards, "--backbone", str(BACKBONE), "--set", "network.depth=1", *FEW)
    code, _, err = run(*words, "--out", str(tmp_path / "run"))
    assert code == 0, err
    settings = settings_of(tmp_path / "run")
    assert (settings["size"], settings["network"]["width"]) == (SIZE, 128)
    code, _, err = run(*words, "--out", str(tmp_path / "large"), "--size", "128")
    assert code == 0, err
    said = f"{shards} holds frames for {SIZE} px: at a size of 128 px they are enlarged"
    assert err.count(said) == 1
    (start,) = json.loads((tmp_path / "large" / "provenance.json").read_text())
    assert start["notes"] == [said]
    assert start["trained"]["size"] == 128


def test_live_training_behind_a_tokenizer_takes_its_size(shards: str, runs: Path, tmp_path: Path, run: Run) -> None:
    words = ("train", "world", shards, "--tokenizer", str(runs / "tokenizer"), "--set", "network.depth=1")
    code, _, err = run(*words, *FEW, "--set", "queries=2", "--out", str(tmp_path / "run"))
    assert code == 0, err
    settings = settings_of(tmp_path / "run")
    assert (settings["size"], settings["backbone"], settings["frames"]) == (SIZE, str(BACKBONE), FRAMES)
    code, _, err = run(*words, *FEW, "--set", "queries=2", "--size", "32", "--out", str(tmp_path / "small"))
    assert code == 0, err
    assert f"was trained at {SIZE} px, and is used at 32 px" in err


@pytest.mark.parametrize("flag", ["--init", "--resume"])
def test_a_network_follows_the_checkpoint_that_it_starts_from(
    store: str, runs: Path, tmp_path: Path, run: Run, flag: str
) -> None:
    words = ("train", "tokenizer", store, flag, str(runs / "tokenizer"), *FEW[2:], "--steps", "2")
    code, _, err = run(*words, "--out", str(tmp_path / "run"))
    assert code == 0, err
    assert settings_of(tmp_path / "run")["network"]["depth"] == 3
    code, _, err = run(*words, "--out", str(tmp_path / "other"), "--set", "network.depth=1")
    assert code == 1
    assert "network.depth" in err or "depth 3 there, 1 here" in err


def test_a_stopped_run_goes_on_with_its_own_settings(store: str, runs: Path, tmp_path: Path, run: Run) -> None:
    words = ("train", "tokenizer", store, "--out", str(tmp_path / "run"))
    assert run(*words, "--config", "demo-tokenizer", *FEW)[0] == 0
    before = settings_of(tmp_path / "run")
    code, out, err = run(*words, "--resume", "auto", "--steps", "2")
    assert code == 0, err
    assert "2 steps done" in out
    assert settings_of(tmp_path / "run") == {**before, "resume": "auto", "steps": 2}


@pytest.mark.parametrize("sizes", [(), (64,), (64, 128)])
def test_a_head_takes_the_size_of_its_shards(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    from deltactl.train.data.heads_inputs import open_head_inputs

    home = tmp_path / "workspace"
    for size in sizes:
        write_shards(home / "shards" / f"vspw-train-{size}", [], dataset="vspw", size=size)
    words = {
        (): "shards/vspw-train-512",
        (64,): "there are no features of .*vspw-train-64",
        (64, 128): "holds vspw-train-128, vspw-train-64; say which: --size SIZE or --shards DIR",
    }
    with pytest.raises(ConfigError, match=words[sizes]):
        open_head_inputs(HeadConfig())
    with pytest.raises(ConfigError, match="vspw-train-256"):
        open_head_inputs(HeadConfig(size=256))
    if sizes:  # and the shards of steps of several frames at the same size
        write_shards(home / "shards" / "vspw-train-2frames-64", [], dataset="vspw", size=64)
        with pytest.raises(ConfigError, match=r"vspw-train-2frames-64, vspw-train-64; say which: --shards DIR"):
            open_head_inputs(HeadConfig(size=64))


# --- features and tokens ---------------------------------------------------------------------------------------------


def test_features_and_tokens_take_the_size_of_shards_and_tokenizer(
    shards: str, runs: Path, tmp_path: Path, run: Run
) -> None:
    code, _, err = run("featurize", shards, "--backbone", str(BACKBONE), "--out", str(tmp_path / "features"), *ON_CPU)
    assert code == 0, err
    values = json.loads((tmp_path / "features" / "artifact.json").read_text())["identity"]
    assert values["size"] == SIZE
    code, _, err = run(
        "tokenize", shards, "--tokenizer", str(runs / "tokenizer"), "--out", str(tmp_path / "t"), *ON_CPU
    )
    assert code == 0, err
    made = json.loads((tmp_path / "t" / "artifact.json").read_text())["identity"]
    assert (made["size"], made["backbone"]) == (SIZE, values["backbone"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "128"), f"size is set to 128, but STORE has {SIZE}"),
        (("--seed", "3"), "seed is set to 3, but STORE has 0"),
        (("--set", "crops=square"), "crops is set to square, but STORE has augment"),
        (("--crop-area", "0.8:1"), "crop_area is set to 0.8:1, but STORE has 0.6:1"),
        (("--flip", "0"), "flip is set to 0.0, but STORE has 0.5"),
    ],
)
def test_what_a_store_has_behind_it_cannot_be_asked_of_its_tokens(
    store: str, runs: Path, tmp_path: Path, run: Run, words: tuple[str, ...], said: str
) -> None:
    out = str(tmp_path / "tokens")
    code, _, err = run("tokenize", store, "--tokenizer", str(runs / "tokenizer"), "--out", out, *ON_CPU, *words)
    assert (code, said.replace("STORE", store) in err) == (1, True)


# --- use -------------------------------------------------------------------------------------------------------------


def test_checkpoints_and_exports_remember_what_they_were_trained_on(runs: Path, tmp_path: Path) -> None:
    export(runs / "world", tmp_path / "exported")
    for place in (runs / "world", tmp_path / "exported"):
        trained = trained_of(str(place))
        assert trained.size == FrameSize.of(SIZE)
        assert trained.steps == Steps(0.2, 0.2, 0.2)
    assert trained_of(str(runs / "world")).backbone == str(BACKBONE)
    assert str(BACKBONE) not in json.dumps(dict(read(tmp_path / "exported").provenance["trained"]))
    assert mismatched_checkpoints([("world", str(runs / "world"))], {}, FrameSize.of(SIZE)) == []


def test_a_prediction_is_made_as_its_networks_were_trained(video: str, runs: Path, tmp_path: Path, run: Run) -> None:
    networks = ("--tokenizer", str(runs / "tokenizer"), "--world", str(runs / "world"))
    words = ("predict", video, *networks, "--samples", "2", "--horizon", "1", *ON_CPU)
    code, _, err = run(*words, "--out", str(tmp_path / "as-trained"))
    assert code == 0, err
    told = json.loads((tmp_path / "as-trained" / "prediction.json").read_text())
    assert (told["size"], told["stride_seconds"], told["warnings"]) == ([SIZE, SIZE], 0.2, [])
    assert f"frames of {SIZE} px, as in the training of --world {runs / 'world'}" in err
    code, _, err = run(*words, "--size", "128", "--stride", "0.4", "--out", str(tmp_path / "otherwise"))
    assert code == 0, err
    told = json.loads((tmp_path / "otherwise" / "prediction.json").read_text())
    assert (told["size"], told["stride_seconds"]) == ([128, 128], 0.4)
    assert len(told["warnings"]) == 3
    assert "--stride is 0.4 s" in told["warnings"][0]
    for option, warning in zip(("tokenizer", "world"), told["warnings"][1:], strict=True):
        assert warning.startswith(f"--{option} {runs / option} was trained at {SIZE} px, and is used at 128 px")
    assert all(warning in err for warning in told["warnings"])


def test_published_weights_that_say_nothing_are_used_at_the_default(
    video: str, golden: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PredictConfig.model_fields["size"], "default", 64)
    PredictConfig.model_rebuild(force=True)
    networks = ("--tokenizer", str(golden / "deltatok.bin"), "--world", str(golden / "deltaworld.bin"))
    words = ("predict", video, *networks, "--backbone", str(BACKBONE), "--samples", "2", "--horizon", "1", *ON_CPU)
    code, _, err = run(*words, "--out", str(tmp_path / "out"))
    monkeypatch.undo()
    PredictConfig.model_rebuild(force=True)
    assert code == 0, err
    assert "frames of 64 px, the default: no network says at which size it was trained" in err


def test_an_evaluation_is_made_as_its_networks_were_trained(runs: Path, trees: Path, tmp_path: Path, run: Run) -> None:
    networks = ("--tokenizer", str(runs / "tokenizer"), "--world", str(runs / "world"))
    words = ("eval", "--dataset", "vspw", "--root", str(trees / "VSPW"), *networks, "--samples", "2", "--limit", "2")
    words += ("--pictures", "0", "--no-cache", *ON_CPU)
    code, _, err = run(*words, "--out", str(tmp_path / "as-trained"))
    assert code == 0, err
    metrics = json.loads((tmp_path / "as-trained" / "metrics.json").read_text())
    assert (metrics["size"], metrics["warnings"]) == (SIZE, [])
    code, _, err = run(*words, "--size", "32", "--out", str(tmp_path / "otherwise"))
    assert code == 0, err
    metrics = json.loads((tmp_path / "otherwise" / "metrics.json").read_text())
    assert metrics["size"] == 32
    assert [f"was trained at {SIZE} px, and is used at 32 px" in warning for warning in metrics["warnings"]] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("said", "known"),
    [
        (
            {"size": 64, "step_seconds": [0.1, 0.2, 0.3], "backbone": "owner/name"},
            (FrameSize.of(64), Steps(0.1, 0.2, 0.3), "owner/name"),
        ),
        ({"size": 64, "step_seconds": None, "backbone": None}, (FrameSize.of(64), None, None)),
        ({"size": "48x80"}, (FrameSize(48, 80), None, None)),
        ({"size": "8x80"}, (None, None, None)),
        ({"size": "64", "step_seconds": [1, 2], "backbone": 3}, (None, None, None)),
        ({"step_seconds": ["a", "b", "c"]}, (None, None, None)),
        ({"step_seconds": [0.3, 0.2, float("nan")]}, (None, None, None)),
        ({"backbone": "no/such/folder"}, (None, None, None)),
        (["size"], (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_headers_that_say_other_things_say_nothing(
    golden: Path, tmp_path: Path, said: object, known: tuple[Any, ...]
) -> None:
    from deltactl.train.checkpoints.headers import HEADER, header_of

    world = load(golden / "deltaworld.bin", WORLD)
    file = tmp_path / "world.ckpt"
    torch.save({"state_dict": world.state_dict(), HEADER: header_of(world, {"trained": said})}, file)
    trained = trained_of(str(file))
    assert (trained.size, trained.steps, trained.backbone) == known


# --- named, and of no use --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--world", "W"), "--world W has no effect: it needs --tokenizer"),
        (("--samples", "3"), "--samples 3 has no effect: it goes with --world"),
        (("--encoding", "parallel"), "--encoding parallel has no effect: it goes with --tokenizer"),
        (("--rgb-head", "R", "--pictures", "0"), "--rgb-head R has no effect: it draws pictures, and --pictures is 0"),
        (
            ("--retry-failed", "--no-cache"),
            "--retry-failed has no effect: it makes cached shards again",
        ),
        (("--head", "HEAD"), "--head: HEAD is a depth head for KITTI; a segmentation head for VSPW was expected"),
        (("--tokenizer", "HEAD"), "--tokenizer: HEAD is a depth head for KITTI; a tokenizer (DeltaTok) was expected"),
        (("--dinoworld", "HEAD"), "--dinoworld: HEAD is a depth head for KITTI"),
        (("--rgb-head", "HEAD"), "--rgb-head: HEAD is a depth head for KITTI; a RGB head was expected"),
    ],
)
def test_what_an_evaluation_cannot_use_is_named(
    trees: Path, golden: Path, run: Run, words: tuple[str, ...], said: str
) -> None:
    head = str(golden / "head_kitti.bin")
    given = [head if word == "HEAD" else word for word in words]
    base = ("eval", "--dataset", "vspw", "--root", str(trees / "VSPW"), "--backbone", str(BACKBONE), "--size", "64")
    code, _, err = run(*base, *ON_CPU, *given)
    assert (code, said.replace("HEAD", head) in err) == (1, True), err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--tokenizer", "--tokenizer: HEAD is a depth head"),
        ("--world", "--world: HEAD is a depth head"),
        ("--rgb-head", "--rgb-head: HEAD is a depth head"),
    ],
)
def test_what_a_prediction_cannot_use_is_named(video: str, golden: Path, run: Run, option: str, said: str) -> None:
    head = str(golden / "head_kitti.bin")
    given = {"--tokenizer": str(golden / "deltatok.bin"), "--world": str(golden / "deltaworld.bin"), option: head}
    words = [word for pair in given.items() for word in pair]
    code, _, err = run("predict", video, "--backbone", str(BACKBONE), "--size", "64", *ON_CPU, *words)
    assert (code, said.replace("HEAD", head) in err) == (1, True), err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "tokenizer", "STORE", "--set", "block_shards=2"), "--set block_shards=2 has no effect"),
        (("train", "tokenizer", "STORE", "--set", "evaluate_clips=2"), "--set evaluate_clips=2 has no effect"),
        (("train", "tokenizer", "STORE", "--set", "kitti_split_file=F"), "--set kitti_split_file=F has no effect"),
        (("train", "world", "STORE", "--config", "dinoworld", "--tokenizer", "T"), "--tokenizer T has no effect"),
        (("train", "world", "STORE", "--config", "dinoworld", "--set", "queries=2"), "--set queries=2 has no effect"),
        (("tokenize", "STORE", "--tokenizer", "TOKENIZER", "--batch-size", "3"), "--batch-size 3 has no effect"),
        (("ingest", "TREE", "--dataset", "vspw", "--seed", "3"), "--seed 3 has no effect: it draws the times"),
        (("ingest", "TREE", "--dataset", "vspw", "--quality", "90"), "--quality 90 has no effect"),
        (("ingest", "TREE", "--dataset", "vspw", "--decoder", "pyav"), "--decoder pyav has no effect"),
        (("ingest", "TREE", "--dataset", "vspw", "--time-limit", "5"), "--time-limit 5.0 has no effect"),
        (("verify", "STORE", "--backbone", "B"), "--backbone B has no effect: it goes with --repair"),
        (("verify", "STORE", "--shards", "S"), "--shards S has no effect: it goes with --repair"),
        (("featurize", "SHARDS", "--set", "crops=square", "--seed", "4"), "--seed 4 has no effect"),
    ],
)
def test_no_command_leaves_out_what_was_named(
    shards: str, store: str, trees: Path, golden: Path, tmp_path: Path, run: Run, words: tuple[str, ...], said: str
) -> None:
    places = {"STORE": store, "SHARDS": shards, "TREE": str(trees / "VSPW"), "TOKENIZER": str(golden / "deltatok.bin")}
    given = [places.get(word, word) for word in words]
    if words[0] == "featurize":
        given += ["--backbone", str(BACKBONE)]
    code, _, err = run(*given, *(() if words[0] == "verify" else ("--out", str(tmp_path / "out"))))
    assert (code, said in err) == (1, True), err
    assert not (tmp_path / "out").exists()
