"""Makes small videos whose frames carry their own number in their pixels, and reads the numbers back.

The number stands as ten square blocks, black or white, along the top, and inverted below; at 16 pixels a block that
survives every codec, chroma upsampling and moderate resizing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS, BLOCK = 10, 16
WIDTH, HEIGHT = BITS * BLOCK, 96
DARK, LIGHT = 30, 220

CODECS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "h264": ("libx264", {"bf": "3", "g": "30"}),
    "hevc": ("libx265", {"x265-params": "log-level=none:keyint=30:bframes=3"}),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "30"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "30"}),
    "av1": ("libsvtav1", {"preset": "12", "g": "30"}),
    "mpeg4": ("mpeg4", {"bf": "2", "g": "30"}),
    "mjpeg": ("mjpeg", {"q": "2"}),
}
"""FFmpeg's encoder and its options for each codec."""


def numbered_frame(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return a picture (height, width, 3) that shows `number`, on a colourful ground that moves with it."""
    rows, columns = np.mgrid[:height, :width]
    ground = np.stack([rows + number, columns + 2 * number, rows + columns], axis=-1) % 128 + 64
    picture = ground.astype(np.uint8)
    block = width // BITS
    for bit in range(BITS):
        level = LIGHT if number >> bit & 1 else DARK
        column = slice(bit * block, (bit + 1) * block)
        picture[:block, column] = level
        picture[block : 2 * block, column] = LIGHT + DARK - level
    return picture


def read_number(picture: np.ndarray) -> int:
    """Return the number that a picture shows; ValueError where it shows none. Resized pictures are read as well."""
    scale = picture.shape[1] / WIDTH
    size = BLOCK * scale
    number = 0
    for bit in range(BITS):
        levels = []
        for row in range(2):
            top, left = (row + 0.25) * size, (bit + 0.25) * size
            block = picture[round(top) : round(top + size / 2), round(left) : round(left + size / 2)]
            levels.append(float(block.mean()))
        if abs(levels[0] - levels[1]) < 60:
            raise ValueError(f"no number in this picture: bit {bit} has levels {levels}")
        number |= int(levels[0] > levels[1]) << bit
    return number


def make_video(
    path: Path,
    codec: str = "h264",
    *,
    frames: int = 60,
    rate: int = 30,
    times: Sequence[float] | None = None,
    pixel_format: str | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
    rotation: int = 0,
    options: Mapping[str, str] | None = None,
    container: str | None = None,
    container_options: Mapping[str, str] | None = None,
) -> Path:
    """Write a video whose frame i shows i, at `rate` or at the given times (seconds), and return its path."""
    encoder, defaults = CODECS.get(codec, (codec, {}))
    time_base = Fraction(1, 1000) if times is not None else Fraction(1, rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container, options=dict(container_options or {})) as file:
        file.metadata["title"] = path.name  # so that no two files are copies of each other, where the format has titles
        stream = file.add_stream(encoder, rate=rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = pixel_format or ("yuvj420p" if codec == "mjpeg" else "yuv420p")
        stream.options = {**defaults, **(options or {})}
        stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            picture = numbered_frame(number, width=width, height=height)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times is None else round(times[number] * 1000)
            frame.time_base = time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def make_flat_video(
    path: Path, codec: str, samples: np.ndarray, *, space: int, full: bool, frames: int = 4, lossless: bool = True
) -> Path:
    """Write a video of columns of one colour each, 32 pixels wide, and return its path.

    `samples` (columns, 3) are the Y, Cb and Cr that are stored; `space` is their matrix in ITU-T H.273.
    """
    encoder, options = CODECS[codec]
    exact = {"h264": {"qp": "0"}, "hevc": {"x265-params": "log-level=none:lossless=1"}, "vp9": {"lossless": "1"}}
    width, height = 32 * len(samples), 96
    planes = [
        np.repeat(np.repeat(samples[:, channel].astype(np.uint8)[None], height // shrink, 0), 32 // shrink, 1)
        for channel, shrink in ((0, 1), (1, 2), (2, 2))
    ]
    data = np.concatenate([plane.ravel() for plane in planes]).reshape(height * 3 // 2, width)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {**options, **(exact[codec] if lossless else {})}
        stream.codec_context.colorspace = space
        stream.codec_context.color_range = 2 if full else 1
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(data, format="yuv420p")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def with_display_matrix(source: Path, target: Path, a: int, b: int, c: int, d: int) -> Path:
    """Copy an MP4 file with another display matrix: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(source.read_bytes())
    start = data.find(b"tkhd") + 4
    start += 40 if data[start] == 0 else 52  # after the header, as long as its version makes it
    one, last = 1 << 16, 1 << 30
    data[start : start + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, last)
    target.write_bytes(data)
    return target


def cut_start(source: Path, target: Path, *, frames: int, rate: int = 30) -> Path:
    """Copy a video without its first frames, by an edit list: their packets stay, marked to be discarded."""
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(source)) as before, av.open(str(target), "w", options=options) as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        shift = round(frames / rate / stream.time_base)
        for packet in before.demux(stream):
            if packet.dts is not None:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = copy
                after.mux(packet)
    return target


def drop_packets(source: Path, target: Path, *, packets: int) -> Path:
    """Copy a video without its first packets, as a recording that began in the middle of a broadcast."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in before.demux(stream) if packet.size):
            if number >= packets:
                packet.stream = copy
                after.mux(packet)
    return target
