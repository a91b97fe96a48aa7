"""The sections of `gpu.py`: each measures one thing on a card, and says its figures line by line.

A section takes a `Bench`, which has what it reads, keeps what it says, and knows how to time a device. What a section
imports of the product it imports itself, so that another one can fail alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_inputs import SHARDS, Inputs
from torch import nn

from train import LEAST_STEPS, WARM_UP, Clock

ROOT = Path(__file__).parent.parent
MATRIX = 8192
BYTES = 2**32
"""Of the tensor that is copied on the card."""
VIDEO_TESTS = ("tests/ingest/test_decode_dali.py", "tests/commands/test_doctor.py")
PYTEST = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-o", "addopts=", "--import-mode=importlib"]
PYTEST += ["-o", "filterwarnings=default", "-p", "no:cacheprovider", "-rfE", "--tb=line"]


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"


@dataclass
class Bench:
    """What a section works with."""

    section: str
    inputs: Inputs
    out: Path | None
    stamp: dict[str, str]
    """Card, date, commit and command."""
    begun: float = field(default_factory=time.perf_counter)

    @property
    def smoke(self) -> bool:
        """Whether this only tries the code."""
        return self.inputs.scale.device == "cpu"

    @property
    def device(self) -> str:
        """Where networks compute."""
        return self.inputs.scale.device

    def say(self, what: str, **figures: object) -> None:
        """Print a result, and keep it."""
        line = json.dumps({"section": self.section, "what": what, **figures, **self.stamp}, default=str)
        print(line, flush=True)
        if self.out is not None:
            with self.out.open("a") as file:
                file.write(line + "\n")

    def fail(self, why: str, **figures: object) -> None:
        """Say that the section failed, and end it."""
        self.say("failed", failed=why, **figures)
        self.end()

    def end(self) -> None:
        """Say how long the section took; what comes after it belongs to another run of it."""
        self.say("took", seconds=round(time.perf_counter() - self.begun, 1))

    def wait(self) -> None:
        """Wait for the card."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def rate(self, call: Callable[[], object], count: int, rounds: int = 3) -> float:
        """Return calls a second: the best of a few rounds, each of which is waited for at its end only."""
        call()
        self.wait()
        best = 0.0
        for _ in range(rounds):
            begun = time.perf_counter()
            for _ in range(1 if self.smoke else count):
                call()
            self.wait()
            best = max(best, (1 if self.smoke else count) / (time.perf_counter() - begun))
        return best

    def peak(self) -> dict[str, float]:
        """Return the most memory that was taken on the card since this was last asked."""
        if self.device == "cpu":
            return {}
        found = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return {"peak_gb": found}


# --- sections ---


def facts(bench: Bench) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    bench.say("software", python=sys.version.split()[0], torch=torch.__version__, cores=os.cpu_count())
    if bench.smoke:
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    bench.say("card", described=found.stdout.strip(), cudnn=torch.backends.cudnn.version())
    matrix = torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    bench.say("matrix", tflops=round(bench.rate(lambda: matrix @ matrix, 30) * 2 * MATRIX**3 / 1e12))
    for rows, inner, outer in ((131712, 768, 2304), (131712, 768, 3072), (131712, 3072, 768), (57344, 768, 3072)):
        x, weight = (torch.randn(n, inner, device="cuda", dtype=torch.bfloat16) for n in (rows, outer))
        calls = bench.rate(lambda x=x, weight=weight: nn.functional.linear(x, weight), 20)  # type: ignore[misc]
        bench.say(f"product {rows} × {inner} × {outer}", tflops=round(calls * 2 * rows * inner * outer / 1e12))
    heads = torch.randn(64, 12, 1029, 64, device="cuda", dtype=torch.bfloat16)
    flop = 4 * 64 * 12 * 1029**2 * 64
    attend = lambda: scaled_dot_product_attention(heads, heads, heads)  # noqa: E731
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        attend()
        bench.wait()
    kernels = [each.key[:80] for each in profile.key_averages()][:2]
    bench.say("attention", tflops=round(bench.rate(attend, 30) * flop / 1e12), kernels=kernels)
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        with contextlib.suppress(RuntimeError), sdpa_kernel(kernel):
            bench.say(f"attention, {kernel.name}", tflops=round(bench.rate(attend, 30) * flop / 1e12))
    flat = torch.empty(BYTES, device="cuda", dtype=torch.uint8)
    bench.say("memory", tb_per_second=round(bench.rate(flat.clone, 20) * 2 * BYTES / 1e12, 2))
    pinned = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
    copies = bench.rate(lambda: pinned.copy_(flat[: 2**28], non_blocking=True), 10)
    bench.say("to host", gb_per_second=round(copies * 2**28 / 1e9, 1))


def train_for(bench: Bench, what: str, kind: str, data: Path, batch: int, **changes: Any) -> None:
    """Train as `auto` would, and say what a step takes."""
    from deltactl.configs.tokenizer import TokenizerConfig
    from deltactl.configs.world import WorldConfig
    from deltactl.train.run import train

    scale = bench.inputs.scale
    settings = {
        "data": str(data),
        "out": str(bench.inputs.folder / f"run-{time.monotonic_ns()}"),
        "size": scale.size,
        "backbone": str(bench.inputs.backbone()),
        "steps": scale.steps,
        "batch_size": batch,
        "effective_batch": batch,
        "log_every": scale.steps,
        "last_every": 1_000_000,
        "checkpoint_every": 1_000_000,
        "validate_every": 1_000_000,
        "validation_fraction": 0.0,
        "precision": "32-true" if bench.smoke else "bf16-mixed",
        "compile": not bench.smoke,
        "wandb": "disabled",
        "trainer": {"accelerator": bench.device, "devices": 1},
        **changes,
    }
    sizes = {"width": scale.width, "depth": scale.depth}
    config: Any
    if kind == "tokenizer":
        config = TokenizerConfig(**settings, network=sizes)
    else:
        config = WorldConfig(**settings, network={"kind": kind, **sizes}, queries=scale.queries)
    warm_up = WARM_UP[bench.device]
    steps = config.steps - warm_up - 1
    assert steps >= LEAST_STEPS[bench.device], "a window of so few steps says little"
    clock, begun = Clock(warm_up, steps), time.perf_counter()
    result = train(config, "benchmark", [clock])
    seconds, _ = clock.step
    bench.say(
        what,
        batch=batch,
        precision=config.precision,
        compiled=config.compile,
        graphs=torch._dynamo.utils.counters["stats"]["unique_graphs"],
        ms_per_step=round(1e3 * seconds, 2),
        ms_per_sample=round(1e3 * seconds / batch, 4),
        launching_ms_per_step=None if bench.smoke else round(1e3 * clock.launching, 2),
        waiting=round(clock.waiting, 4),
        loss=result.figures.get("train/loss"),
        whole_seconds=round(time.perf_counter() - begun, 1),
        **bench.peak(),
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def clip(bench: Bench) -> None:
    data = bench.inputs.features()
    train_for(bench, "tokenizer, as auto trains it", "tokenizer", data, 4, clip_norm=0.01)


def ddp(bench: Bench) -> None:
    import torch.distributed as dist

    from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
    from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig
    from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig
    from deltactl.train.steps.compiling import inside_ddp
    from deltactl.train.steps.modules import DinoWorldModule, TokenizerModule, TrainingModule, WorldModule

    class Step(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: Any) -> torch.Tensor:
            found = self.network(*inputs)
            loss: torch.Tensor = found.loss if hasattr(found, "loss") else found.float().square().mean()
            return loss

    scale, device = bench.inputs.scale, bench.device
    width, depth, heads, side = scale.width, scale.depth, scale.width // 64, scale.size // 32
    new = lambda *shape: torch.randn(shape, device=device)  # noqa: E731
    times = 0.2 * torch.arange(8.0, device=device).expand(4, 8)
    frames = new(2, 8, side**2, width)
    networks: dict[str, tuple[type[TrainingModule], nn.Module, tuple[Any, ...]]] = {
        "tokenizer": (
            TokenizerModule,
            DeltaTok(DeltaTokConfig(width=width, depth=depth, rope_augment=False)),
            (frames[:, 0], frames[:, 1], (side, side)),
        ),
        "deltaworld": (
            WorldModule,
            DeltaWorld(DeltaWorldConfig(token_dim=width, width=width, depth=depth, heads=heads)),
            (new(4, 8, 1, width), times, new(4, 7, min(64, scale.queries), width)),
        ),
        "baseline": (
            DinoWorldModule,
            DinoWorld(DinoWorldConfig(feature_dim=width, width=width, depth=depth, heads=heads)),
            (frames, times[:2], (side, side)),
        ),
    }
    store = (bench.inputs.folder / f"processes-{time.monotonic_ns()}").as_uri()
    dist.init_process_group("gloo" if bench.smoke else "nccl", init_method=store, rank=0, world_size=1)
    for name, (module, network, inputs) in networks.items():
        losses, gradients = [], []
        try:
            for compiled in (False, True):
                network.to(device).zero_grad()
                if compiled:
                    network.compile(backend="aot_eager" if bench.smoke else "inductor")
                wrapped = nn.parallel.DistributedDataParallel(Step(network), bucket_cap_mb=1 if bench.smoke else 25)
                with inside_ddp(module), torch.autocast(device, torch.bfloat16, cache_enabled=False):
                    loss = wrapped(*inputs)
                    loss.backward()
                losses.append(loss.item())
                gradients.append(torch.cat([each.grad.flatten() for each in network.parameters()]))  # type: ignore[union-attr]
            apart = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
            bench.say(name, losses=losses, gradients_apart=float(apart))
        except Exception as error:
            bench.say(name, failed=describe(error))
    dist.destroy_process_group()


def backbone(bench: Bench) -> None:
    from deltactl.configs.featurize import FeaturizeConfig
    from deltactl.configs.frame_size import FrameSize
    from deltactl.featurize.backbones.dinov3 import Sizes, outline_of_sizes
    from deltactl.featurize.loading import load_computer
    from deltactl.recipes.work import NetworkSizes

    scale = bench.inputs.scale
    outline = outline_of_sizes(Sizes(scale.width, scale.depth, 4 * scale.width))
    gflop = NetworkSizes(FrameSize.of(scale.size), outline).backbone_flops() / 1e9
    shape = (scale.frames_at_once, 3, scale.size, scale.size)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=bench.device)
    features: list[torch.Tensor] = []
    for compiled in (False, True):
        config = FeaturizeConfig(
            backbone=str(bench.inputs.backbone()),
            size=scale.size,
            batch_size=scale.frames_at_once,
            device=bench.device,
            compile=compiled and not bench.smoke,
        )
        computer, begun = load_computer(config, bench.device if bench.smoke else "cuda:0"), time.perf_counter()
        features.append(computer.start(frames).wait()[0].float())
        first = time.perf_counter() - begun
        rate = scale.frames_at_once * bench.rate(lambda: computer.start(frames), 6)  # noqa: B023
        bench.say(
            "compiled" if compiled else "plain",
            batch=scale.frames_at_once,
            frames_per_second=round(rate),
            tflops=round(rate * gflop / 1e3),
            first_call_seconds=round(first, 1),
            **bench.peak(),
        )
    apart = (features[1] - features[0]).norm() / features[0].norm()
    bench.say("compiled beside plain", relative=float(apart))


def featurize(bench: Bench) -> None:
    from deltactl.artifacts import Identity, open_artifact
    from deltactl.configs.featurize import FeaturizeConfig
    from deltactl.configs.frame_size import FrameSize
    from deltactl.featurize.backbones.dinov3 import Sizes, outline_of_sizes
    from deltactl.featurize.loading import load_computer, make_decoder
    from deltactl.featurize.pipeline.events import Job
    from deltactl.featurize.pipeline.fill import Filler
    from deltactl.featurize.pipeline.pipeline import Pipeline
    from deltactl.featurize.pipeline.read import ShardReader
    from deltactl.featurize.store.layout import Layout
    from deltactl.ingest.shards.format import ShardSet
    from deltactl.locations import Location
    from deltactl.recipes.work import NetworkSizes

    scale = bench.inputs.scale
    outline = outline_of_sizes(Sizes(scale.width, scale.depth, 4 * scale.width))
    gflop = NetworkSizes(FrameSize.of(scale.size), outline).backbone_flops() / 1e9
    shards = ShardSet.open(str(bench.inputs.shards()))
    config = FeaturizeConfig(
        backbone=str(bench.inputs.backbone()),
        size=scale.size,
        batch_size=scale.frames_at_once,
        device=bench.device,
        compile=not bench.smoke,
    )
    computer = load_computer(config, bench.device if bench.smoke else "cuda:0")
    decoders = ["opencv", *(["dali"] if has_dali() and not bench.smoke else [])]
    for decoder in decoders:
        root = Location.of(bench.inputs.folder / f"store-{decoder}")
        identity = Identity("features", {"crops": "augment"})
        open_artifact(root, identity, {})
        pixels = make_decoder(config.model_copy(update={"decoder": decoder}), computer, "augment", 8)
        layout = Layout("features", 8, (computer.grid[0] * computer.grid[1], computer.backbone.dim))
        filler = Filler(root, identity, layout, computer.grid, computer.device.type)
        pipeline = Pipeline(ShardReader(shards), pixels, computer, computer.start, filler)
        for view in range(2):  # the first compiles and warms up
            begun = time.perf_counter()
            written = sum(result.written for result in pipeline.run([Job(view, unit) for unit in shards.units]))
            rate = 8 * written / (time.perf_counter() - begun)
        bench.say(
            decoder,
            frames_per_second=round(rate),
            tflops=round(rate * gflop / 1e3),
            seconds={part: round(seconds, 2) for part, seconds in pipeline.seconds.items()},
            **bench.peak(),
        )


def world(bench: Bench) -> None:
    small, large = bench.inputs.features(1), bench.inputs.features()
    one = bench.inputs.time_tokens(small, bench.inputs.folder / "tokens-of-one")
    all_of_them = bench.inputs.time_tokens(large, bench.inputs.folder / "tokens")
    clips = (SHARDS - 1) * bench.inputs.scale.clips
    # Loading and compiling are in both. The difference can drown on a machine that others use.
    rate = clips / (all_of_them - one) if all_of_them > one else None
    bench.say("tokens from features", clips_per_second=rate and round(rate, 1), **bench.peak())
    data = bench.inputs.tokens()
    for batch in (32, 128):
        train_for(bench, f"from tokens, batch {batch}", "deltaworld", data, 4 if bench.smoke else batch)
    if not bench.smoke:
        train_for(bench, "from tokens, batch 32, CUDA graphs", "deltaworld", data, 32, compile="graphs")


def live(bench: Bench) -> None:
    tokenizer = str(bench.inputs.tokenizer())
    batch = 2 if bench.smoke else 32
    train_for(bench, "live, batch 32", "deltaworld", bench.inputs.shards(), batch, tokenizer=tokenizer)


def tokenizer(bench: Bench) -> None:
    for batch in (32, 64):
        data = bench.inputs.features()
        train_for(bench, f"from features, batch {batch}", "tokenizer", data, 2 if bench.smoke else batch)


def tests(bench: Bench) -> None:
    every = (ROOT / "tests").rglob("test_*.py")
    files = sorted(str(path.relative_to(ROOT)) for path in every if "mark.gpu" in path.read_text())
    run_tests(bench, [name for name in files if name not in VIDEO_TESTS])


def run_tests(bench: Bench, files: list[str]) -> None:
    call = [*PYTEST, "--timeout", "150", *files]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False, env=environment)
    lines = done.stdout.splitlines()
    bench.say("tests", code=done.returncode, ended=lines[-1:], failures=[x for x in lines if x.startswith("FAILED")])


def dali(bench: Bench) -> None:
    from deltactl.featurize.backbones.backbone import Backbone
    from deltactl.featurize.pipeline.decode import ClipDecoder
    from deltactl.featurize.pipeline.decode_dali import CALL_CLIPS, DaliClipDecoder
    from deltactl.featurize.pipeline.events import Job, RawClip
    from deltactl.ingest.shards.format import ShardSet

    shards, size = ShardSet.open(str(bench.inputs.shards())), bench.inputs.scale.size
    found = zip(range(CALL_CLIPS), shards.read("000000"), strict=False)
    raws = [RawClip(Job(0, "000000"), row, clip) for row, clip in found]
    clips = ClipDecoder("augment", 0, 8, not bench.smoke, max(1, (os.cpu_count() or 2) - 1))
    decoder = DaliClipDecoder(clips, None if bench.smoke else 0)
    if fault := decoder.fault():
        bench.say("jpeg", failed=fault)
        return
    ours, theirs = [clips.decode(raw) for raw in raws], decoder.decode(raws)
    pairs = [(a.frames.cpu(), b.frames.cpu()) for a, b in zip(ours, theirs, strict=True)]  # type: ignore[union-attr]
    apart = [(a.float() - b.float()).abs() for a, b in pairs]
    network = Backbone.load(bench.inputs.backbone(), bench.device)
    a, b = (network(each[:, :size, :size].permute(0, 3, 1, 2).contiguous().to(bench.device)) for each in pairs[0])
    bench.say(
        "jpeg",
        mean_levels=float(torch.stack([each.mean() for each in apart]).mean()),
        largest_levels=max(float(each.max()) for each in apart),
        least_cosine=float(nn.functional.cosine_similarity(a, b, dim=-1).min()),
        frames_per_second=round(bench.rate(lambda: decoder.decode(raws), 5) * 8 * len(raws)),
    )


def video(bench: Bench) -> None:
    run_tests(bench, list(VIDEO_TESTS))
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from videos import make_video, read_number  # the tests' own: each frame shows its number

    from deltactl.ingest.video.decode_av import PyAVDecoder
    from deltactl.ingest.video.decode_dali import DaliDecoder
    from deltactl.ingest.video.timestamps import Video

    length = 60 if bench.smoke else 300
    path = make_video(bench.inputs.folder / "video.mp4", "h264", frames=length, width=640, height=384)
    for decoder in (PyAVDecoder(), *([DaliDecoder("gpu")] if has_dali() and not bench.smoke else [])):
        with Video(path) as opened:
            shown = {number: read_number(image) for number, image in decoder.frames(opened, range(0, length, 7))}  # type: ignore[attr-defined]
            begun = time.perf_counter()
            count = sum(1 for _ in decoder.frames(opened, range(5, length, 37)))  # type: ignore[attr-defined]
            rate = count / (time.perf_counter() - begun)
        wrong = {number: seen for number, seen in shown.items() if number != seen}
        bench.say(decoder.name, frames_per_second=round(rate, 1), frames=len(shown), wrong_frames=wrong)


def has_dali() -> bool:
    with contextlib.suppress(ImportError):
        import nvidia.dali  # noqa: F401

        return True
    return False


SECTIONS: dict[str, tuple[Callable[[Bench], None], int]] = {
    "facts": (facts, 20),
    "clip": (clip, 60),
    "ddp": (ddp, 90),
    "backbone": (backbone, 60),
    "featurize": (featurize, 60),
    "world": (world, 150),
    "live": (live, 120),
    "tokenizer": (tokenizer, 90),
    "tests": (tests, 120),
    "dali": (dali, 20),
    "video": (video, 60),
}
"""In order of value; seconds that each is expected to take on a GPU (reckoned)."""
