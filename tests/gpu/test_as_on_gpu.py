"""What a GPU would choose, on a CPU: bfloat16, fused AdamW, clipped gradients, compiled networks, many processes.

Every choice that `auto` makes on a GPU is forced here, so that what cannot run there together is found without one.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import printed
from small_training import make_features, make_shards, tokenizer_config, world_config

from deltactl.configs.tokenize import TokenizeConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.world import WorldConfig
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.tokenization.run import run as tokenize
from deltactl.train import run
from deltactl.train.data.batches import Batch
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig
from deltactl.train.steps.choices import Choices, choose
from deltactl.train.steps.compiling import prepare
from deltactl.train.steps.frozen import GPU_BATCH_FRAMES, Frozen
from deltactl.train.steps.modules import TokenizerModule, TrainingModule, WorldModule
from deltactl.train.steps.optimization import OptimizerConfig

SCRIPT = Path(__file__).parents[1] / "helpers" / "as_on_gpu.py"
TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")
WAYS = ["tokenizer/features", "tokenizer/shards", "world/tokens", "world/features", "world/shards"]
CASES = [*(way.replace("world", "deltaworld") for way in WAYS), "dinoworld/features", "dinoworld/shards"]
DDP_CASES = [case for case in CASES if case != "deltaworld/features"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, features and tokens, side by side."""
    root = tmp_path_factory.mktemp("data")
    make_features(make_shards(root / "shards"), root / "features")
    tokenize(
        TokenizeConfig(
            data=str(root / "features"), out=str(root / "tokens"), tokenizer=TOKENIZER, device="cpu", workers=0
        )
    )
    return root


def program(*words: object) -> dict[str, Any]:
    """Run `as_on_gpu.py` and return what it prints."""
    found: dict[str, Any] = json.loads(printed(SCRIPT, *words, timeout=500)[-1])
    return found


# --- the choices -----------------------------------------------------------------------------------------------------


def test_auto_is_bfloat16_fused_and_compiled_on_a_gpu_only() -> None:
    config = WorldConfig()
    assert choose(config, on_gpu=True) == Choices("bf16-mixed", True, False, True, torch.bfloat16, None)
    assert choose(config, on_gpu=False) == Choices("32-true", False, False, False, torch.float32, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"precision": "16-mixed"}, {"fused": False, "frozen": torch.bfloat16}),
        ({"precision": "32-true"}, {"fused": True, "frozen": torch.float32}),
        ({"compile": False}, {"compiled": False, "graphs": False}),
        ({"compile": "graphs"}, {"compiled": True, "graphs": True}),
        ({"frozen_precision": "float32"}, {"frozen": torch.float32}),
        ({"search_precision": "bfloat16"}, {"search": torch.bfloat16}),
    ],
)
def test_settings_outweigh_what_auto_would_choose(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    choices = choose(WorldConfig(**changes), on_gpu=True)
    assert {name: getattr(choices, name) for name in expected} == expected


# --- the trainer -----------------------------------------------------------------------------------------------------


@pytest.fixture
def _as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "choose", lambda config, on_gpu: choose(config, on_gpu=True))


@pytest.mark.usefixtures("_as_on_gpu")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["auto", "bf16-mixed", "32-true"])
@pytest.mark.parametrize("clip_norm", [None, 1e-2])
def test_every_precision_trains_with_a_fused_optimizer_and_clipped_gradients(
    data: Path, tmp_path: Path, precision: str, clip_norm: float | None, accumulate: int
) -> None:
    changes = {"precision": precision, "clip_norm": clip_norm, "batch_size": 8 // accumulate, "compile": False}
    config = tokenizer_config(str(data / "features"), tmp_path / "run", steps=2, **changes)
    assert run.train(config, "run").step == 2
    optimizer = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert all(group["fused"] for group in optimizer["param_groups"])


@pytest.mark.usefixtures("_as_on_gpu")
@pytest.mark.parametrize("case", ["deltaworld", "dinoworld"])
def test_world_models_train_with_the_choices_of_a_gpu(data: Path, tmp_path: Path, case: str) -> None:
    source = "tokens" if case == "deltaworld" else "features"
    network = {"kind": case, "width": 64, "depth": 1, "layer_scale": 0.1}
    changes = {"compile": False, "clip_norm": 1.0, "network": network}
    assert run.train(world_config(str(data / source), tmp_path / "run", steps=2, **changes), "run").step == 2


def test_our_clipping_is_lightnings(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ours", "lightnings"):
        if name == "lightnings":
            monkeypatch.delattr(TrainingModule, "configure_gradient_clipping")
        run.train(tokenizer_config(str(data / "features"), tmp_path / name, steps=4, clip_norm=1e-2), name)
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("ours", "lightnings")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_run_goes_on_where_the_optimizer_is_another_kind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of a GPU goes on on a CPU, and the other way round, each with its own kernels."""
    config = tokenizer_config(str(data / "features"), tmp_path / "run", steps=2, clip_norm=1e-2, precision="32-true")
    for fused in (True, False, True):
        with monkeypatch.context() as patch:
            patch.setattr(run, "choose", lambda config, on_gpu, fused=fused: choose(config, on_gpu=fused))
            run.train(config.model_copy(update={"compile": False}), "run")
        checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        assert {group["fused"] for group in checkpoint["optimizer_states"][0]["param_groups"]} == {fused}
        config = config.model_copy(update={"steps": config.steps + 2, "resume": "auto"})


# --- compiled --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compiled_networks_train_like_the_others_from_every_kind_of_data(data: Path, tmp_path: Path) -> None:
    found = program("train", data, tmp_path, "auto", 1, *CASES)
    assert found.pop("graphs") >= len(CASES)
    assert list(found) == CASES
    for case, losses in found.items():
        assert losses["compiled"] == pytest.approx(losses["eager"], rel=0.01), case


@pytest.mark.slow
@pytest.mark.parametrize("case", DDP_CASES)
def test_two_processes_train_compiled_like_one_without(data: Path, tmp_path: Path, case: str) -> None:
    one = program("train", data, tmp_path / "one", "32-true", 1, case)[case]
    two = program("train", data, tmp_path / "two", "32-true", 2, case)[case]
    assert two["compiled"] == pytest.approx(one["eager"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["tokenizer", "deltaworld", "dinoworld"])
def test_compiled_inside_ddp_no_gradient_is_lost_at_the_published_size(network: str) -> None:
    """Buckets as by default, 25 MB: small networks fit into one, and show nothing."""
    found = program("gradients", network, 25)
    assert found["graphs"] >= 1
    assert found["apart"] < 1e-5, found


def test_a_network_with_a_search_is_not_cut_at_the_buckets() -> None:
    config = torch._dynamo.config
    for network, whole in (("world", True), ("tokenizer", False)):
        module = _module(network)
        with prepare(module, choose(WorldConfig(), on_gpu=True), device_type="cpu", processes=2, accumulate=1):
            assert config.optimize_ddp is not whole
        assert config.optimize_ddp
        assert module.frozen.compiled


def test_graphs_are_for_one_process_and_whole_batches(caplog: pytest.LogCaptureFixture) -> None:
    choices = choose(WorldConfig(compile="graphs"), on_gpu=True)
    for processes, accumulate, expected in ((1, 1, True), (2, 1, False), (1, 4, False)):
        caplog.clear()
        module = _module("world")
        prepare(module, choices, device_type="cpu", processes=processes, accumulate=accumulate)
        assert module.graphs is expected
        assert bool(caplog.records) is not expected


def _module(kind: str) -> TrainingModule:
    settings = OptimizerConfig(1e-3, 0.0, 0)
    if kind == "world":
        sizes = DeltaWorldConfig(token_dim=64, width=64, depth=1, heads=1)
        return WorldModule(DeltaWorld(sizes), settings, Frozen(), 0, queries=4)
    return TokenizerModule(DeltaTok(DeltaTokConfig(width=64, depth=1)), settings, Frozen(), 0)


# --- the frozen networks of live training ----------------------------------------------------------------------------


def test_compiled_networks_see_pieces_of_one_size(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of another size would be compiled for anew, for half a minute."""
    monkeypatch.setattr("deltactl.train.steps.frozen.Compiled", lambda function, *_: function)
    monkeypatch.setattr("deltactl.train.steps.frozen.GPU_BATCH_FRAMES", 8)
    frozen = Frozen(Backbone.load(Path(TOKENIZER).parent / "backbone", "cpu"), compiled=True)
    seen: list[int] = []
    plain = frozen._rounded_features
    frozen._rounded_features = lambda frames: (seen.append(len(frames)), plain(frames))[1]  # type: ignore[method-assign]
    frozen.to(torch.device("cpu"))
    features = {}
    for clips in (5, 3, 1):
        frames = torch.randint(0, 255, (clips, 4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
        batch = Batch("frames", frames.byte(), torch.zeros(clips, 4), torch.arange(clips).numpy())
        features[clips] = frozen.features(batch).data
        assert features[clips].shape[:2] == (clips, 4)
    assert set(seen) == {8}
    assert torch.equal(features[5][:1], features[1]), "what fills a piece up changes nothing"
    assert GPU_BATCH_FRAMES == 256


@pytest.mark.parametrize("kind", ["tokenizer", "world"])
def test_frozen_networks_compute_in_bfloat16_where_that_is_asked_for(data: Path, tmp_path: Path, kind: str) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        changes = {"steps": 2, "log_every": 1, "frozen_precision": precision}
        out = tmp_path / precision
        if kind == "tokenizer":
            run.train(tokenizer_config(str(data / "shards"), out, **changes), "run")
        else:
            run.train(world_config(str(data / "shards"), out, tokenizer=TOKENIZER, **changes), "run")
        with (out / "metrics.csv").open() as file:
            found[precision] = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert found["bfloat16"] != found["float32"]
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.03)


def test_settings_of_the_tokenizer_have_no_search() -> None:
    assert choose(TokenizerConfig(), on_gpu=True).search is None
