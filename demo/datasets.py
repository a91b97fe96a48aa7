"""Writes the demo's world in the layouts in which the real data sets come.

    ROOT/kinetics/train/CLASS/ID.mp4                            H.264 videos, a class for the kind of the nearest shape
    ROOT/VSPW/{train,val}.txt, data/V/origin/*.jpg, mask/*.png  15 frames a second, a mask for each
    ROOT/kitti/DATE/DRIVE/image_02/data/*.png, {train,val}/DRIVE/proj_depth/…   10 a second, metres · 256
    ROOT/kitti/eigen_test.txt, eigen_train.txt                  IMAGE DEPTH FOCAL, a line each

Everything follows from the seed. The sets differ in their worlds: none is in two of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from deltactl.datasets.vspw import NAMES_FILE
from deltactl.demo.world import CLASSES, View, World, film, new_world, picture, render

VSPW_FRAMES_PER_SECOND = 15
KITTI_FRAMES_PER_SECOND = 10
KITTI_SIZE = (375, 1242)
"""Height and width of KITTI's frames; the protocol cuts 352 × 1216 out of them."""
KITTI_DEPTH_SCALE = 256
FOCAL = 721.5377


@dataclass(frozen=True)
class DemoSizes:
    """How much of the world is filmed."""

    videos: int = 144
    """Training videos."""
    video_seconds: float = 6.0
    video_size: tuple[int, int] = (72, 72)
    """Height and width in pixels."""
    frames_per_second: int = 25
    heads_videos: int = 32
    """Videos of VSPW's training split, for the segmentation head."""
    test_videos: int = 24
    """Videos of VSPW's validation split."""
    test_frames: int = 80
    test_size: tuple[int, int] = (96, 96)
    drives: int = 2
    """KITTI drives in each of the two splits."""
    drive_frames: int = 30


KINETICS, HEADS, TEST, DRIVES, TEST_DRIVES = range(5)
"""Streams of worlds; each set of data draws from its own."""


def write_kinetics(root: Path, seed: int, sizes: DemoSizes) -> None:
    """Write the training videos."""
    height, width = sizes.video_size
    for number in range(sizes.videos):
        chance = np.random.default_rng([seed, KINETICS, number, 1])
        # A third of them with a single shape, which is easier to learn to draw.
        start = new_world((seed, KINETICS, number), width / height, shapes=1 if number % 3 == 0 else 2)
        frames = round(sizes.video_seconds * sizes.frames_per_second)
        states = film(start, frames, sizes.frames_per_second, chance)
        folder = root / "train" / CLASSES[start.shapes[-1].kind]
        folder.mkdir(parents=True, exist_ok=True)
        images = [picture(state, height, width) for state in states]
        write_video(folder / f"world{number:04}.mp4", images, sizes.frames_per_second)


def write_vspw(root: Path, seed: int, sizes: DemoSizes) -> None:
    """Write the videos with masks: `train.txt` for the head, `val.txt` for the evaluation."""
    for split, stream, videos in (("train", HEADS, sizes.heads_videos), ("val", TEST, sizes.test_videos)):
        names = []
        for number in range(videos):
            names.append(f"{split}{number:04}")
            folder = root / "data" / names[-1]
            for kind in ("origin", "mask"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
            for index, state in enumerate(test_film(seed, stream, number, sizes)):
                view = render(state, *sizes.test_size)
                write_image(folder / "origin" / f"{index:08}.jpg", view.image)
                # Stored values are the class plus one: 0 means that nobody labelled the pixel.
                write_image(folder / "mask" / f"{index:08}.png", view.classes + np.uint8(1))
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    values = {name: str(number + 1) for number, name in enumerate(CLASSES)}
    (root / NAMES_FILE).write_text(json.dumps(values, indent=1) + "\n")


def test_film(seed: int, stream: int, number: int, sizes: DemoSizes) -> list[World]:
    """Return the states that one of the VSPW videos shows."""
    height, width = sizes.test_size
    start = new_world((seed, stream, number), width / height)
    chance = np.random.default_rng([seed, stream, number, 1])
    return film(start, sizes.test_frames, VSPW_FRAMES_PER_SECOND, chance)


def write_kitti(root: Path, seed: int, sizes: DemoSizes) -> None:
    """Write the drives with depths, and the two lists of frames to use."""
    date = "2011_09_26"
    for split, folder, stream in (("train", "train", DRIVES), ("test", "val", TEST_DRIVES)):
        lines = []
        for number in range(sizes.drives):
            drive = f"{date}_drive_{1000 * stream + number:04}_sync"
            images = root / date / drive / "image_02" / "data"
            depths = root / folder / drive / "proj_depth" / "groundtruth" / "image_02"
            images.mkdir(parents=True, exist_ok=True)
            depths.mkdir(parents=True, exist_ok=True)
            start = new_world((seed, stream, number), KITTI_SIZE[1] / KITTI_SIZE[0], shapes=6)
            chance = np.random.default_rng([seed, stream, number, 1])
            for index, state in enumerate(film(start, sizes.drive_frames, KITTI_FRAMES_PER_SECOND, chance)):
                view = render(state, *KITTI_SIZE)
                write_image(images / f"{index:010}.png", view.image)
                write_image(depths / f"{index:010}.png", _kitti_depth(view))
                depth_name = (depths / f"{index:010}.png").relative_to(root / folder)
                lines.append(f"{(images / f'{index:010}.png').relative_to(root)} {depth_name} {FOCAL}\n")
        (root / f"eigen_{split}.txt").write_text("".join(lines))


def write_video(path: Path, images: list[UInt8[np.ndarray, "H W 3"]], frames_per_second: int) -> None:
    """Encode RGB frames as an H.264 file."""
    import av

    height, width = images[0].shape[:2]
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(frames_per_second), options={"crf": "14"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _kitti_depth(view: View) -> np.ndarray:
    """Return depths as KITTI stores them, known for the nearer part of the scene only, as a lidar's are."""
    depth: np.ndarray = np.rint(view.depth_metres * KITTI_DEPTH_SCALE).astype(np.uint16)
    depth[: depth.shape[0] // 4] = 0  # a lidar does not see the sky
    return depth


def write_image(path: Path, image: np.ndarray) -> None:
    """Write RGB or one channel as the file's ending says, JPEG or PNG."""
    bgr = image[..., ::-1] if image.ndim == 3 else image
    written, data = cv2.imencode(path.suffix, bgr, [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else [])
    assert written, "OpenCV encodes JPEG and PNG"
    path.write_bytes(data.tobytes())
