"""Training at ViT-B size from caches against live: clips a second, and how long training waits for data.

Run: python benchmarks/train.py [--size 256] [--steps 2] [--batch 8] [--threads N] [--device cpu] [--low auto]

One run measures, with random weights and the commands' own code, K = 256:

    world model      from tokens · live from shards (backbone and tokenizer in the loop) · live, whole batches
    tokenizer        from features · live
    making tokens    straight from shards

and works out 300,000 steps of the published batch of 1,024 on Kinetics-700 (536,000 videos, 8 clips, 4 views), the
making of the tokens included. Times are those of the best step: on a machine that others use, means tell about them.
On a GPU they are those of ten steps or more together, since single steps there end before their kernels do.
On a CPU that is fast in bfloat16 (or with `--low yes`) all rows come once more with the frozen networks and the search
in bfloat16; what trains stays in float32. Both sides of every ratio are in the same precision. On a GPU all is in
bfloat16 as it is.

Beside each row in float32 stands what `deltactl plan` says at the rates that it measures on this machine first (`--gpu
here`); the aim is within 25 %.

*Whole batches* is live training as it was published, where the frozen networks take all frames of a batch at a time; on
a CPU deltactl gives them eight at a time, which its caches hold.

Expected on a CPU at 256 px: published-style, frozen networks take 9.7 of a live step's 11 s a clip, so tokens are about
8 × as fast; by arithmetic alone, which is what the smaller batches come near, 6 ×. The tokenizer's backbone is a sixth
of its step: about 1.2 ×. At 512 px the frozen share is 96 %: 15 × on a GPU. In bfloat16 frozen networks take 0.4 of
their time, and the search, three quarters of a step from tokens, half: the ratio stays near what it is, and both sides
are about twice as fast.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as pl
import numpy as np
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from deltactl.artifacts import Identity, open_artifact
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.recipe import RecipeConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.world import WorldConfig
from deltactl.featurize.run import run as featurize
from deltactl.ingest.shards.format import Clip, ClipMeta, finish, write_shard
from deltactl.locations import Location
from deltactl.processor import bfloat16_instructions
from deltactl.recipes.costs import DataSize, recipe_costs
from deltactl.recipes.rates import Rates
from deltactl.recipes.rates import measure as measure_rates
from deltactl.recipes.work import NetworkSizes
from deltactl.tokenization.run import run as tokenize
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.run import train

FRAMES, CLIPS = 8, 4
KINETICS_VIDEOS, CLIPS_PER_VIDEO, VIEWS = 536_000, 8, 4
PUBLISHED_BATCH = 1024
PUBLISHED_SAMPLES = 300_000 * PUBLISHED_BATCH


@dataclass(frozen=True)
class Measured:
    """Seconds a sample."""

    wall: float
    cores: float
    """Of all cores together: with one thread, and others on the machine, the fairer of the two. Nothing on a GPU."""
    waiting: float
    """Share of the time that the training loop waited for data."""


def write_backbone(folder: Path, width: int = 768, depth: int = 12) -> None:
    """Write a DINOv3 of these sizes, a ViT-B/16 unless others are given, with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    sizes["num_hidden_layers"] = depth
    DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_register_tokens=4, patch_size=16)).save_pretrained(folder)
    normalisation = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(normalisation))


def write_shards(folder: Path, size: int, count: int) -> None:
    """Write so many clips of smooth noise, frames 1.3 × the training size."""
    place, side = Location.of(folder), int(size * 1.3)
    random = np.random.default_rng(0)
    open_artifact(place, Identity("shards", {"dataset": "kinetics", "frames": FRAMES, "size": size}), {})
    clips = []
    for number in range(count):
        frames = []
        for _ in range(FRAMES):
            image = cv2.resize(random.integers(0, 256, (16, 16, 3), dtype=np.uint8), (side, side))
            frames.append(cv2.imencode(".jpg", image)[1].tobytes())
        times = tuple(0.2 * frame for frame in range(FRAMES))
        meta = ClipMeta(f"{number}.mp4", "kinetics", times, tuple(range(FRAMES)), (side, side), "none")
        clips.append(Clip(f"video{number}", meta, frames))
    write_shard(place, "000000", clips, [], {})
    finish(place)


class Clock(pl.Callback):
    """Times training steps by the clock, and in seconds of all cores together.

    On a CPU each step is timed, from the end of the one before it, and the best counts. On a GPU a step's end says
    only that its kernels were launched: there a window of steps is timed as a whole, and the card is waited for at both
    its ends and nowhere between, so that launches run ahead as they do.
    """

    def __init__(self, warm_up: int, steps: int, *, whole_batches: bool = False) -> None:
        self._warm_up, self._steps, self._whole_batches = warm_up, steps, whole_batches
        self._on_gpu = False
        self._before = (0.0, 0.0)
        self._spent: list[tuple[float, float]] = []
        self._waited: list[float] = []
        self.launching = float("nan")
        """Seconds a step until its kernels were launched, on a GPU: near the whole step's, launches set the pace."""

    @property
    def step(self) -> tuple[float, float]:
        """Seconds of a step, and of all cores together in it."""
        wall, cores = (min(column) for column in zip(*self._spent, strict=True))
        return wall, cores

    @property
    def waiting(self) -> float:
        """Share of the timed steps that the training loop waited for data."""
        steps = len(self._spent) if not self._on_gpu else self._steps
        mean = sum(wall for wall, _ in self._spent) / len(self._spent)
        return (self._waited[-1] - self._waited[0]) / (steps * mean)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Give the frozen networks whole batches where asked to."""
        self._on_gpu = trainer.strategy.root_device.type == "cuda"
        if self._whole_batches:
            pl_module.frozen.frames_at_once = 1_000_000

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Read the clock."""
        done = trainer.global_step - self._warm_up
        if self._on_gpu and done not in (0, self._steps):
            return
        if self._on_gpu:
            self.launching = (time.perf_counter() - self._before[0]) / self._steps
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        steps = self._steps if self._on_gpu else 1
        if 0 <= done <= self._steps:
            self._waited.append(trainer.train_dataloader.waited_seconds)
        if 0 < done <= self._steps:
            self._spent.append(((now[0] - self._before[0]) / steps, (now[1] - self._before[1]) / steps))
        self._before = now


WARM_UP = {"cpu": 1, "cuda": 4}
"""Steps before the timed ones; on a GPU networks are compiled in the first, and kernels planned in the next."""
LEAST_STEPS = {"cpu": 1, "cuda": 10}


def measure(config: Any, steps: int, whole_batches: bool = False) -> Measured:
    """Train and return what a step took of a sample; the last of all steps, which computes health figures, is not."""
    clock = Clock(config.steps - steps - 1, steps, whole_batches=whole_batches)
    if train(config, "benchmark", [clock]).stopped:
        raise SystemExit("told to stop before anything was measured")
    wall, cores = clock.step
    return Measured(wall / config.batch_size, cores / config.batch_size, clock.waiting)


def measure_tokens(root: Path, precision: str, clips: int, tokenizer: str, settings: dict[str, Any]) -> Measured:
    """Make the tokens of one clip, then of all, and return what each of the others took; loading is in both."""
    spent = []
    for data, out in (("one", f"token-{precision}"), ("shards", f"tokens-{precision}")):
        begun = time.perf_counter(), time.process_time()
        named = {"data": str(root / data), "tokenizer": tokenizer, "out": str(root / out), "precision": precision}
        tokenize(TokenizeConfig(**named, **settings))
        spent.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    wall, cores = ((all_clips - one) / (clips - 1) for one, all_clips in zip(*spent, strict=True))
    return Measured(wall, cores, 0.0)


def plan_seconds(size: int, batch: int, rates: Rates) -> dict[str, float]:
    """Return the seconds a sample that the plan of a recipe says."""
    sized = {"size": size, "steps": 1, "batch_size": batch}
    recipe = RecipeConfig.model_validate(
        {
            "steps": {
                "tokenizer": {"run": "tokenizer", "config": "deltatok-1-pretrain-256", "settings": sized},
                "tokens": {"run": "tokenize", "tokenizer": "tokenizer"},
                "world": {"run": "world", "config": "deltaworld", "data": "tokens", "settings": sized},
            }
        }
    )
    data = DataSize(videos=1, clips=1)
    cached, live = (
        {cost.name: cost.gpu_seconds for cost in recipe_costs(recipe, data, rates, live=live)} for live in (False, True)
    )
    return {
        "world model from tokens": cached["world"] / PUBLISHED_BATCH,
        "world model live": live["world"] / PUBLISHED_BATCH,
        "tokenizer from features": cached["tokenizer"] / PUBLISHED_BATCH,
        "tokenizer live": live["tokenizer"] / PUBLISHED_BATCH,
        "making tokens": cached[f"featurize {size}"] + cached["tokens"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--low", choices=["auto", "yes", "no"], default="auto")
    arguments = parser.parse_args()
    low = device_is_fast(arguments.device) if arguments.low == "auto" else arguments.low == "yes"
    size, device = arguments.size, arguments.device
    steps = max(arguments.steps, LEAST_STEPS[device])
    all_steps = WARM_UP[device] + steps + 1
    torch.set_num_threads(arguments.threads)
    planned = plan_seconds(size, arguments.batch, measure_rates(NetworkSizes(FrameSize.of(size))))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        backbone, tokenizer = root / "backbone", root / "tokenizer.bin"
        write_backbone(backbone)
        write_shards(root / "shards", size, CLIPS)
        write_shards(root / "one", size, 1)
        torch.save(DeltaTok().state_dict(), tokenizer)
        cached = {"backbone": str(backbone), "size": size, "device": device, "workers": 0}
        featurize(FeaturizeConfig(shards=str(root / "shards"), out=str(root / "features"), **cached))
        shared = {
            "size": size,
            "backbone": str(backbone),
            "steps": all_steps,
            "batch_size": arguments.batch,
            "effective_batch": arguments.batch,
            "log_every": all_steps,
            "last_every": 1_000_000,
            "checkpoint_every": 1_000_000,
            "validate_every": 1_000_000,
            "validation_fraction": 0.0,
            "wandb": "disabled",
            "trainer": {"accelerator": device, "devices": 1},
        }
        taken = {
            precision: measure_all(root, precision, cached, shared, steps)
            for precision in (("auto", "bfloat16") if low else ("auto",))
        }
    for precision, rows in taken.items():
        say(rows, planned if precision == "auto" else {}, "" if precision == "auto" else f", {precision}", device)
    if low:
        plain, other = taken["auto"], taken["bfloat16"]
        faster = ", ".join(f"{label} {plain[label].wall / each.wall:.2f} ×" for label, each in other.items())
        print(f"bfloat16 over float32, by wall: {faster}")


def device_is_fast(device: str) -> bool:
    """Whether rows in bfloat16 say something: a GPU's are, and most CPUs are slower in it."""
    return device == "cpu" and bool(bfloat16_instructions())


def measure_all(
    root: Path, precision: str, cached: dict[str, Any], shared: dict[str, Any], steps: int
) -> dict[str, Measured]:
    """Return every row, with the frozen networks and the search in this precision."""
    tokenizer = root / "tokenizer.bin"
    making = measure_tokens(root, precision, CLIPS, str(tokenizer), cached)
    taken: dict[str, Measured] = {}
    for label, data, whole_batches in (
        ("world model from tokens", f"tokens-{precision}", False),
        ("world model live", "shards", False),
        ("world live, whole batches", "shards", True),
    ):
        given = {} if data != "shards" else {"tokenizer": str(tokenizer)}
        low = {"frozen_precision": precision, "search_precision": precision}
        out = str(root / f"{label}, {precision}")
        taken[label] = measure(
            WorldConfig(data=str(root / data), out=out, **shared, **given, **low), steps, whole_batches
        )
    for label, data in (("tokenizer from features", "features"), ("tokenizer live", "shards")):
        out = str(root / f"{label}, {precision}")
        config = TokenizerConfig(data=str(root / data), out=out, frozen_precision=precision, **shared)
        taken[label] = measure(config, steps)
    taken["making tokens"] = making
    return taken


def say(taken: dict[str, Measured], planned: dict[str, float], what: str, device: str) -> None:
    """Print the rows of one precision, and the ratios that they make."""
    print(f"{'seconds a sample' + what:26}     wall    cores   waiting   planned   planned / wall")
    for label, each in taken.items():
        said = f"{planned[label]:8.2f} {planned[label] / each.wall:12.2f}" if label in planned else ""
        print(f"{label:26} {each.wall:8.2f} {each.cores:8.2f}   {100 * each.waiting:6.2f} % {said}")
    for name in ("wall", "cores") if device == "cpu" else ("wall",):
        seconds = {label: float(getattr(each, name)) for label, each in taken.items()}
        cached, live = seconds["world model from tokens"], seconds["world model live"]
        whole_batches = seconds["world live, whole batches"]
        made = KINETICS_VIDEOS * CLIPS_PER_VIDEO * VIEWS * seconds["making tokens"]
        whole, whole_published = (
            PUBLISHED_SAMPLES * each / (made + PUBLISHED_SAMPLES * cached) for each in (live, whole_batches)
        )
        ratio = seconds["tokenizer live"] / seconds["tokenizer from features"]
        print(
            f"by {name}{what}: world model, tokens over live {live / cached:.1f} ×, "
            f"whole batches {whole_batches / cached:.1f} ×;\n"
            f"    with the making of tokens for 300,000 steps of 1,024 on Kinetics-700 {whole:.1f} ×, "
            f"{whole_published:.1f} ×;\n    tokenizer, features over live {ratio:.2f} ×"
        )


if __name__ == "__main__":
    main()
