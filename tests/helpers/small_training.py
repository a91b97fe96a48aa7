"""A small world to train on: clips of a bright bar that moves, as shards, features and tokens of the tiny backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from small_shards import encode

from deltactl.artifacts import Identity, open_artifact
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.world import WorldConfig
from deltactl.featurize.run import run as featurize
from deltactl.ingest.shards.columns import Column, Columns, columns_to_json
from deltactl.ingest.shards.format import Clip, ClipMeta, finish, write_shard
from deltactl.ingest.shards.keys import clip_key, source_name
from deltactl.locations import Location

BACKBONE = Path(__file__).parents[1] / "golden" / "backbone"
FRAMES = 4
SIZE = 64

SMALL: dict[str, Any] = {
    "size": SIZE,
    "effective_batch": 8,
    "batch_size": 8,
    "warmup_steps": 5,
    "log_every": 5,
    "validation_fraction": 0.2,
    "wandb": "disabled",
}


def moving_clips(unit: int, clips: int, frames: int = FRAMES) -> list[Clip]:
    """Return clips of a bar that moves by a speed of its own."""
    made = []
    for number in range(clips):
        source = unit * clips + number // 2
        random = np.random.default_rng(1000 * unit + number)
        place, speed = random.uniform(0, 60), random.uniform(5, 20)
        images = []
        for frame in range(frames):
            image = np.full((72, 96, 3), 40, np.uint8)
            left = int(place + speed * frame) % 80
            image[:, left : left + 16] = (200, 120, 60)
            images.append(encode(image))
        times = tuple(3.0 + 0.2 * frame for frame in range(frames))
        meta = ClipMeta(f"video{source}.mp4", "kinetics", times, tuple(range(frames)), (72, 96), "pyav")
        made.append(Clip(clip_key(meta.source, number % 2, 2), meta, images, source_name=source_name(meta.source)))
    return made


COLUMNS = (
    Column("actions", "float32", (3,)),
    Column("clip.camera", "float64", (2, 2)),
    Column("clip.text", "text", ()),
    Column("gripper", "bool", ()),
    Column("number", "int64", ()),
)
"""Columns of every kind."""


def columns_of(clip: Clip) -> dict[str, np.ndarray]:
    """Return columns that depend on the clip's key."""
    draw, frames = np.random.default_rng(list(clip.key.encode())), len(clip.frames)
    return {
        "actions": draw.normal(size=(frames, 3)).astype(np.float32),
        "clip.camera": draw.normal(size=(2, 2)),
        "clip.text": np.array(f"a bar of {clip.key} – moves"),
        "gripper": draw.integers(0, 2, frames).astype(bool),
        "number": draw.integers(2**60, 2**62, frames),
    }


def make_shards(
    root: Path, units: int = 2, clips: int = 12, frames: int = FRAMES, *, columns: Columns = (), lacking: str = ""
) -> str:
    """Write shards of moving bars, two clips to a source; perhaps with `columns`, which the clip `lacking` lacks."""
    place = Location.of(root)
    values = {"dataset": "kinetics", "frames": frames, "size": SIZE, "units": units}
    values |= {"columns": columns_to_json(columns)} if columns else {}
    open_artifact(place, Identity("shards", values), {})
    for unit in range(units):
        made = moving_clips(unit, clips, frames)
        if columns:
            made = [each if each.key == lacking else replace(each, columns=columns_of(each)) for each in made]
        write_shard(place, f"{unit:06d}", made, [], {})
    finish(place)
    return str(place)


def make_features(shards: str, out: Path, views: str = "1", **changes: Any) -> str:
    """Write the features of shards."""
    values: dict[str, Any] = {"backbone": str(BACKBONE), "size": SIZE, **changes}
    featurize(FeaturizeConfig(shards=shards, out=str(out), views=views, device="cpu", workers=0, **values))
    return str(out)


def tokenizer_config(data: str, out: Path, **changes: Any) -> TokenizerConfig:
    """Return the settings of a tokenizer of width 128 and depth 1."""
    values = {
        **SMALL,
        "data": data,
        "out": str(out),
        "lr": 2e-3,
        "clip_norm": 1.0,
        "steps": 20,
        "validate_every": 10,
        "checkpoint_every": 10,
        "last_every": 5,
        "backbone": str(BACKBONE),
        "network": {"width": 128, "depth": 1, "layer_scale": 0.1},
        **changes,
    }
    return TokenizerConfig(**values)


def world_config(data: str, out: Path, **changes: Any) -> WorldConfig:
    """Return the settings of a world model of width 64 and depth 1."""
    values = {
        **SMALL,
        "data": data,
        "out": str(out),
        "lr": 1e-3,
        "frames": FRAMES,
        "queries": 4,
        "steps": 20,
        "validate_every": 10,
        "checkpoint_every": 10,
        "last_every": 5,
        "backbone": str(BACKBONE),
        "network": {"width": 64, "depth": 1, "layer_scale": 0.1},
        **changes,
    }
    if values["network"].get("kind") == "dinoworld":
        del values["queries"]
    return WorldConfig(**values)
