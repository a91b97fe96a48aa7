"""`deltactl plan`: its arithmetic is that of the networks, the stores and the published runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from small_training import FRAMES, SIZE, make_features, make_shards, tokenizer_config
from torch import nn

from deltactl.commands.plan import command
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.load import resolve
from deltactl.configs.recipe import RecipeConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import ConfigError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.backbones.dinov3 import PUBLISHED, Sizes, outline_of_sizes
from deltactl.featurize.backbones.known import outline_of
from deltactl.recipes.costs import (
    Cost,
    DataSize,
    Machine,
    feature_layout,
    networks_told,
    recipe_costs,
    repeats,
    token_layout,
    with_networks,
)
from deltactl.recipes.rates import Rates, measure, paper_h200, rates_of
from deltactl.recipes.work import NetworkSizes, counted_flops
from deltactl.tokenization.run import run as tokenize
from deltactl.train.data.module import TrainingData
from deltactl.train.data.set_samples import DataSettings
from deltactl.train.data.sets import open_sets
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig

PUBLISHED_GPU_HOURS = {
    "deltatok-1": 8 * 82,
    "deltatok-2": 16 * 89,
    "deltatok-3": 16 * 9,
    "deltatok-4": 16 * 9,
    "deltaworld-1": 32 * 32,
}


def costs_of(data: DataSize, *, live: bool = False) -> dict[str, Cost]:
    """Return the costs of the published recipe by name."""
    recipe = resolve(RecipeConfig, config="published")
    return {cost.name: cost for cost in recipe_costs(recipe, data, paper_h200(), live=live)}


def test_kinetics_with_one_clip_and_view_takes_what_is_known() -> None:
    costs = costs_of(DataSize(clips=1))
    assert costs["featurize 256"].written_bytes == pytest.approx(1.7e12, rel=0.02)
    assert costs["featurize 512"].written_bytes == pytest.approx(6.7e12, rel=0.02)
    assert costs["tokens"].written_bytes == pytest.approx(6.6e9, rel=0.02)
    assert costs["deltatok-1"].repeats == pytest.approx(273, abs=0.5)


def test_more_clips_and_views_repeat_less() -> None:
    assert costs_of(DataSize(clips=8, views=4))["deltatok-1"].repeats == pytest.approx(8.5, abs=0.05)
    live = costs_of(DataSize(clips=8, views=4), live=True)["deltatok-1"]
    assert live.fresh_crops
    assert live.repeats == pytest.approx(34, abs=0.2), "each clip, under other crops"


def test_views_can_differ_by_size() -> None:
    costs = costs_of(DataSize(clips=1, views=1, views_at={FrameSize.of(256): 4}))
    assert costs["featurize 256"].written_bytes == pytest.approx(4 * 1.7e12, rel=0.02)
    assert costs["featurize 512"].written_bytes == pytest.approx(6.7e12, rel=0.02)
    assert costs["deltatok-1"].repeats == pytest.approx(273 / 4, abs=0.2)
    assert costs["tokens"].written_bytes == pytest.approx(6.6e9, rel=0.02)


def plan_of(**steps: dict[str, Any]) -> dict[str, Cost]:
    """Return the costs of a recipe by name, for Kinetics-700 with one clip."""
    recipe = RecipeConfig.model_validate({"steps": steps})
    return {cost.name: cost for cost in recipe_costs(recipe, DataSize(clips=1), paper_h200())}


def test_a_step_is_live_where_its_data_are_shards() -> None:
    tokenizer = {"run": "tokenizer", "config": "deltatok-1-pretrain-256"}
    tokens = {"run": "tokenize", "tokenizer": "tokenizer"}
    world = {"run": "world", "config": "deltaworld", "settings": {"size": 256}}
    live = plan_of(tokenizer={**tokenizer, "data": "shards/kinetics"}, tokens=tokens, world={**world, "data": "tokens"})
    assert list(live) == ["ingest", "tokenizer", "tokens", "world"]
    assert live["tokenizer"].fresh_crops
    assert "from shards" in live["tokens"].what
    assert "from tokens" in live["world"].what
    cached = plan_of(tokenizer=tokenizer, tokens=tokens, world={**world, "data": "s3://bucket/features"})
    assert list(cached) == ["ingest", "featurize 256", "tokenizer", "tokens", "world"]
    frames = cached["world"].gpu_seconds - live["world"].gpu_seconds
    steps = 300_000 * 1024 * 8
    assert frames == pytest.approx(steps * NetworkSizes(FrameSize.of(256)).encode_flops() / paper_h200().forward), (
        "encoded in the loop"
    )
    assert cached["world"].read_bytes == pytest.approx(256 * live["world"].read_bytes), "patches, not tokens"


def test_more_tokens_of_a_frame_are_more_bytes_and_more_work() -> None:
    recipe, data = resolve(RecipeConfig, config="published"), DataSize(clips=1)

    def costs(**tokens: int) -> dict[str, Cost]:
        return {cost.name: cost for cost in recipe_costs(recipe, data, paper_h200(), tokens=tokens)}

    one, many, narrow = costs(), costs(tokens_per_frame=32), costs(tokens_per_frame=32, token_dim=32)
    assert costs(tokens_per_frame=1, token_dim=768) == one
    world = next(name for name in one if name.startswith("deltaworld"))
    assert many["tokens"].written_bytes == 32 * one["tokens"].written_bytes
    assert narrow["tokens"].written_bytes == 32 / 24 * one["tokens"].written_bytes
    assert many[world].read_bytes == 32 * one[world].read_bytes
    # What one token adds to two frames' patches, of which there are 2 × 256 and 2 × 1024.
    assert 1.05 < many["deltatok-1"].gpu_seconds / one["deltatok-1"].gpu_seconds < 1.15
    assert 1.01 < many["tokens"].gpu_seconds / one["tokens"].gpu_seconds < 1.04
    assert 30 < many[world].gpu_seconds / one[world].gpu_seconds < 45, "as many queries as tokens"
    assert many["featurize 256"] == one["featurize 256"]


def test_the_command_takes_the_tokens_of_a_frame() -> None:
    words = ["--clips", "1", "--table", "markdown"]

    def written(*more: str) -> str:
        result = CliRunner().invoke(command, [*words, *more])
        assert result.exit_code == 0, result.output
        (row,) = (line for line in result.output.splitlines() if line.startswith("| tokens "))
        return row.split(" | ")[5]

    assert written() == "6.59 GB"
    assert written("--tokens-per-frame", "32") == "211 GB"
    assert written("--tokens-per-frame", "32", "--token-dim", "32") == "8.78 GB"
    assert CliRunner().invoke(command, [*words, "--tokens-per-frame", "0"]).exit_code == 2


def test_more_tokens_than_patches_are_refused_before_anything_is_counted() -> None:
    result = CliRunner().invoke(command, ["--size", "64", "--tokens-per-frame", "17"])
    assert "17 tokens a frame are more than its 16 patches (4 × 4, at 64 px)" in str(result.exception)
    assert CliRunner().invoke(command, ["--size", "64", "--tokens-per-frame", "16"]).exit_code == 0


def test_tokens_of_a_tokenizer_that_is_not_trained_here_are_of_the_world_models_backbone() -> None:
    tokens = {"run": "tokenize", "tokenizer": "runs/mine", "data": "shards/kinetics"}
    world = {"run": "world", "config": "deltaworld", "data": "tokens"}
    large = {**world, "settings": {"backbone": "facebook/dinov3-vitl16-pretrain-lvd1689m"}}
    base, wide = (plan_of(tokens=tokens, world=each)["tokens"] for each in (world, large))
    assert wide.written_bytes / base.written_bytes == pytest.approx(1024 / 768, rel=0.01)
    assert wide.gpu_seconds > 2 * base.gpu_seconds


def test_a_plan_says_what_it_took_backbones_for() -> None:
    settings = {"backbone": "weights/small", "size": 512}
    recipe = RecipeConfig.model_validate(
        {
            "steps": {
                "a": {"run": "tokenizer", "config": "deltatok-1-pretrain-256"},
                "b": {"run": "tokenizer", "config": "deltatok-1-pretrain-256", "settings": settings},
            }
        }
    )
    known, assumed = networks_told(recipe)
    assert known.startswith("counted: backbone facebook/dinov3-vitb16-pretrain-lvd1689m, by its name or folder: ")
    assert known.endswith("patches of 16 px, 768 wide, 12 blocks; a frame of 256 px is 16 × 16 patches")
    assert assumed.startswith("assumed: backbone weights/small, nothing is known of its size, so like facebook/dinov3-")
    recipe = with_networks(recipe, size=FrameSize(266, 518), backbone="facebook/dinov2-base?layers=3,6")
    (line,) = networks_told(recipe)
    assert line.endswith("patches of 14 px, 1536 wide, 6 blocks; a frame of 266x518 px is 19 × 37 patches")
    video = with_networks(recipe, size=FrameSize(256, 256), backbone="facebook/vjepa2-vitl-fpc64-256")
    assert "1024 wide, 24 blocks, a step of 2 frames" in networks_told(video)[0]


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("facebook/dinov2-base?layers=13", "has 12 layers; layers 13 are not there: choose from 1 to 12"),
        ("facebook/dinov3-convnext-tiny-x?layers=5&norm=off", "has 4 layers; layers 5 are not there"),
        ("facebook/dinov3-convnext-tiny-x?layers=2,3&norm=off", "layers 2,3 are stages of different grids"),
    ],
)
def test_layers_that_are_not_there_are_refused_by_a_plan_too(backbone: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        with_networks(resolve(RecipeConfig, config="published"), size=None, backbone=backbone)


def test_tokens_straight_from_shards_have_the_views_of_their_step() -> None:
    tokens = {"run": "tokenize", "tokenizer": "Amazon-FAR/deltatok-kinetics", "data": "shards/kinetics"}
    world = {"run": "world", "config": "deltaworld", "data": "tokens"}
    one = plan_of(tokens=tokens, world=world)
    four = plan_of(tokens={**tokens, "settings": {"views": 4}}, world=world)
    assert four["tokens"].written_bytes == 4 * one["tokens"].written_bytes
    assert four["world"].repeats == one["world"].repeats / 4  # type: ignore[operator]


def test_dino_world_needs_features_and_its_own_backbone() -> None:
    large = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    costs = plan_of(world={"run": "world", "config": "dinoworld", "settings": {"backbone": large}})
    assert list(costs) == ["ingest", "featurize 512", "world"]
    assert costs["featurize 512"].written_bytes == pytest.approx(6.7e12 * 1024 / 768, rel=0.02)
    work = (
        costs["featurize 512"].gpu_seconds
        / plan_of(world={"run": "world", "config": "dinoworld"})["featurize 512"].gpu_seconds
    )
    assert work == pytest.approx(2 * (1024 / 768) ** 2, rel=0.1), "twice the blocks, of larger matrices"


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_work_of_every_backbone_is_that_of_its_matrices(name: str) -> None:
    sizes, outline = PUBLISHED[name], outline_of(f"facebook/dinov3-{name}-pretrain-lvd1689m")
    assert outline is outline_of_sizes(sizes)
    tokens = 16 + 5  # patches, and the class and register tokens
    weights = (4 * sizes.width + (3 if sizes.gated else 2) * sizes.hidden) * sizes.width
    block = 2 * tokens * weights + 4 * tokens**2 * sizes.width
    patches = 2 * 16 * 3 * 16**2 * sizes.width
    assert NetworkSizes(FrameSize.of(64), outline).backbone_flops() == sizes.depth * block + patches


def test_published_stages_cost_what_was_published() -> None:
    costs = costs_of(DataSize(clips=8), live=True)
    for name, hours in PUBLISHED_GPU_HOURS.items():
        assert costs[name].gpu_seconds / 3600 == pytest.approx(hours, rel=0.25), name
    assert sum(cost.gpu_seconds for cost in costs.values()) / 3600 == pytest.approx(3400, rel=0.05)


@pytest.mark.parametrize(("size", "backbone", "frozen"), [(256, 0.17, 0.84), (512, 0.17, 0.96)])
def test_shares_of_the_frozen_networks(size: int, backbone: float, frozen: float) -> None:
    networks = NetworkSizes(FrameSize.of(size))
    features_of_pair = 2 * networks.backbone_flops()
    assert features_of_pair / (features_of_pair + networks.tokenizer_step_flops()) == pytest.approx(backbone, abs=0.02)
    clip = 8 * (networks.backbone_flops() + networks.encode_flops())
    assert clip / (clip + networks.world_step_flops(8, 256)) == pytest.approx(frozen, abs=0.02)


def test_a_cache_pays_once_its_frames_have_been_used() -> None:
    costs = costs_of(DataSize(clips=1))
    assert costs["deltatok-1"].break_even_steps == pytest.approx(536_000 * 8 / 2 / 1024)
    live = costs_of(DataSize(clips=1), live=True)["deltatok-1"].gpu_seconds / 1_000_000
    cached = costs["deltatok-1"].gpu_seconds / 1_000_000
    steps = costs["deltatok-1"].break_even_steps
    assert costs["featurize 256"].gpu_seconds + steps * cached == pytest.approx(steps * live, rel=1e-6)


def test_the_slowest_part_sets_the_pace() -> None:
    cost = Cost("c", "", gpu_seconds=800.0, core_seconds=1600.0, read_bytes=2e12)
    assert cost.parts(Machine(paper_h200())) == {"GPU": 100.0, "decoding": 12.5, "reading": 1000.0}
    assert cost.bottleneck(Machine(paper_h200())) == "reading"
    assert cost.bottleneck(Machine(paper_h200(), read_bytes_per_second=1e11)) == "GPU"


@pytest.mark.parametrize(("batch", "least", "most"), [(32, 0.70e-3, 0.85e-3), (128, 0.62e-3, 0.69e-3)])
def test_training_from_tokens_is_more_than_matrix_products_on_a_gpu(batch: int, least: float, most: float) -> None:
    h200, networks = paper_h200(), NetworkSizes(FrameSize.of(512))
    clip = h200.world_seconds(networks, frames=8, queries=256, batch=batch)
    assert least < clip < most, "reckoned kernel by kernel"
    products = networks.world_step_flops(8, 256)
    assert clip > 1.4 * products / h200.forward
    assert rates_of("a100").world_seconds(networks, frames=8, queries=256, batch=batch) > 2 * clip
    on_a_cpu = Rates(1e12, 1e12, "measured with all that is between products")
    assert on_a_cpu.world_seconds(networks, frames=8, queries=256, batch=batch) == products / 1e12


def test_many_gpus_share_a_batch() -> None:
    recipe, world = resolve(RecipeConfig, config="published"), "deltaworld-1"
    few, many = (
        {cost.name: cost for cost in recipe_costs(recipe, DataSize(), paper_h200(), gpus=gpus)} for gpus in (8, 32)
    )
    each = paper_h200().world_seconds(NetworkSizes(FrameSize.of(512)), frames=8, queries=256, batch=32)
    assert many[world].gpu_seconds == pytest.approx(300_000 * 1024 * each)
    assert few[world].gpu_seconds < many[world].gpu_seconds


@pytest.mark.parametrize("changes", [{}, {"swiglu": False}, {"tokens_per_frame": 4}, {"token_dim": 32}])
def test_the_work_is_that_of_the_real_networks(changes: dict[str, Any], golden: Path) -> None:
    outline = outline_of_sizes(Sizes(128, 2, 512))
    networks = NetworkSizes(FrameSize.of(64), outline, DeltaTokConfig(width=128, depth=3, **changes))
    grid, batch = (4, 4), 3
    tokenizer = DeltaTok(networks.tokenizer)
    frames = torch.randn(2, batch, 16, 128)
    token = torch.randn(batch, networks.tokenizer.tokens_per_frame, networks.tokenizer.token_width)
    assert counted_flops(lambda: tokenizer.encode(frames[0], frames[1], grid)) == batch * networks.encode_flops()
    assert counted_flops(lambda: tokenizer.decode(token, frames[0], grid)) == batch * networks.decode_flops()
    step = counted_flops(lambda: tokenizer(frames[0], frames[1], grid).square().mean().backward())
    assert step == batch * networks.tokenizer_step_flops()
    assert step == 3 * batch * (networks.encode_flops() + networks.decode_flops()), "one forward pass, two backward"
    backbone = Backbone.load(str(golden / "backbone"), "cpu", torch.float32)
    pixels = torch.zeros(batch, 3, 64, 64, dtype=torch.uint8)
    assert counted_flops(lambda: backbone(pixels)) == batch * networks.backbone_flops()


def test_a_tokenizer_without_deltas_encodes_one_frame_and_not_two() -> None:
    both, one = (
        NetworkSizes(FrameSize.of(64), tokenizer=DeltaTokConfig(width=128, depth=2, delta=delta))
        for delta in (True, False)
    )
    assert one.encode_flops() / both.encode_flops() == pytest.approx(17 / 33, rel=0.05)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_work_of_best_of_many_is_that_of_the_real_network(depth: int, count: int) -> None:
    sizes = DeltaWorldConfig(token_dim=128, width=128, depth=depth, heads=2, tokens_per_frame=count)
    networks = NetworkSizes(FrameSize.of(64), world=sizes)
    world = DeltaWorld(sizes)
    clips, times = torch.randn(2, 8, count, 128), torch.arange(8.0).expand(2, 8)
    queries = 0.02 * torch.randn(2, 7, 64, 128)
    counted = counted_flops(lambda: world(clips, times, queries).loss.backward())
    assert counted == 2 * networks.world_step_flops(8, 64)
    mlps = 2 * 8 * 128**2 * depth * count * queries[..., 0].numel()
    assert mlps < counted < 2 * mlps, "each query passes through the MLPs, which are most of it"


def test_the_work_of_dino_world_is_that_of_the_real_network() -> None:
    networks = NetworkSizes(FrameSize.of(64), world=DinoWorldConfig(feature_dim=128, width=64, depth=3, heads=1))
    world = DinoWorld(networks.world)
    clips, times = torch.randn(2, 4, 16, 128), torch.arange(4.0).expand(2, 4)
    counted = counted_flops(lambda: world(clips, times, (4, 4)).square().mean().backward())
    assert counted == 2 * networks.world_step_flops(4)


def test_matrix_products_are_what_is_counted() -> None:
    layer = nn.Linear(8, 16)
    assert counted_flops(lambda: layer(torch.zeros(4, 8)).relu()) == 2 * 4 * 8 * 16


def test_a_tokenizer_follows_its_backbone_unless_its_width_is_set() -> None:
    tokenizer = {"run": "tokenizer", "config": "deltatok-1-pretrain-256"}
    large = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    base, follows, narrow = (
        plan_of(tokenizer={**tokenizer, "settings": settings})["featurize 256"]
        for settings in ({}, {"backbone": large}, {"backbone": "weights/small", "network": {"width": 384}})
    )
    assert follows.written_bytes / base.written_bytes == 1024 / 768
    assert follows.gpu_seconds / base.gpu_seconds == pytest.approx(2 * (1024 / 768) ** 2, rel=0.1)
    assert narrow.written_bytes / base.written_bytes == 1 / 2
    assert narrow.gpu_seconds / base.gpu_seconds == pytest.approx(1 / 4, rel=0.1)


def test_bytes_and_repeats_are_those_of_small_real_runs(tmp_path: Path, golden: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    store = make_features(shards, tmp_path / "features", views="2")
    tokenizer = str(golden / "deltatok.bin")
    tokenize(TokenizeConfig(data=store, tokenizer=tokenizer, out=str(tmp_path / "tokens"), device="cpu", workers=0))
    data = DataSize(videos=12, clips=2, views=2, frames=FRAMES)
    networks = NetworkSizes(FrameSize.of(SIZE), tokenizer=DeltaTokConfig(width=128))
    for layout in (feature_layout(data, networks), token_layout(data, networks)):
        written = sum(path.stat().st_size for path in (tmp_path / layout.kind).glob(f"v*/*/{layout.kind}/c.*"))
        assert data.samples * layout.clip_bytes == pytest.approx(written, rel=0.25)
    config = tokenizer_config(store, tmp_path / "run")
    samples = TrainingData(
        open_sets(store, ("features",)),
        DataSettings(
            take="pairs",
            seed=0,
            held_out=0.0,
            block_shards=None,
            pairs_per_clip=config.pairs_per_clip,
            size=FrameSize.of(SIZE),
        ),
        run="run",
    )
    assert samples.repeats(1000) == pytest.approx(repeats(1000, 24, 2, FRAMES - 1))


def test_rates_say_how_they_are_known() -> None:
    assert "derived from the published cost" in rates_of("h200").basis
    assert rates_of("a100").basis.startswith("assumed")
    assert "measured just now" in measure(NetworkSizes(FrameSize.of(64), tokenizer=DeltaTokConfig(width=128))).basis
    with pytest.raises(ConfigError, match="--gpu is 'h300'; expected one of h200, h100, a100, or here"):
        rates_of("h300")


def run_plan(*words: str) -> str:
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows_of(output: str) -> dict[str, dict[str, str]]:
    """Return the cells of a Markdown table by step and column."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines()]
    header, _, *rows = (line for line in lines if len(line) > 1)
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_the_command_prints_every_stage_and_what_is_assumed() -> None:
    output = run_plan("--clips", "1")
    for text in ("featurize 256", "deltatok-1", "1.69 TB", "273", "deltaworld-2", "1,355", "assumed: ", "rates: "):
        assert text in output
    assert (
        rows_of(run_plan("--clips", "1", "--views", "256=4,512=1", "--table", "markdown"))["deltatok-1"]["repeats"]
        == "68.2"
    )
    for wrong in ("0", "256=", "=4", "x=2", "4,,2"):
        result = CliRunner().invoke(command, ["--views", wrong])
        assert result.exit_code == 2
        assert "neither a number of views nor views by size" in result.output


def test_the_table_lines_up_and_has_one_row_a_stage() -> None:
    table, notes = run_plan("--clips", "8", "--views", "4").split("\n\n")
    header, rule, *rows = table.splitlines()
    assert [row.split()[0] for row in rows][-2:] == ["deltaworld-2", "all"]
    assert set(rule.strip()) == {"─"}
    for name in ("time", "GPU-hours", "writes", "reads", "to keep up", "repeats"):  # columns that end alike
        end = header.index(name) + len(name)
        cells = [row[:end].rpartition("   ")[2] for row in rows if len(row) >= end]
        assert any(cell.strip() for cell in cells), name
        assert all(row[end : end + 2].strip() == "" for row in rows), f"{name} runs over"
    assert all(len(line) <= 120 for line in notes.splitlines())


def test_times_and_sizes_are_in_units_that_a_person_reads() -> None:
    rows = rows_of(run_plan("--gpus", "1", "--gpu", "a100", "--live", "--table", "markdown"))
    assert rows["deltatok-1"]["time"] == "79 days"
    assert rows["all"]["what"] == "on 1 GPU"
    text = " ".join(cell for row in rows.values() for cell in row.values())
    assert "e+" not in text
    hours = [int(found) for found in re.findall(r"(\d+) h\b", text)]
    assert hours
    assert max(hours) < 48
    assert not re.search(r"\b\d{4,} (B|kB|MB|GB|TB)\b", text)


def test_on_a_machine_without_a_gpu_there_are_cpu_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltactl.recipes.rates.measure", lambda networks: Rates(1e11, 5e10, "measured", device="CPU"))
    monkeypatch.setattr("deltactl.recipes.rates.devices_here", lambda: (1, 4))
    output = run_plan("--gpu", "here", "--videos", "1000", "--recipe", "demo")
    assert "GPU" not in output
    rows = rows_of(run_plan("--gpu", "here", "--videos", "1000", "--recipe", "demo", "--table", "markdown"))
    assert rows["all"]["what"] == "on 1 CPU"
    assert rows["ingest"]["CPU-hours"] == "0.278", "8,000 clips, 2 a core and second, on 4 cores"
    assert rows["ingest"]["time"] == "17 min"
    featurize = Cost("", "", gpu_seconds=10.0, core_seconds=40.0)
    cpu = Machine(Rates(1.0, 1.0, "", device="CPU"), gpus=1, cores_per_gpu=4)
    assert featurize.seconds(cpu) == 20.0, "decoding and networks share the cores"
    assert featurize.seconds(Machine(paper_h200(), gpus=1, cores_per_gpu=4)) == 10.0
