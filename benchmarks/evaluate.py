"""An evaluation of all rows and horizons at once, beside one that begins anew for each row and horizon.

Run: python benchmarks/evaluate.py [--width 256] [--depth 6] [--size 256] [--samples 20] [--threads 1]

Random networks (a DINOv3, a tokenizer, both world models, a head of 124 classes, all of one width and depth) evaluate
the clips of a VSPW-like tree that is made for it. Together: each clip's features and tokens are computed once and serve
present, copy last, DeltaTok, DeltaWorld's best and mean, and DINO-world at horizons 1 and 3. Separately: for each of
these six rows and each horizon the backbone runs again, the tokens are encoded again, and the futures sampled again.
Both stream from the tree and compute the same predictions, which is checked by their losses. The tables beyond the
published protocol are left out of both. The second ratio lets best and mean share their samples when apart, too.

Expected: a decoder pass of a sample costs what the backbone costs for a frame, and 20 samples take 80 of them at
horizons 1 and 3, beside 7 frames and about 30 passes for the rest: 116 together; 185 apart with shared samples (1.6),
280 without (2.4). Times are those of the process on one thread, so that what else the machine does counts less.
Measured at the default sizes on a shared two-core machine, torch 2.13: ratios of 2.3 and 1.5.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.known import labelled_set
from deltactl.evaluate.clips.sources import StreamedClips, tasks_of
from deltactl.evaluate.protocol import rows
from deltactl.evaluate.protocol.predictions import Batch, Prediction, Row
from deltactl.evaluate.protocol.rows import Models
from deltactl.evaluate.protocol.tally import Tally, score_prediction
from deltactl.evaluate.protocol.tokens import PairTokens
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.ingest.evaluation import plan_evaluation
from deltactl.ingest.settle import resolved
from deltactl.ingest.units import Plan
from deltactl.tasks.segmentation import SEGMENTATION
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig
from deltactl.train.networks.heads import LinearHeadConfig, SegmentationHead

ROWS = ("present", "copy_last", "deltatok", "deltaworld best", "deltaworld mean", "dinoworld")
HORIZONS = (1, 3)


@dataclass(frozen=True)
class Setup:
    """What both ways evaluate."""

    plan: Plan
    backbone: Backbone
    models: Models
    head: SegmentationHead
    size: int
    samples: int


def make_backbone(folder: Path, width: int, depth: int) -> Backbone:
    """Write a DINOv3 with random weights, and load it."""
    config = DINOv3ViTConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 64, intermediate_size=4 * width,
        num_register_tokens=4, patch_size=16,
    )  # fmt: skip
    config.save_pretrained(folder)
    save_file(DINOv3ViTModel(config).state_dict(), folder / "model.safetensors")
    preprocessing = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return Backbone.load(folder, "cpu")


def make_tree(root: Path, videos: int) -> Path:
    """Write videos of 40 frames of 16:9, one labelled clip in each."""
    generator = np.random.default_rng(0)
    for video in range(videos):
        for part in ("origin", "mask"):
            (root / "data" / f"{video}_v" / part).mkdir(parents=True)
        small = generator.integers(0, 255, (9, 16, 3), np.uint8)
        for frame in range(20):
            picture = cv2.resize(np.roll(small, frame // 2, axis=1), (480, 270))
            cv2.imwrite(str(root / "data" / f"{video}_v" / "origin" / f"{frame:08}.jpg"), picture)
            mask = cv2.resize(small[..., 0] // 3 + 1, (480, 270), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(root / "data" / f"{video}_v" / "mask" / f"{frame:08}.png"), mask)
    (root / "val.txt").write_text("".join(f"{video}_v\n" for video in range(videos)))
    return root


def evaluate(setup: Setup, wanted: tuple[str, ...], horizons: tuple[int, ...]) -> Tally:
    """Stream all clips through the backbone and evaluate some rows at some horizons."""
    config = EvaluateConfig(horizons=horizons, samples=setup.samples, extras=False)
    source = StreamedClips(setup.plan, setup.backbone, FrameSize.of(setup.size), labelled_set("vspw"))
    grid = setup.backbone.grid(setup.size, setup.size)
    black = setup.backbone.black_features(setup.size, setup.size)
    tally = Tally()
    with torch.inference_mode():
        for task in tasks_of([(unit.name, unit.clips) for unit in setup.plan.units], None):
            for crops in source.batches(task, 1):
                batch = Batch(
                    keys=tuple(crop.clip.key for crop in crops.crops),
                    views=tuple(crop.view for crop in crops.crops),
                    features=crops.features.float(),
                    times=torch.tensor([crop.clip.times for crop in crops.crops]),
                    black=black,
                    grid=grid,
                )
                targets: dict[tuple[int, int], torch.Tensor] = {}
                for prediction in predict(batch, setup.models, wanted, config):
                    tally.count(prediction, crops.crops)
                    score_prediction(tally, prediction, SEGMENTATION, setup.head, crops.crops, targets, grid)
    return tally


def predict(batch: Batch, models: Models, wanted: tuple[str, ...], config: EvaluateConfig) -> Iterator[Prediction]:
    """Yield the predictions of the wanted rows alone, with the tokens that they need."""
    assert models.tokenizer is not None
    assert models.world is not None
    assert models.dinoworld is not None
    if "present" in wanted:
        yield from rows.present(batch, config)
    if "copy_last" in wanted:
        yield from rows.copy_last(batch, config)
    selects = {name.partition(" ")[2] for name in wanted if name.startswith("deltaworld")}
    if selects or "deltatok" in wanted:
        pairs = rows.reconstruction_pairs(config) if "deltatok" in wanted else set()
        pairs |= rows.context_pairs(config) if selects else set()
        tokens = PairTokens(models.tokenizer, batch, pairs)
        if "deltatok" in wanted:
            yield from rows.deltatok(batch, models.tokenizer, tokens, config)
        if selects:
            for prediction in rows.deltaworld(batch, models.world, models.tokenizer, tokens, config):
                assert isinstance(prediction, Prediction), "there is no diversity without the extras"
                if prediction.rows[0].select in selects:
                    yield prediction
    if "dinoworld" in wanted:
        yield from rows.dinoworld(batch, models.dinoworld, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    width, depth = arguments.width, arguments.depth
    models = Models(
        DeltaTok(DeltaTokConfig(width, depth)).eval(),
        DeltaWorld(DeltaWorldConfig(width, width, depth, width // 64)).eval(),
        DinoWorld(DinoWorldConfig(width, width, depth, width // 64)).eval(),
    )
    with tempfile.TemporaryDirectory() as folder:
        root = make_tree(Path(folder) / "VSPW", arguments.clips)
        config = resolved(IngestConfig(dataset="vspw", source=str(root), size=arguments.size))
        setup = Setup(
            plan=plan_evaluation(config),
            backbone=make_backbone(Path(folder) / "backbone", width, depth),
            models=models,
            head=SegmentationHead(LinearHeadConfig(width, 124)).eval(),
            size=arguments.size,
            samples=arguments.samples,
        )
        evaluate(setup, ("present",), (1,))  # the first pass loads libraries
        began = time.process_time()
        together = evaluate(setup, ROWS, HORIZONS)
        seconds_together = time.process_time() - began
        separate: dict[Row, list[float]] = {}
        seconds_alone: dict[str, float] = {}
        for row in ROWS:
            for horizon in HORIZONS:
                began = time.process_time()
                separate |= evaluate(setup, (row,), (horizon,)).losses
                seconds_alone[f"{row}, horizon {horizon}"] = time.process_time() - began
    assert separate.keys() == together.losses.keys()
    for key, losses in together.losses.items():
        assert np.allclose(losses, separate[key], rtol=1e-4), key
    for name, seconds in seconds_alone.items():
        print(f"  {name}, alone: {seconds:.2f} s")
    every = sum(seconds_alone.values())
    sharing = every - sum(seconds for name, seconds in seconds_alone.items() if "mean" in name)
    print(f"together {seconds_together:.2f} s, separately {every:.2f} s: ratio {every / seconds_together:.2f}")
    print(f"separately with shared samples {sharing:.2f} s: ratio {sharing / seconds_together:.2f}")


if __name__ == "__main__":
    main()
