"""Settings: presets are the published recipe, layers win in order, and every mistake is named in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from deltactl.commands.config import show_preset
from deltactl.commands.from_config import option_of
from deltactl.configs.base import FOLLOWS, Config, leaves, merged, parse, settings, with_environment
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.configs.follow import is_set
from deltactl.configs.head import HeadConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.load import (
    PRESETS,
    STAGES,
    load_preset,
    preset_names,
    resolve,
    stage_model,
)
from deltactl.configs.recipe import RecipeConfig
from deltactl.configs.show import to_yaml
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import TrainingConfig
from deltactl.configs.values import OneOf, choices
from deltactl.configs.world import WorldConfig
from deltactl.configs.yaml_text import read_yaml, read_yaml_file, write_value
from deltactl.errors import ConfigError
from deltactl.ingest.settle import resolved
from deltactl.reading import SETTINGS
from deltactl.train.loop import has_published_network

BACKBONE = "DELTACTL_BACKBONE"
DELTATOK = {"weight_decay": 1e-2, "clip_norm": 1e-2}
DELTAWORLD = {"weight_decay": 0.4, "clip_norm": None, "size": 512, "frames": 8, "queries": 256}
PUBLISHED: dict[str, dict[str, Any]] = {
    "deltatok-1-pretrain-256": {**DELTATOK, "size": 256, "lr": 1e-3, "steps": 1_000_000, "start": "scratch"},
    "deltatok-2-finetune-512": {**DELTATOK, "size": 512, "lr": 1e-4, "steps": 500_000, "start": "weights"},
    "deltatok-3-cooldown": {**DELTATOK, "size": 512, "lr": 1e-5, "steps": 550_000, "start": "state"},
    "deltatok-4-cooldown": {**DELTATOK, "size": 512, "lr": 1e-6, "steps": 600_000, "start": "state"},
    "deltaworld": {**DELTAWORLD, "lr": 1e-4, "steps": 300_000, "start": "scratch"},
    "deltaworld-2-cooldown": {**DELTAWORLD, "lr": 1e-5, "steps": 305_000, "start": "state"},
}
DEVICES = {"deltatok-1-pretrain-256": 8, "deltaworld": 32, "deltaworld-2-cooldown": 32}
"""H200 of the published runs; 16 in all others."""
BATCH = {"deltatok-1-pretrain-256": 128, "deltaworld": 32, "deltaworld-2-cooldown": 32}
"""Samples on each of them at a time; 64 in all others."""


def message(**given: Any) -> str:
    """Return the ConfigError of resolving a tokenizer's settings."""
    with pytest.raises(ConfigError) as caught:
        resolve(TokenizerConfig, **given)
    text = str(caught.value)
    assert "\n" not in text
    return text


def load(name: str) -> Config:
    """Return the settings of a preset."""
    return resolve(stage_model(load_preset(name).stage or ""), config=name)


# --- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_stages(name: str) -> None:
    config = load(name)
    assert isinstance(config, TrainingConfig)
    expected = {
        **PUBLISHED[name],
        "effective_batch": 1024,
        "warmup_steps": 5000,
        "validate_every": 5000,
        "checkpoint_every": 50_000,
    }
    values = config.model_dump(mode="json")
    assert {key: values[key] for key in expected} == expected
    assert config.batches(DEVICES.get(name, 16)) == (BATCH.get(name, 64), 1)


def test_the_published_networks_have_vit_b_sizes_and_every_switch_on() -> None:
    tokenizer, world, dino = load("deltatok-4-cooldown"), load("deltaworld-2-cooldown"), load("dinoworld")
    assert isinstance(tokenizer, TokenizerConfig)
    assert isinstance(world, WorldConfig)
    assert isinstance(dino, WorldConfig)
    network = tokenizer.network
    assert (network.width, network.depth, network.layer_scale) == (768, 12, 1e-5)
    switches = (network.delta, network.qk_norm, network.gated_attention, network.swiglu, network.rope_augment)
    assert all(switches)
    assert (world.network.kind, world.network.width, world.network.depth) == ("deltaworld", 768, 12)
    assert dino.network == world.network.model_copy(update={"kind": "dinoworld"})


def test_defaults_are_the_first_published_stages() -> None:
    assert resolve(TokenizerConfig) == load("deltatok-1-pretrain-256")
    assert resolve(WorldConfig) == load("deltaworld")


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_says_what_it_is_and_shows_as_a_file_that_gives_it_back(name: str, tmp_path: Path) -> None:
    preset = load_preset(name)
    assert preset.summary
    assert len(preset.summary) < 90
    config = load(name)
    file = tmp_path / "mine.yaml"
    file.write_text(to_yaml(config, preset.stage or "", preset.summary))
    assert load(str(file)) == config
    assert load_preset(str(file)).summary == preset.summary
    shown = dict(leaves(read_yaml_file(file)))
    hidden = [key for key in settings_of(config) if key not in shown]
    for key in hidden:
        assert f"# {key.rpartition('.')[2]}: " in file.read_text(), f"{key} is not shown"
        assert not is_set(load(str(file)), key), "it still follows the data"
    assert all(not is_set(config, key) for key in hidden)


def settings_of(config: Config) -> list[str]:
    """Return the dotted names of all settings that have a value of their own."""
    return [key for key, _ in leaves(config.model_dump(mode="json"))]


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_of_every_stage_is_explained(stage: str) -> None:
    for name, text in settings(stage_model(stage)):
        assert len(text) > 10, f"{stage}: {name} has no docstring"
        assert text.endswith((".", ")")), f"{stage}: the docstring of {name} is not a sentence"


@pytest.mark.parametrize("stage", [*STAGES, "eval"])
def test_every_stage_shows_its_settings_and_what_has_no_default(stage: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(show_preset, [stage], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    file = tmp_path / "shown.yaml"
    file.write_text(result.output)
    model = stage_model("evaluate" if stage == "eval" else stage)
    required = model.required()
    assert [name for name in model.model_fields if f"\n#{name}:\n" in result.output] == required
    follows = {name for name, field in model.model_fields.items() if field.json_schema_extra == FOLLOWS}
    assert all(f"\n# {name}: " in result.output for name in follows) or required, "they still follow the data"
    assert set(model.model_fields) - set(required) - follows <= set(load_preset(str(file)).values)
    steps = {"one": {"run": "tokenizer"}}
    flags = {name: steps if name == "steps" else "something" for name in required}
    assert resolve(model, config=str(file), flags=flags) == resolve(model, flags=flags)


def test_showing_checks_what_is_given_although_something_is_missing() -> None:
    shown = CliRunner().invoke(show_preset, ["predict", "--set", "video=a.mp4"], catch_exceptions=False)
    assert "\nvideo: a.mp4\n" in shown.output
    assert "\n#world:\n" in shown.output
    for wrong, message in (("vidio=a", "did you mean 'video'"), ("context=0", "greater than or equal to 1")):
        with pytest.raises(ConfigError, match=message) as raised:
            CliRunner().invoke(show_preset, ["predict", "--set", wrong], catch_exceptions=False)
        assert "missing" not in str(raised.value)


def test_every_stage_has_its_module_and_every_module_its_stage() -> None:
    shared = {
        "__init__",
        "backbone_name",
        "base",
        "engine",
        "clips",
        "dataset",
        "follow",
        "frame_size",
        "load",
        "mixture",
        "names",
        "shared",
        "show",
        "training",
        "values",
        "yaml_text",
    }
    assert {path.stem for path in PRESETS.parent.glob("*.py")} - shared == set(STAGES)


def test_recipes_name_presets_of_the_right_stage() -> None:
    recipes = [name for name in preset_names() if load_preset(name).stage == "recipe"]
    assert {"published", "demo"} <= set(recipes)
    for name in recipes:
        recipe = load(name)
        assert isinstance(recipe, RecipeConfig)
        for step in recipe.steps.values():
            if step.config is not None:
                assert load_preset(step.config).stage == step.run


def test_the_published_recipe_chains_the_published_stages() -> None:
    recipe = load("published")
    assert isinstance(recipe, RecipeConfig)
    training = [step for step in recipe.steps.values() if step.run != "tokenize"]
    assert [step.config for step in training] == list(PUBLISHED)
    for step in training:
        start = PUBLISHED[step.config or ""]["start"]
        assert (step.init is not None, step.resume is not None) == (start == "weights", start == "state")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({"a": {"run": "world", "data": "b"}}, "data of the step 'a' is 'b'; expected an earlier step"),
        ({"a": {"run": "world", "tokenizer": "a"}}, "tokenizer of the step 'a' is 'a'; expected an earlier step"),
        ({"a": {"run": "tokenizer"}, "b": {"run": "world", "init": "a"}}, "which runs 'tokenizer'; expected 'world'"),
        ({"a": {"run": "world", "init": "x.ckpt", "resume": "y.ckpt"}}, "has init and resume"),
        ({"a b": {"run": "world"}}, "the step 'a b' is not named with letters"),
        ({}, "steps"),
    ],
)
def test_a_recipe_whose_steps_do_not_fit_is_refused(steps: dict[str, Any], expected: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"stage: recipe\nsteps: {write_value(steps)}\n")
    with pytest.raises(ConfigError, match="steps|step") as caught:
        load(str(file))
    assert expected in str(caught.value)


# --- layers ----------------------------------------------------------------------------------------------------------


def test_each_layer_wins_over_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "stage: tokenizer\nextends: deltatok-3-cooldown\nlr: 3e-4\nbackbone: of-the-file\ntrainer:\n  num_nodes: 2\n"
    )
    given: dict[str, Any] = {"config": str(file)}
    config = resolve(TokenizerConfig, **given)
    assert (config.steps, config.lr, config.backbone, config.trainer.num_nodes) == (550_000, 3e-4, "of-the-file", 2)
    monkeypatch.setenv("DELTACTL_BACKBONE", "of-the-environment")
    assert resolve(TokenizerConfig, **given).backbone == "of-the-environment"
    given["flags"] = {"backbone": "of-the-flag", "seed": None, "trainer.devices": 4}
    config = resolve(TokenizerConfig, **given)
    assert (config.backbone, config.seed, config.trainer.devices, config.trainer.num_nodes) == ("of-the-flag", 0, 4, 2)
    config = resolve(TokenizerConfig, **given, assignments=["lr=1e-3", "trainer.num_nodes=3", "trainer.devices=4"])
    assert (config.lr, config.trainer.num_nodes, config.trainer.devices) == (1e-3, 3, 4)


BEATEN = [
    ("ingest", "dataset: kitti\nsource: x", "source", "KITTI_ROOT"),
    ("evaluate", "root: x", "root", "VSPW_ROOT"),
    ("evaluate", "dataset: cityscapes\nhead: x", "head", "CITYSCAPES_HEAD_PATH"),
    ("evaluate", "rgb_head: x", "rgb_head", "RGB_HEAD_PATH"),
    ("predict", "video: v\ntokenizer: t\nworld: w\nrgb_head: x", "rgb_head", "RGB_HEAD_PATH"),
    ("ingest", "engine: ray\naddress: x", "address", "RAY_ADDRESS"),
    *(
        (
            stage,
            ("video: v\ntokenizer: t\nworld: w\n" if stage == "predict" else "") + "backbone: x",
            "backbone",
            BACKBONE,
        )
        for stage in ("featurize", "tokenize", "tokenizer", "world", "head", "evaluate", "predict")
    ),
]


@pytest.mark.parametrize(("stage", "preset", "setting", "variable"), BEATEN)
def test_the_environment_beats_a_preset_and_a_flag_beats_the_environment(
    stage: str, preset: str, setting: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, model = tmp_path / "mine.yaml", stage_model(stage)
    file.write_text(f"stage: {stage}\n{preset}\n")
    assert getattr(resolve(model, config=str(file)), setting) == "x"
    monkeypatch.setenv(variable, "of-the-environment")
    assert getattr(resolve(model, config=str(file)), setting) == "of-the-environment"
    given = resolve(model, config=str(file), flags={setting: "of-the-flag"})
    assert getattr(given, setting) == "of-the-flag"
    given = resolve(model, config=str(file), assignments=[f"{setting}=of-a-set"])
    assert getattr(given, setting) == "of-a-set"


def test_a_variable_counts_for_its_data_set_or_engine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VSPW_ROOT", "VSPW_HEAD_PATH", "KINETICS_ROOT", "RAY_ADDRESS"):
        monkeypatch.setenv(name, f"of-{name}")
    evaluation = resolve(EvaluateConfig, flags={"dataset": "kitti"})
    assert (evaluation.root, evaluation.head) == (None, None)
    assert resolve(IngestConfig, flags={"source": "videos"}).source == "videos"
    assert resolve(IngestConfig, flags={"dataset": "folder"}).source is None
    assert resolve(IngestConfig).address is None
    assert resolved(IngestConfig()).source == "of-KINETICS_ROOT"


def test_in_python_the_environment_fills_what_was_left_at_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSPW_HEAD_PATH", "of-the-environment")
    assert with_environment(EvaluateConfig()).head == "of-the-environment"
    assert with_environment(EvaluateConfig(head="given")).head == "given"
    assert with_environment(EvaluateConfig(head=None)).head is None
    assert with_environment(EvaluateConfig(dataset="kitti")).head is None


def test_a_name_out_of_a_registry_is_looked_up_when_it_is_needed() -> None:
    names: list[str] = []
    DataSet = Annotated[str, OneOf(lambda: names)]

    class Probe(Config):
        data_set: DataSet = "vspw"
        """Which one."""

    names += ["vspw", "mine"]
    assert parse(Probe, {"data_set": "mine"}).data_set == "mine"
    assert choices(Probe.model_fields["data_set"]) == ["vspw", "mine"]
    with pytest.raises(ConfigError, match="'data_set' is mime; expected 'vspw' or 'mine'; did you mean 'mine'?"):
        parse(Probe, {"data_set": "mime"})
    taken = []
    command = click.command()(option_of(Probe, "data_set")(lambda data_set: taken.append(data_set)))
    names.append("late")
    assert CliRunner().invoke(command, ["--data-set", "late"]).exit_code == 0
    assert taken == ["late"]
    assert "[vspw|mine|late]" in CliRunner().invoke(command, ["--help"]).output
    assert CliRunner().invoke(command, ["--data-set", "no"]).exit_code == 2


@pytest.mark.parametrize(
    ("flags", "assignments", "names"),
    [
        ({"seed": 1}, ["seed=2"], ["--seed 1", "--set seed=2"]),
        ({"trainer.devices": 2}, ["trainer={devices: 4}"], ["--devices 2", "--set trainer={'devices': 4}"]),
        ({}, ["lr=1", "lr=2"], ["--set lr=1", "--set lr=2"]),
    ],
)
def test_a_flag_and_a_set_that_disagree_are_refused_by_name(
    flags: dict[str, Any], assignments: list[str], names: list[str]
) -> None:
    text = message(flags=flags, assignments=assignments)
    assert "disagree" in text
    for name in names:
        assert name in text


def test_a_flag_and_a_set_that_agree_are_fine() -> None:
    assert resolve(TokenizerConfig, flags={"seed": 2}, assignments=["seed=2"]).seed == 2


def test_values_of_set_have_the_types_of_yaml() -> None:
    assignments = [
        "lr=2e-4",
        "clip_norm=null",
        "network.delta=false",
        "trainer.devices=[0, 1]",
        "data=16:32",
        "out='3'",
    ]
    config = resolve(TokenizerConfig, assignments=assignments)
    assert (config.lr, config.clip_norm, config.network.delta) == (2e-4, None, False)
    assert (config.trainer.devices, config.data, config.out) == ((0, 1), "16:32", "3")


@given(st.dictionaries(st.sampled_from("abc"), st.integers() | st.dictionaries(st.sampled_from("xy"), st.integers())))
def test_merging_over_nothing_or_itself_changes_nothing(values: dict[str, Any]) -> None:
    assert merged(values, {}) == merged({}, values) == merged(values, values) == values


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("lrr=1", "unknown setting 'lrr' (from --set); did you mean 'lr'?"),
        ("trainer.devces=1", "unknown setting 'trainer.devces' (from --set); did you mean 'trainer.devices'?"),
        ("devices=1", "unknown setting 'devices' (from --set); did you mean 'trainer.devices'?"),
        ("network.zzzzz=1", "unknown setting 'network.zzzzz' (from --set); known settings: network.delta"),
        ("steps=0", "the setting 'steps' is 0 (from --set); expected a value greater than or equal to 1"),
        ("steps=fast", "the setting 'steps' is fast (from --set); expected an integer"),
        ("steps=1.5", "the setting 'steps' is 1.5 (from --set); expected an integer"),
        ("steps=true", "the setting 'steps' is true (from --set); expected an integer"),
        ("steps='5'", "the setting 'steps' is \"5\" (from --set); expected an integer"),
        ("network.delta=1", "the setting 'network.delta' is 1 (from --set); expected a boolean"),
        ("network.width=100", "the setting 'network.width' is 100 (from --set); expected a multiple of 64"),
        ("start=middle", "expected 'scratch', 'weights' or 'state'"),
        (
            "trainer.devices=x",
            "the setting 'trainer.devices' is x (from --set); expected an integer or a list or 'auto'",
        ),
        ("trainer.devices=0", "trainer.devices is 0; expected at least 1 device, or auto"),
        ("trainer=3", "the setting 'trainer' is 3 (from --set)"),
        ("accumulate=0", "accumulate is 0; expected at least 1, or auto"),
        ("size=8", "the setting 'size' is 8 (from --set); expected N or HxW in pixels"),
        ("lr=nan", "the setting 'lr' is nan (from --set); expected a number"),
        ("lr=1e999", "the value of --set lr is not readable YAML: 1e999 is too large"),
        ("lr=[", "the value of --set lr is not readable YAML"),
        ("lr", "--set 'lr' is not KEY=VALUE"),
        ("=1", "--set '=1' is not KEY=VALUE"),
        ("a..b=1", "--set 'a..b=1' is not KEY=VALUE"),
        ("steps=" + "x" * 10_000, "…"),
    ],
)
def test_a_mistake_in_a_set_is_named_with_value_and_expectation(assignment: str, expected: str) -> None:
    text = message(assignments=[assignment])
    assert expected in text
    assert len(text) < 600


def test_all_mistakes_are_named_at_once() -> None:
    text = message(assignments=["lrr=1", "steps=0"])
    assert "'lrr'" in text
    assert "'steps'" in text


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("lr: -1\n")
    assert f"the setting 'lr' is -1 (from --config {file}); expected a value greater than 0" in message(
        config=str(file)
    )


def test_a_name_that_is_not_utf_8_is_refused_by_name() -> None:
    name = os.fsdecode(b"videos\xff")
    expected = r"'source' is \"videos\\udcff\" \(from --source\), a name that is not UTF-8; rename it, or give a link"
    with pytest.raises(ConfigError, match=expected):
        resolve(IngestConfig, flags={"source": name})


def test_two_starts_are_refused() -> None:
    text = message(assignments=["init=a.ckpt", "resume=b.ckpt"])
    assert "init is 'a.ckpt' and resume is 'b.ckpt'" in text
    assert resolve(TokenizerConfig, assignments=["init=a.ckpt", "resume=auto"]).resume == "auto"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deltatok-3-cooldwn", "there is no preset or file 'deltatok-3-cooldwn'; did you mean 'deltatok-3-cooldown'?"),
        ("quite-another", "`deltactl config list` shows them"),
        ("deltaworld", "--config deltaworld is for 'world'; expected a preset or file for 'tokenizer'"),
        ("absent.yaml", "absent.yaml is not a file"),
        ("../presets/deltaworld", "there is no preset or file"),
    ],
)
def test_a_preset_that_is_not_there_or_not_for_this_is_refused(name: str, expected: str) -> None:
    assert expected in message(config=name)


def test_a_file_may_extend_a_file_beside_it_but_not_itself(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("stage: tokenizer\nseed: 7\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nlr: 1e-2\n")
    config = resolve(TokenizerConfig, config=str(tmp_path / "mine.yaml"))
    assert (config.seed, config.lr) == (7, 1e-2)
    (tmp_path / "base.yaml").write_text("stage: tokenizer\nextends: mine.yaml\n")
    assert "extends itself" in message(config=str(tmp_path / "mine.yaml"))
    (tmp_path / "other.yaml").write_text("stage: tokenizer\nextends: deltaworld\n")
    assert "is for 'tokenizer' but extends deltaworld" in message(config=str(tmp_path / "other.yaml"))


def test_accumulation_keeps_the_effective_batch_or_says_why_it_cannot() -> None:
    config = resolve(TokenizerConfig, config="deltatok-1-pretrain-256")
    assert [config.batches(count) for count in (1, 2, 8)] == [(128, 8), (128, 4), (128, 1)]
    for devices in (3, 2048):
        with pytest.raises(ConfigError, match=f"batch_size 128 on {devices} devices") as caught:
            config.batches(devices)
        assert "effective_batch 1024" in str(caught.value)
    assert resolve(TokenizerConfig, assignments=["accumulate=3"]).batches(16) == (128, 3)
    assert resolve(HeadConfig).batches(1) == (16, 1)


def test_more_devices_than_the_batch_needs_share_it() -> None:
    config = resolve(TokenizerConfig, config="deltatok-1-pretrain-256")
    assert [config.batches(count) for count in (16, 64, 1024)] == [(64, 1), (16, 1), (1, 1)]


@pytest.mark.parametrize("name", ["demo-tokenizer", "demo-world", "demo-head", "demo-rgb"])
def test_a_presets_own_batch_is_no_reason_to_warn(name: str) -> None:
    preset = load_preset(name)
    assert not has_published_network(resolve(stage_model(preset.stage or ""), config=name))
    assert has_published_network(TokenizerConfig(effective_batch=64))
    assert has_published_network(WorldConfig(effective_batch=64))


def test_models_are_frozen_and_refuse_unknown_names_in_python_too() -> None:
    config = EvaluateConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.samples = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="Extra inputs"):
        EvaluateConfig(sampels=3)  # type: ignore[call-arg]


# --- YAML ------------------------------------------------------------------------------------------------------------

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(
    PLAIN | TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT.filter(bool), inner)
)


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert read_yaml(f"key: {write_value(value)}", "test") == {"key": value}
    again = read_yaml(write_value(value), "test")
    assert again == value
    assert type(again) is type(value)


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_one_clear_error(text: str) -> None:
    try:
        read_yaml(text, "test")
    except ConfigError as error:
        assert str(error).startswith("test")


@pytest.mark.parametrize("text", ["no", "on", "16:32", "2020-01-01", "0x10", "1_000", ".inf", ".nan", "nan", "=", "<<"])
def test_words_that_yaml_1_1_would_change_stay_text(text: str) -> None:
    assert read_yaml(text, "test") == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!python/object/apply:os.system [echo]", "the tag"),
        ("a: !!set {x}", "the tag"),
        ("a: &x [1]\nb: *x", "line 1 is not readable YAML: anchors and aliases are not accepted"),
        ("a: 1\nb: 2\na: 3", "line 3 is not readable YAML: the key 'a' is there twice"),
        ("a: {b: 1, b: 2}", "the key 'b' is there twice"),
        ("? [a]\n: 1", "a key is not a word"),
        ("[" * 20_000, "nested too deeply"),
        ("a: [1,\nb: 2", "not readable YAML"),
        ("a: 1\n---\nb: 2", "not readable YAML"),
        ("a: " + "9" * 5000, "not readable YAML"),
        ("a: \x07", "not readable YAML"),
        ('a: "\\ud800"', "lone surrogate"),
        ("- a\n- b", "holds a list; expected settings"),
        ("just words", "holds a str; expected settings"),
    ],
)
def test_hostile_files_are_one_clear_error(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert expected in " ".join(message(config=str(file)).split())


def test_files_that_are_no_text_too_large_or_no_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"a: \xff\xfe")
    assert "is not UTF-8 text: byte 3" in message(config=str(file))
    file.write_bytes(b"# " + b"x" * SETTINGS.bytes)
    assert "more than the 262,144 that a file of settings may have" in message(config=str(file))
    assert "is not a file" in message(config=str(tmp_path / "nothing.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    assert "is a directory, not a file" in message(config=str(tmp_path / "folder.yaml"))
    file.write_text("")
    assert resolve(TokenizerConfig, config=str(file)) == TokenizerConfig()
    file.write_text("stage: tokenizr\n")
    assert "the stage of" in message(config=str(file))
    file.write_text("stage: [tokenizer]\n")
    assert "expected text" in message(config=str(file))
