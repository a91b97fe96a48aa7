"""Ingest against a bare PyAV loop that decodes, resizes and encodes the same frames; memory; listing; DALI's seeking.

Run: python benchmarks/ingest.py [--videos 24] [--clips 8] [--sources 100000] [--large] [--dali]

Both work on one core (all processes are pinned to it) on the same H.264 videos of 10 s, made here: 340 × 256, or with
--large 1280 × 720. The bare loop is told which frames to take; it opens a file, decodes from its start to the last
wanted frame, converts, resizes and encodes the wanted ones, and forgets them. Ingest also demuxes for the times, draws
the clips, sends encoded frames between processes, and publishes the shard: tar, SHA-256, fsync. Start-up (a second a
process) is left out of both. Which of the two goes first alternates; times are summed over rounds.

Aim: ingest at 0.85 of the bare loop's frames per second or more. It can come out above 1: it does not decode frames
that nothing refers to and nobody wants, nor the stretch before a keyframe.

With --dali, and nothing else then: DALI on the CPU. Frames near the start and near the end of a VP9 video of 600
frames, each five frames behind a keyframe, by the processor's time (expected: within 1.3 × of a frame in the middle),
and the frames of 8 clips of 8 such videos, one video a run and all in one. That shows what the path costs, not what a
GPU gives.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from deltactl.configs.frame_size import FrameSize
from deltactl.configs.ingest import IngestConfig
from deltactl.ingest.growth import MadeShards
from deltactl.ingest.plan import output_of
from deltactl.ingest.run import ShardMaker
from deltactl.ingest.settle import resolved
from deltactl.ingest.shards.geometry import kept_size
from deltactl.ingest.training import plan_training
from deltactl.ingest.units import UnitPlan
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.sampling import sample_clips
from deltactl.ingest.video.timestamps import Video
from deltactl.locations import Location

SIZE, QUALITY = 512, 95
SECONDS, RATE = 10, 30


def make_video(path: Path, seed: int, width: int, height: int) -> None:
    """Encode textures that move, with camera noise, as Kinetics-like H.264."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (height // 16 + 40, width // 16 + 80, 3), dtype=np.uint8)
    ground = cv2.resize(coarse, None, fx=16, fy=16, interpolation=cv2.INTER_CUBIC)
    noise = generator.normal(0, 3, (8, height, width, 3)).astype(np.int16)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "fast", "crf": "23"}
        for number in range(SECONDS * RATE):
            top, left = number % 600, 2 * (number % 600)
            picture = ground[top : top + height, left : left + width].astype(np.int16) + noise[number % 8]
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def bare_loop(path: Path, wanted: set[int]) -> int:
    """Decode, resize and encode the wanted frames with PyAV and OpenCV alone; return how many."""
    last, made = max(wanted), 0
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(file.decode(stream)):
            if number in wanted:
                image = frame.to_ndarray(format="bgr24")
                height, width = kept_size(image.shape[0], image.shape[1], FrameSize.of(SIZE))
                if (height, width) != image.shape[:2]:
                    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
                cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
                made += 1
            if number == last:
                break
    return made


def wanted_frames(path: Path, root: Path, clips: int) -> set[int]:
    """Return the frames that ingest takes of a video."""
    with Video(path) as video:
        drawn = sample_clips(video.times, source=str(path.relative_to(root)), seed=0, clips=clips, frames=8)
    return {index for clip in drawn for index in clip.indices}


def peak_bytes(process: int | str = "self") -> int:
    """Return the most memory that a process held so far."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def compare(root: Path, out: Path, clips: int, rounds: int) -> None:
    """Print frames per second of both, their ratio, and the memory of ingest's processes."""
    config = resolved(IngestConfig(source=str(root), dataset="folder", clips=clips, workers=0))
    plan = plan_training(config, 1, MadeShards(output_of(config)))
    videos = [root / source.name for unit in plan.units for source in unit.items]
    wanted = {path: wanted_frames(path, root, clips) for path in videos}
    frames = sum(map(len, wanted.values()))
    maker = ShardMaker(plan.maker, Location.of(out), {}, (), frozenset())
    maker.start(0)
    everything = plan.units[0].items
    list(maker.make([UnitPlan("999999", everything[:1], clips)], lambda _: None))
    bare_loop(videos[0], wanted[videos[0]])
    seconds = {"bare": 0.0, "ingest": 0.0}
    parts: dict[str, float] = {}
    for number in range(rounds):
        for name in ("bare", "ingest") if number % 2 else ("ingest", "bare"):
            started = time.perf_counter()
            if name == "bare":
                made = sum(bare_loop(path, wanted[path]) for path in videos)
                assert made == frames, "the bare loop missed frames"
            else:
                (result,) = maker.make([UnitPlan(f"{number:06d}", everything, len(everything) * clips)], lambda _: None)
                assert result.clips == len(everything) * clips, result.quarantined
                for part, spent in maker.seconds.items():
                    parts[part] = parts.get(part, 0.0) + spent
            seconds[name] += time.perf_counter() - started
    rates = {name: rounds * frames / spent for name, spent in seconds.items()}
    print(f"{len(videos)} videos, {frames} distinct frames of {clips} clips each, {rounds} rounds, one core")
    print(f"bare PyAV loop   {rates['bare']:8.1f} frames/s")
    print(f"ingest           {rates['ingest']:8.1f} frames/s")
    print(f"ratio            {rates['ingest'] / rates['bare']:8.2f}   (aim 0.85)")
    print("seconds in ingest: " + ", ".join(f"{part} {spent:.1f}" for part, spent in parts.items()))
    children = [child._process.pid for child in plan.maker._children if child._process is not None]  # type: ignore[attr-defined]
    print(f"peak memory      worker {peak_bytes() / 1e6:.0f} MB, decoder {max(map(peak_bytes, children)) / 1e6:.0f} MB")
    maker.close()


def list_many(root: Path, count: int) -> None:
    """Print the time and memory of planning so many (empty) sources, of half as many, and per source."""
    folders = max(1, count // 760)
    for number in range(folders):
        (root / "train" / f"class {number:03d}").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"class {number % folders:03d}/{number:011x}_000010_000020.mp4"
        os.close(os.open(root / "train" / name, os.O_CREAT | os.O_WRONLY))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    started = time.perf_counter()
    config = resolved(IngestConfig(source=str(root), dataset="kinetics", out=str(root.parent / "shards")))
    plan = plan_training(config, 1, MadeShards(output_of(config)))
    seconds = time.perf_counter() - started
    grown = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 - before
    print(
        f"listing and planning {plan.sources:,} sources, {len(plan.units):,} shards: "
        f"{seconds:.2f} s, {grown / 1e6:.0f} MB"
    )


def measure_dali(root: Path, rounds: int) -> None:
    """Print what a frame costs DALI by its place in the video, and the frames of several videos by how they are run."""
    paths = []
    for number in range(8):
        paths.append(root / f"{number}.webm")
        generator = np.random.default_rng(number)
        ground = cv2.resize(generator.integers(0, 255, (60, 80, 3), dtype=np.uint8), None, fx=16, fy=16)
        with av.open(str(paths[-1]), "w") as file:
            stream = file.add_stream("libvpx-vp9", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
            stream.options = {"g": "30", "deadline": "realtime", "cpu-used": "8", "b": "1M"}
            for shift in range(600):
                frame = av.VideoFrame.from_ndarray(
                    ground[shift : shift + 256, shift : shift + 340].copy(), format="rgb24"
                )
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
    decoder = DaliDecoder("cpu")
    places = dict.fromkeys((35, 305, 575), float("inf"))
    with Video(paths[0]) as video:
        list(decoder.frames(video, [0]))
        for _ in range(rounds):
            for place in places:
                started = time.process_time()
                list(decoder.frames(video, [place]))
                places[place] = min(places[place], time.process_time() - started)
    for place, spent in places.items():
        print(f"DALI, frame {place:3} of 600   {1e3 * spent:8.1f} ms   {spent / places[305]:.2f} of frame 305's")
    seconds = {"one video a run": 0.0, "8 videos a run": 0.0}
    frames = 0
    for number in range(rounds):
        for name in sorted(seconds, reverse=bool(number % 2)):
            started = time.process_time()
            jobs = []
            for path in paths:
                with Video(path) as video:
                    jobs.append(decoder.prepare(video, sorted(wanted_frames(path, root, 8))))
            parts = [jobs] if name.startswith("8") else [[job] for job in jobs]
            made = sum(1 for part in parts for _ in decoder.run(part))
            seconds[name] += time.process_time() - started
            frames += made
    for name, spent in seconds.items():
        print(f"DALI, {name:16} {frames / 2 / spent:8.1f} frames a second of the processor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--sources", type=int, default=100_000, help="sources in the listing benchmark; 0 skips it")
    parser.add_argument("--large", action="store_true", help="videos of 1280 × 720 instead of 340 × 256")
    parser.add_argument("--dali", action="store_true", help="DALI's seeking on the CPU, and nothing else")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "videos"
        root.mkdir()
        if options.dali:
            measure_dali(root, options.rounds)
            return
        for number in range(options.videos):
            make_video(root / f"{number:03d}.mp4", number, *((1280, 720) if options.large else (340, 256)))
        os.sched_setaffinity(0, cores[-1:])
        compare(root, Path(temporary) / "shards", options.clips, options.rounds)
        os.sched_setaffinity(0, cores)
        if options.sources:
            list_many(Path(temporary) / "kinetics", options.sources)


if __name__ == "__main__":
    main()
