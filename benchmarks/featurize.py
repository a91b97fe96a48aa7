"""Featurizing against the bare backbone: what reading, decoding, cropping and writing cost.

Run: python benchmarks/featurize.py [--model s|b] [--size 256] [--clips N] [--shards 2] [--rounds 3] [--device auto]

Random DINOv3 weights of ViT-S or ViT-B size; JPEG shards of 8-frame clips, 1.3 × as large as the size, made here. The
bare backbone runs as often on one batch that lies on the device, the same size as the pipeline's; frames are decoded by
what the command would choose. A shard holds 8 clips on a CPU, on a GPU as many as fill six batches. The two alternate;
each round times whole shards from the first read to the last published group; the best of the rounds counts. Loading
the backbone is left out of both.

Aim on a CPU: 0.95 of the bare backbone or more. On a GPU: 0.55 of the card's bf16 matrix rate, measured here with an
8192 × 8192 × 8192 product, at 512 px with ViT-B (214 GFLOP a frame), reading and writing included.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from deltactl.artifacts import Identity, open_artifact
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.devices import find_devices
from deltactl.featurize.loading import load_computer, make_decoder
from deltactl.featurize.pipeline.compute import Computer
from deltactl.featurize.pipeline.events import Job
from deltactl.featurize.pipeline.fill import Filler
from deltactl.featurize.pipeline.pipeline import Pipeline
from deltactl.featurize.pipeline.read import ShardReader
from deltactl.featurize.store.layout import Layout
from deltactl.ingest.shards.format import Clip, ClipMeta, ShardSet, finish, write_shard
from deltactl.locations import Location

FRAMES = 8
CPU_SHARD_CLIPS, GPU_SHARD_BATCHES = 8, 6
MODELS = {"s": (384, 6), "b": (768, 12)}
"""Width and heads; both have 12 layers."""
PREPROCESSOR = '{"image_mean":[0.485,0.456,0.406],"image_std":[0.229,0.224,0.225],"rescale_factor":0.00392156862745098}'


def make_backbone(folder: Path, model: str) -> None:
    """Write a DINOv3 folder with random weights."""
    width, heads = MODELS[model]
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
        num_hidden_layers=12,
        num_register_tokens=4,
    )
    folder.mkdir()
    config.save_pretrained(folder)
    save_file(DINOv3ViTModel(config).state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text(PREPROCESSOR)


def make_shards(root: Path, shards: int, clips: int, size: int) -> ShardSet:
    """Write shards of textured JPEGs, 4 : 3, with the short side that ingest would store for this size."""
    height = round(size * 1.3)
    width = height * 4 // 3
    generator = np.random.default_rng(0)
    ground = cv2.resize(generator.integers(0, 255, (60, 80, 3), dtype=np.uint8), (width, height))
    noise = generator.normal(0, 4, (height, width, 3))
    frames = []
    for number in range(FRAMES):
        picture = (np.roll(ground, 5 * number, axis=1) + noise).clip(0, 255).astype(np.uint8)
        frames.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    place = Location.of(root)
    open_artifact(place, Identity("shards", {"dataset": "kinetics", "frames": FRAMES, "size": size}), {})
    times = tuple(number / 8 for number in range(FRAMES))
    for shard in range(shards):
        metas = ClipMeta("made here", "kinetics", times, tuple(range(FRAMES)), (height, width), "none")
        write_shard(place, f"{shard:06d}", [Clip(f"c{shard}-{n}", metas, frames) for n in range(clips)], [], {})
    finish(place)
    return ShardSet.open(place)


def flop_per_frame(size: int, model: str) -> float:
    """Return the matrix work of a frame: projections and MLP (24 D²) and attention (4 N D) a token and layer."""
    width, _ = MODELS[model]
    tokens = (size // 16) ** 2 + 5
    return 12 * tokens * (24 * width**2 + 4 * tokens * width)


def matrix_rate(device: str) -> float:
    """Return the measured bf16 matrix rate of a GPU, in FLOP a second."""
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(50):
        a @ b
    torch.cuda.synchronize()
    return 50 * 2 * 8192**3 / (time.perf_counter() - started)


def time_bare(computer: Computer, batches: int) -> float:
    """Return the seconds that the backbone alone takes for so many batches, results brought to the host."""
    shape = (computer.batch_size, 3, *computer.size.pair)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=computer.device)
    started = time.perf_counter()
    previous = computer.start(frames)
    for _ in range(batches - 1):
        following = computer.start(frames)
        previous.wait()
        previous = following
    previous.wait()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, default="s")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--clips", type=int, help="in a shard")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, help="of the backbone on a CPU; with 1 the processor time is comparable")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dir", help="where to put shards and stores; a folder of its own is made there")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        make_backbone(folder / "backbone", options.model)
        device = find_devices(options.device)[0]
        config = FeaturizeConfig(
            backbone=str(folder / "backbone"), size=options.size, batch_size=options.batch_size, device=device
        )
        computer = load_computer(config, device)
        decoder = make_decoder(config, computer, "augment", FRAMES)
        on_gpu = device.startswith("cuda")
        clips = options.clips or (-(-GPU_SHARD_BATCHES * computer.batch_size // FRAMES) if on_gpu else CPU_SHARD_CLIPS)
        shards = make_shards(folder / "shards", options.shards, clips, options.size)
        frames = shards.count * FRAMES
        batches = -(-frames // computer.batch_size)
        time_bare(computer, 1)
        bare, whole, parts, processor = [], [], {}, [[], []]
        for number in range(options.rounds):
            used = time.process_time()
            bare.append(time_bare(computer, batches) / (batches * computer.batch_size))
            processor[0].append((time.process_time() - used) / (batches * computer.batch_size))
            root = Location.of(folder / f"store{number}")
            identity = Identity("features", {"crops": "augment"})
            open_artifact(root, identity, {})
            layout = Layout("features", FRAMES, (computer.grid[0] * computer.grid[1], computer.backbone.dim))
            filler = Filler(root, identity, layout, computer.grid, computer.device.type)
            pipeline = Pipeline(ShardReader(shards), decoder, computer, computer.start, filler)
            used, started = time.process_time(), time.perf_counter()
            results = list(pipeline.run([Job(0, unit) for unit in shards.units]))
            whole.append((time.perf_counter() - started) / frames)
            processor[1].append((time.process_time() - used) / frames)
            parts = pipeline.seconds
            assert sum(result.written for result in results) == shards.count
            shutil.rmtree(folder / f"store{number}")
        how = f"frames by {type(decoder).__name__}"
        print(f"ViT-{options.model.upper()} at {options.size} px on {computer.provenance}, {how}")
        print(f"bare backbone  {1 / min(bare):8.2f} frames/s   rounds: {', '.join(f'{1 / each:.2f}' for each in bare)}")
        print(
            f"featurize      {1 / min(whole):8.2f} frames/s   rounds: {', '.join(f'{1 / each:.2f}' for each in whole)}"
        )
        print(f"featurize at {min(bare) / min(whole):.3f} of the bare backbone (aim on a CPU: 0.95)")
        print(f"processor time: {min(processor[0]):.4f} s a frame bare, {min(processor[1]):.4f} s whole")
        print("last round: " + ", ".join(f"{part} {seconds:.2f} s" for part, seconds in parts.items()))
        if on_gpu:
            rate = matrix_rate(device)
            share = flop_per_frame(options.size, options.model) / min(whole) / rate
            print(f"bf16 matrix rate {rate / 1e12:.0f} TFLOP/s, featurize at {share:.2f} of it (aim: 0.55)")


if __name__ == "__main__":
    main()
