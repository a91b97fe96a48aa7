"""Training at ViT-B size from caches against live: clips a second, and how long training waits for data.

Run: python benchmarks/train.py [--size 256] [--steps 3] [--batch 1] [--device cpu]

One run measures, with random weights and the commands' own code, batches of one clip and K = 256:

    world model      from tokens · live from shards (backbone and tokenizer in the loop)
    tokenizer        from features · live
    making tokens    straight from shards

and works out 300,000 steps of the published batch of 1,024 on Kinetics-700 (536,000 videos, 8 clips, 4 views), the
making of the tokens included. Rates are the best step of each: on a machine that others use, means tell about them.

Expected on a CPU at 256 px: of a live step's 11 s a clip, frozen networks take 9.7, so tokens are about 8 × as fast.
The tokenizer's backbone is a sixth of its step: about 1.2 ×. At 512 px the frozen share is 95 %: 15 × on a GPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from deltactl.artifacts import Identity, claim
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.world import WorldConfig
from deltactl.featurize.run import featurize
from deltactl.ingest.shards import Clip, ClipMeta, finish, write_shard
from deltactl.locations import Location
from deltactl.train.deltatok import DeltaTok
from deltactl.train.run import train
from deltactl.train.tokenize_run import tokenize

FRAMES, CLIPS = 8, 4
KINETICS_VIDEOS, CLIPS_PER_VIDEO, VIEWS = 536_000, 8, 4
PUBLISHED_SAMPLES = 300_000 * 1024


def write_backbone(folder: Path) -> None:
    """Write a ViT-B/16 of DINOv3 with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_register_tokens=4, patch_size=16)).save_pretrained(folder)
    normalisation = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(normalisation))


def write_shards(folder: Path, size: int) -> None:
    """Write a few clips of smooth noise, frames 1.3 × the training size."""
    place, side = Location.of(folder), int(size * 1.3)
    random = np.random.default_rng(0)
    claim(place, Identity("shards", {"dataset": "kinetics", "frames": FRAMES, "size": size}), {})
    clips = []
    for number in range(CLIPS):
        frames = []
        for _ in range(FRAMES):
            image = cv2.resize(random.integers(0, 256, (16, 16, 3), dtype=np.uint8), (side, side))
            frames.append(cv2.imencode(".jpg", image)[1].tobytes())
        times = tuple(0.2 * frame for frame in range(FRAMES))
        meta = ClipMeta(f"{number}.mp4", "kinetics", times, tuple(range(FRAMES)), (side, side), "none")
        clips.append(Clip(f"video{number}", meta, frames))
    write_shard(place, "000000", clips, [], {})
    finish(place)


def rate_of(run: Path) -> tuple[float, float]:
    """Return the best step's samples a second of a run, and the share of all time that it waited for data."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))[1:]  # the first step warms up
    rates = [float(row["train/samples_per_second"]) for row in rows]
    waits = [float(row["train/waiting"]) / rate for row, rate in zip(rows, rates, strict=True)]
    return max(rates), sum(waits) / sum(1 / rate for rate in rates)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    size, device = arguments.size, arguments.device
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        backbone, tokenizer = root / "backbone", root / "tokenizer.bin"
        write_backbone(backbone)
        write_shards(root / "shards", size)
        torch.save(DeltaTok().state_dict(), tokenizer)
        cached = {"backbone": str(backbone), "size": size, "device": device, "workers": 0}
        featurize(FeaturizeConfig(shards=str(root / "shards"), out=str(root / "features"), **cached))
        begun = time.perf_counter()
        tokenize(
            TokenizeConfig(data=str(root / "shards"), tokenizer=str(tokenizer), out=str(root / "tokens"), **cached)
        )
        making = CLIPS / (time.perf_counter() - begun)
        shared = {
            "size": size,
            "backbone": str(backbone),
            "steps": arguments.steps + 1,
            "batch_size": arguments.batch,
            "effective_batch": arguments.batch,
            "log_every": 1,
            "last_every": 1_000_000,
            "checkpoint_every": 1_000_000,
            "validate_every": 1_000_000,
            "validation_fraction": 0.0,
            "wandb": "disabled",
            "trainer": {"accelerator": device, "devices": 1},
        }
        rates, waits = {}, {}
        for label, data in (("world from tokens", "tokens"), ("world live", "shards")):
            given = {} if data == "tokens" else {"tokenizer": str(tokenizer)}
            train(WorldConfig(data=str(root / data), out=str(root / label), **shared, **given), label)
            rates[label], waits[label] = rate_of(root / label)
        for label, data in (("tokenizer from features", "features"), ("tokenizer live", "shards")):
            train(TokenizerConfig(data=str(root / data), out=str(root / label), **shared), label)
            rates[label], waits[label] = rate_of(root / label)
    for label, rate in rates.items():
        print(f"{label:24} {rate:8.3f} samples/s   waiting {100 * waits[label]:.2f} %")
    print(f"{'making tokens':24} {making:8.3f} clips/s")
    world = rates["world from tokens"] / rates["world live"]
    print(f"world model, tokens over live: {world:.1f} ×")
    print(f"tokenizer, features over live: {rates['tokenizer from features'] / rates['tokenizer live']:.2f} ×")
    cached = KINETICS_VIDEOS * CLIPS_PER_VIDEO * VIEWS / making + PUBLISHED_SAMPLES / rates["world from tokens"]
    live = PUBLISHED_SAMPLES / rates["world live"]
    print(f"300,000 steps of 1,024 on Kinetics-700, tokens made first: {live / cached:.1f} × as fast as live")


if __name__ == "__main__":
    main()
