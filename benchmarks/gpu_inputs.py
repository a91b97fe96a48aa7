"""What the sections of `gpu.py` read: a backbone, shards, features, tokens and a tokenizer with random weights.

Each is made in the folder when a section first asks for it, by the commands' own code, and serves all that follow; it
lies in memory (/dev/shm) where that is there, so that no disk is measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from deltactl.artifacts import Identity, open_artifact
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.featurize.run import run as featurize
from deltactl.ingest.shards.format import Clip, ClipMeta, finish, write_shard
from deltactl.locations import Location
from deltactl.tokenization.run import run as tokenize
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from train import write_backbone

FRAMES, SHARDS = 8, 2


@dataclass(frozen=True)
class Scale:
    """Sizes of everything: those of the published networks, or tiny ones that try the code on a CPU."""

    device: str
    size: int
    """Side of the frames in pixels."""
    width: int
    depth: int
    clips: int
    """In each of the shards."""
    frames_at_once: int
    """Batch of the backbone."""
    queries: int
    steps: int
    """Of each training, those that warm up included."""


PUBLISHED = Scale("cuda", 512, 768, 12, clips=96, frames_at_once=128, queries=256, steps=24)
TINY = Scale("cpu", 64, 128, 2, clips=4, frames_at_once=4, queries=8, steps=5)


@dataclass(frozen=True)
class Inputs:
    """A folder, and what is made in it."""

    folder: Path
    scale: Scale

    def backbone(self) -> Path:
        """Return a DINOv3 of these sizes."""
        place, scale = self.folder / "backbone", self.scale
        if not place.exists():
            write_backbone(place, scale.width, scale.depth)
        return place

    def shards(self, count: int = SHARDS) -> Path:
        """Return shards of textured JPEGs, 16 : 9, with the short side that ingest stores for this size."""
        root = self.folder / f"shards-{count}"
        if root.exists():
            return root
        height, random = round(1.3 * self.scale.size), np.random.default_rng(0)
        width = height * 16 // 9
        ground = cv2.resize(random.integers(0, 255, (60, 80, 3), dtype=np.uint8), (width, height))
        noise = random.normal(0, 3, (height, width, 3))
        frames = []
        for number in range(FRAMES):
            picture = (np.roll(ground, 9 * number, axis=1) + noise).clip(0, 255).astype(np.uint8)
            frames.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
        place, times = Location.of(root), tuple(0.2 * number for number in range(FRAMES))
        open_artifact(place, Identity("shards", {"dataset": "kinetics", "frames": FRAMES, "size": self.scale.size}), {})
        for shard in range(count):
            meta = ClipMeta("made here", "kinetics", times, tuple(range(FRAMES)), (height, width), "none")
            clips = [Clip(f"c{shard}x{number}", meta, frames) for number in range(self.scale.clips)]
            write_shard(place, f"{shard:06d}", clips, [], {})
        finish(place)
        return root

    def tokenizer(self) -> Path:
        """Return the weights of a tokenizer."""
        file = self.folder / "tokenizer.bin"
        if not file.exists():
            torch.manual_seed(0)
            network = DeltaTok(DeltaTokConfig(width=self.scale.width, depth=self.scale.depth))
            torch.save(network.state_dict(), file)
        return file

    def features(self, shards: int = SHARDS) -> Path:
        """Return the features of so many shards."""
        out = self.folder / f"features-{shards}"
        if not out.exists():
            config = FeaturizeConfig(
                shards=str(self.shards(shards)),
                backbone=str(self.backbone()),
                size=self.scale.size,
                out=str(out),
                device=self.scale.device,
                workers=0,
                decoder="opencv",
                batch_size=self.scale.frames_at_once,
            )
            featurize(config)
        return out

    def tokens(self) -> Path:
        """Return the tokens of the features."""
        out = self.folder / "tokens"
        if not out.exists():
            self.time_tokens(self.features(), out)
        return out

    def time_tokens(self, data: Path, out: Path) -> float:
        """Make tokens of features or shards; return the seconds that it took, loading included."""
        config = TokenizeConfig(
            data=str(data),
            out=str(out),
            tokenizer=str(self.tokenizer()),
            backbone=str(self.backbone()),
            size=self.scale.size,
            device=self.scale.device,
            workers=0,
        )
        begun = time.perf_counter()
        tokenize(config)
        return time.perf_counter() - begun
