"""FFmpeg's own program as the reference: it makes small videos of every kind, and says what their frames look like.

The program comes in the wheel `imageio-ffmpeg`. A picture here is 160 × 96 pixels: its number on top, as in `videos`,
then ten flat blocks of colour, so that orientation, colours and order can be told apart.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
from videos import BLOCK, HEIGHT, WIDTH, numbered_frame

FRAMES, RATE = 16, 25
COLOURS = [
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)],
    [(0, 255, 255), (255, 255, 255), (0, 0, 0), (255, 128, 0), (128, 128, 128)],
]
ENCODERS: dict[str, Sequence[str]] = {
    "h264": ("libx264", "-qp", "4", "-bf", "2", "-g", "6", "-preset", "ultrafast"),
    "hevc": ("libx265", "-x265-params", "log-level=none:qp=4:keyint=6:bframes=2", "-preset", "ultrafast"),
    "vvc": ("libvvenc", "-qp", "8", "-preset", "faster"),
    "vp8": ("libvpx", "-b:v", "4M", "-qmin", "0", "-qmax", "4", "-g", "6", "-deadline", "realtime", "-cpu-used", "8"),
    "vp9": ("libvpx-vp9", "-lossless", "1", "-g", "6", "-deadline", "realtime", "-cpu-used", "8"),
    "av1": ("libsvtav1", "-crf", "4", "-preset", "12", "-g", "6", "-svtav1-params", "log-level=-1"),
    "mjpeg": ("mjpeg", "-q:v", "1"),
    "mpeg4": ("mpeg4", "-q:v", "1", "-bf", "2", "-g", "6"),
    "mpeg2": ("mpeg2video", "-q:v", "1", "-bf", "2", "-g", "6"),
    "gif": ("gif",),
}
MATRICES = {"bt601": "smpte170m", "bt709": "bt709", "bt2020": "bt2020nc"}
"""Our name of a matrix, and FFmpeg's."""


@dataclass(frozen=True)
class Case:
    """How a video is made."""

    codec: str
    container: str
    matrix: str | None = None
    """Of the colours; None: the stream names none."""
    full: bool = False
    turn: int = 0
    """Degrees that the picture is turned when shown."""
    flip: bool = False
    """Whether it is mirrored left to right, too."""
    start: float = 0.0
    """Seconds that the container's first frame is shown at."""
    cut: float = 0.0
    """Seconds that are cut from the beginning without encoding again, by an edit list."""
    uneven: bool = False
    """Whether frames lie at uneven distances."""
    muted: bool = False
    """Whether the colours are half as strong; full ones DALI refuses in VP9."""
    extra: str = ""
    """What else is in it: `sound`, `cover`, `small` (a smaller video, first), `unknown` (MP4: a codec unheard of)."""

    def __str__(self) -> str:
        words = [self.codec, self.container, self.matrix or "", "pc" if self.full else "", self.extra]
        words += ["muted" if self.muted else ""]
        words += [f"turn{self.turn}" if self.turn else "", "flip" if self.flip else "", "uneven" if self.uneven else ""]
        words += [f"start{self.start:g}" if self.start else "", f"cut{self.cut:g}" if self.cut else ""]
        return "-".join(word for word in words if word)


@dataclass(frozen=True)
class Shown:
    """What FFmpeg's program makes of a file."""

    frames: np.ndarray
    """uint8 (frames, height, width, 3)."""
    times: np.ndarray
    """Seconds on the container's clock."""
    tick: float
    """Seconds of one unit of that clock."""


@cache
def program() -> str:
    """Return the program's path."""
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def ffmpeg(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the program; RuntimeError with what it says where it fails."""
    command = [program(), "-y", "-nostdin" if stdin is None else "-hide_banner", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-800:]}")
    return done


def picture(number: int, *, muted: bool = False) -> np.ndarray:
    """Return picture `number`, uint8 (96, 160, 3)."""
    image = numbered_frame(number)
    for row, colours in enumerate(COLOURS):
        for column, colour in enumerate(colours):
            levels = [level // 2 + 64 for level in colour] if muted else colour
            image[(row + 1) * 2 * BLOCK : (row + 2) * 2 * BLOCK, column * 32 : (column + 1) * 32] = levels
    return image


def make(folder: Path, case: Case) -> Path:
    """Return the video that a case describes."""
    plain = _encode(folder, case)
    turned = plain
    if case.turn or case.flip or case.cut or case.start or case.extra:
        turned = folder / f"{case}.{case.container}"
        _remux(folder, plain, turned, case)
    if case.extra == "unknown":
        data = turned.read_bytes()
        at = data.rfind(b"avc1")
        turned.write_bytes(data[:at] + b"zzzz" + data[at + 4 :])
    return turned


def _encode(folder: Path, case: Case) -> Path:
    path = folder / f"{replace(case, turn=0, flip=False, cut=0.0, start=0.0, extra='')}.{case.container}"
    if path.exists():
        return path
    name, *options = ENCODERS[case.codec]
    matrix = case.matrix or "bt601"
    scale = f"scale=out_color_matrix={matrix.replace('bt2020', 'bt2020nc')}:out_range={'pc' if case.full else 'tv'}"
    pixels = {"mjpeg": "yuvj420p" if case.full else "yuv420p", "vvc": "yuv420p10le", "gif": "rgb8"}
    filters = [f"{scale}:flags=accurate_rnd+full_chroma_int", f"format={pixels.get(case.codec, 'yuv420p')}"]
    if case.codec == "gif":
        filters = ["format=rgb8"]
    if case.uneven:
        filters.insert(0, r"setpts=(3*N+mod(N\,3))/(3*TB*25)")
    tags = ["-color_range", "pc" if case.full else "tv"] if case.codec != "gif" else []
    tags += ["-colorspace", MATRICES[case.matrix]] if case.matrix else []
    if case.codec == "mjpeg":
        tags += ["-strict", "unofficial"]
    if case.codec == "h264" and case.full and case.matrix is None:
        tags += ["-x264-params", "fullrange=on"]
    raw = np.stack([picture(number, muted=case.muted) for number in range(FRAMES)]).tobytes()
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", RATE, "-i", "-"]
    timing = ["-fps_mode", "vfr", "-enc_time_base", "1/1000"] if case.uneven else []
    ffmpeg(*source, "-vf", ",".join(filters), "-c:v", name, *options, *tags, *timing, "-threads", 1, path, stdin=raw)
    return path


def _remux(folder: Path, plain: Path, path: Path, case: Case) -> None:
    inputs: list[object] = []
    if case.turn:
        inputs += ["-display_rotation", case.turn]
    if case.flip:
        inputs += ["-display_hflip"]
    if case.cut:
        inputs += ["-ss", case.cut]
    inputs += ["-i", plain]
    maps: list[object] = ["-map", "0:v"]
    codecs: list[object] = ["-c", "copy"]
    if case.extra == "sound":
        inputs += ["-f", "lavfi", "-i", "sine=d=0.6"]
        maps += ["-map", "1:a"]
        codecs = ["-c:v", "copy"]
    elif case.extra == "cover":
        cover = folder / "cover.jpg"
        ffmpeg("-f", "lavfi", "-i", "color=red:s=640x480", "-frames:v", 1, "-update", 1, cover)
        inputs += ["-i", cover]
        maps = ["-map", "1:v", *maps]
        codecs += ["-disposition:v:0", "attached_pic"]
    elif case.extra:
        small = folder / f"small.{case.container}"
        codec = ENCODERS["h264" if case.extra == "unknown" else case.codec]
        source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.64", "-pix_fmt", "yuv420p"]
        ffmpeg(*source, "-c:v", codec[0], "-b:v", "4M", small)
        inputs += ["-i", small]
        maps = [*maps, "-map", "1:v"] if case.extra == "unknown" else ["-map", "1:v", *maps]
        codecs += ["-disposition:v", "0"]
    offset: list[object] = []
    if case.start:
        offset = ["-output_ts_offset", case.start, "-avoid_negative_ts", "disabled"]
    if case.container in ("ts", "vob"):
        offset += ["-muxdelay", 0, "-muxpreload", 0]
    ffmpeg(*inputs, *maps, *codecs, *offset, path)


def shown(path: Path, *filters: str) -> Shown:
    """Return what the program shows of a file, upright, in RGB, on the container's clock."""
    chain = ",".join([*filters, "showinfo"])
    arguments = ["-copyts", "-i", path, "-vf", chain, "-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough"]
    done = ffmpeg("-hide_banner", "-threads", 1, *arguments, "-")
    log = done.stderr.decode(errors="replace")
    base = re.search(r"config in time_base: (\d+/\d+)", log)
    size = re.findall(r" s:(\d+)x(\d+) ", log)
    assert base is not None, log
    assert size, log
    width, height = map(int, size[0])
    pts = [int(each) for each in re.findall(r"\] n: *\d+ pts: *(-?\d+)", log)]
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    tick = Fraction(base[1])
    return Shown(frames, np.array([float(each * tick) for each in pts]), float(tick))


def blocks(image: np.ndarray) -> np.ndarray:
    """Return the mean colours of the insides of a picture's blocks, (rows, columns, 3); whatever its orientation."""
    height, width = image.shape[0] // BLOCK, image.shape[1] // BLOCK
    cells = image[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK, 3)
    return cells[:, 5:-5, :, 5:-5].astype(np.float64).mean(axis=(1, 3))
