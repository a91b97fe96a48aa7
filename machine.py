"""What this machine has for each stage: processor, disk, GPU, decoders, data, accounts.

In comes nothing; out come findings, each with what it is, whether it is there, and what to do where it is not. Nothing
is changed, nothing is asked of the network, no token is read out, and a part that cannot be looked at is a finding of
its own. Takes about 10 s, most of it loading torch and DALI and trying DALI on small videos in a child process.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deltactl import __version__
from deltactl.artifacts import workspace
from deltactl.compilation import compile_fault
from deltactl.engine import Child
from deltactl.errors import DeltactlError
from deltactl.processor import bfloat16_instructions
from deltactl.progress import format_bytes
from deltactl.redaction import one_line

BACKBONE = "facebook/dinov3-vitb16-pretrain-lvd1689m"
ROOTS = ("KINETICS_ROOT", "VSPW_ROOT", "CITYSCAPES_ROOT", "KITTI_ROOT")
HEADS = ("VSPW_HEAD_PATH", "CITYSCAPES_HEAD_PATH", "KITTI_HEAD_PATH", "RGB_HEAD_PATH")
NETWORKS = ("DELTACTL_BACKBONE", *HEADS)
PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    group: str
    name: str
    found: bool
    detail: str
    remedy: str = ""
    """What to do where it is missing, and what for."""
    optional: bool = False
    """Whether all else works without it."""


def examine() -> Iterator[Finding]:
    """Yield all findings, group by group."""
    groups: dict[str, Callable[[], Iterator[Finding]]] = {
        "machine": _machine,
        "GPU": _gpu,
        "decoders": _decoders,
        "data": _data,
        "accounts": _accounts,
        "extras": _extras,
    }
    for group, look in groups.items():
        try:
            yield from look()
        except Exception as error:
            logging.getLogger(__name__).debug("looking at %s", group, exc_info=True)
            what = one_line(f"{type(error).__name__}: {error}")
            yield Finding(
                group, group, False, f"could not be looked at ({what})", "deltactl doctor --verbose says more"
            )


# --- machine ---------------------------------------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    group = "machine"
    yield Finding(group, "deltactl", True, f"{__version__}, Python {platform.python_version()}")
    yield Finding(group, "processor", True, f"{len(os.sched_getaffinity(0))} cores")
    yield Finding(group, "bfloat16", True, _bfloat16(bfloat16_instructions()))
    yield Finding(group, "memory", True, _memory())
    home = workspace()
    if not home.is_local:
        yield Finding(group, "workspace", True, f"{home} (an object store; not looked at)")
        return
    there = next(folder for folder in (home.path, *home.path.parents) if folder.is_dir())
    free = format_bytes(shutil.disk_usage(there).free)
    if os.access(there, os.W_OK | os.X_OK):
        yield Finding(group, "workspace", True, f"{home}, {free} free")
    else:
        yield Finding(group, "workspace", False, f"{there} is not writable", "set DELTACTL_HOME to a folder that is")


def _bfloat16(instructions: list[str]) -> str:
    """Return whether the processor multiplies in bfloat16 faster than in float32."""
    if instructions:
        return f"{' and '.join(instructions)}: --precision bfloat16 computes faster than float32 on this processor"
    return "neither amx_bf16 nor avx512_bf16: float32 is the faster precision on this processor"


def _memory() -> str:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    return format_bytes(total)


# --- GPU -------------------------------------------------------------------------------------------------------------


def _gpu() -> Iterator[Finding]:
    import torch

    from deltactl.gpu_faults import absence, usable_gpus

    group = "GPU"
    driver, knows = _driver(), _driver_cuda()
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Finding(group, "torch", True, f"{torch.__version__} ({build})")
    if driver is None and knows is None:
        remedy = "everything runs on the CPU; training at size needs one"
        yield Finding(group, "driver", False, "no NVIDIA driver", remedy, optional=True)
        yield _compile("cpu")
        return
    yield Finding(group, "driver", True, f"NVIDIA {driver or '?'}" + (f", which knows CUDA {knows}" if knows else ""))
    if not usable_gpus():
        reason, _, remedy = absence().partition("; ")
        yield Finding(group, "devices", False, reason, remedy or "run: nvidia-smi")
        yield _compile("cpu")
        return
    yield from _devices()
    yield _compile("cuda")
    yield _nvdec()


def _devices() -> Iterator[Finding]:
    import torch

    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if device.major >= 8 else "no bf16"
        yield Finding("GPU", f"cuda:{index}", True, f"{device.name}, {format_bytes(device.total_memory)}, {bf16}")


def _compile(device_type: str) -> Finding:
    """Return whether torch.compile has what it needs; on a CPU it is used where `compile` says so."""
    where = "GPU" if device_type == "cuda" else "CPU"
    fault = compile_fault(device_type)
    if fault is None:
        return Finding("GPU", "torch.compile", True, f"has the compiler and headers that it needs for this {where}")
    reason, _, remedy = fault.partition("; ")
    use = "without it networks run slower" if device_type == "cuda" else "only needed for the setting compile=true"
    detail = f"does not work for this {where}: {reason}"
    return Finding("GPU", "torch.compile", False, detail, f"{remedy}; {use}", optional=device_type == "cpu")


def _nvdec() -> Finding:
    """Return whether the driver's video decoder can be loaded; containers often leave it out."""
    from deltactl.ingest.decode_dali import NVDEC, has_nvdec

    if has_nvdec():
        return Finding("GPU", "NVDEC", True, f"{NVDEC} is here")
    remedy = "in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility,video; PyAV decodes on the CPU meanwhile"
    return Finding("GPU", "NVDEC", False, f"{NVDEC} is not here, so no video is decoded on the GPU", remedy)


def _driver_cuda() -> str | None:
    """Return the newest CUDA that the driver knows; None where there is no driver. Takes no memory on a GPU."""
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}" if version.value else None


def _driver() -> str | None:
    """Return the version of the NVIDIA driver; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    lines = answer.stdout.split()
    return lines[0] if answer.returncode == 0 and lines else None


# --- decoders --------------------------------------------------------------------------------------------------------


def _decoders() -> Iterator[Finding]:
    import av

    from deltactl.ingest.decode_dali import gpu_count
    from deltactl.ingest.probe import ENCODERS

    group = "decoders"
    known = ", ".join(codec for codec in ENCODERS if _pyav_decodes(codec))
    yield Finding(group, "PyAV", True, f"{av.__version__}, FFmpeg {av.ffmpeg_version_info}; decodes {known}")
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        remedy = "pip install 'deltactl[gpu]' (CUDA 12: 'deltactl[gpu-cuda12]') to decode videos on a GPU"
        yield Finding(group, "DALI", False, "not installed", remedy, optional=True)
        return
    name = next(
        each.metadata["Name"]
        for each in importlib.metadata.distributions()
        if (each.metadata["Name"] or "").startswith("nvidia-dali")
    )
    device: Literal["gpu", "cpu"] = "gpu" if gpu_count() else "cpu"
    reasons = dali_codecs(device)
    works = ", ".join(codec for codec, reason in reasons.items() if reason is None) or "nothing"
    version = f"{name} {importlib.metadata.version(name)}"
    yield Finding(group, "DALI", True, f"{version}; decodes {works} on this {device.upper()}")
    for codec, reason in reasons.items():
        if reason is not None and device == "gpu":
            yield Finding(group, f"DALI, {codec}", False, reason, "PyAV decodes it on the CPU", optional=True)


def _pyav_decodes(codec: str) -> bool:
    import av

    try:
        return bool(av.codec.Codec(codec, "r"))
    except ValueError:
        return False


def dali_codecs(device: Literal["gpu", "cpu"]) -> dict[str, str | None]:
    """Return for each codec None where DALI decodes a small video of it on the device, else the reason."""
    from deltactl.ingest.probe import ENCODERS

    reasons: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as folder, Child(_DaliProbe(device)) as child:
        for codec in ENCODERS:
            try:
                reasons[codec] = child.call(str(Path(folder) / f"{codec}.mkv"), time_limit_seconds=PROBE_SECONDS)
            except DeltactlError as error:
                reasons[codec] = one_line(str(error))
    return reasons


class _DaliProbe:
    """A worker that makes and decodes one small video; in a process of its own, since DALI may crash."""

    def __init__(self, device: Literal["gpu", "cpu"]) -> None:
        self._device = device

    def start(self, slot: int) -> None:  # noqa: ARG002
        """Keep the messages of DALI and the encoders off the terminal."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def run(self, task: str) -> str | None:
        """Return None where all frames of a video at this path, named after its codec, are decoded, else the reason."""
        from deltactl.ingest.decode_dali import DaliDecoder
        from deltactl.ingest.probe import PROBE_FRAMES, write_probe
        from deltactl.ingest.timestamps import Video

        decoder, path = DaliDecoder(self._device), Path(task)
        write_probe(path, path.stem)
        with Video(path) as video:
            if reason := decoder.refusal(video):
                return reason
            frames = list(decoder.frames(video, range(PROBE_FRAMES)))
        return None if len(frames) == PROBE_FRAMES else f"{len(frames)} of {PROBE_FRAMES} frames came back"


# --- data, accounts, extras ------------------------------------------------------------------------------------------


def _data() -> Iterator[Finding]:
    for name in (*ROOTS, *NETWORKS):
        value = os.environ.get(name)
        what = "folder" if name in ROOTS else "backbone" if name not in HEADS else "checkpoint"
        if not value:
            remedy = f"set it to the {what}, or name that on the command line"
            yield Finding("data", name, False, "not set", remedy, optional=True)
        elif "://" in value or (name in NETWORKS and not Path(value).exists() and value.count("/") == 1):
            yield Finding("data", name, True, f"{value} (remote; not looked at)")
        else:
            exists = Path(value).expanduser().exists()
            yield Finding("data", name, exists, value if exists else f"{value} does not exist", "correct the path")


def _accounts() -> Iterator[Finding]:
    from huggingface_hub import get_token, try_to_load_from_cache

    group = "accounts"
    page = f"https://huggingface.co/{BACKBONE}"
    if get_token():
        yield Finding(group, "Hugging Face", True, "logged in (the token was not tried)")
    else:
        remedy = "hf auth login; needed for the gated DINOv3"
        yield Finding(group, "Hugging Face", False, "not logged in", remedy, optional=True)
    if isinstance(try_to_load_from_cache(BACKBONE, "model.safetensors"), str):
        yield Finding(group, "DINOv3 ViT-B", True, "in the Hub's cache")
    else:
        remedy = f"accept the licence at {page}; it is fetched when first used"
        yield Finding(group, "DINOv3 ViT-B", False, "not in the Hub's cache", remedy, optional=True)
    mode = os.environ.get("WANDB_MODE")
    if _wandb_login():
        yield Finding(group, "Weights & Biases", True, "logged in" + (f", WANDB_MODE={mode}" if mode else ""))
    else:
        remedy = "wandb login, to see runs online; without it they are kept here"
        yield Finding(group, "Weights & Biases", False, "not logged in", remedy, optional=True)


def _wandb_login() -> bool:
    """Whether wandb has a key for its server, without loading wandb."""
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].strip("/")
    files = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            if netrc.netrc(file.expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _extras() -> Iterator[Finding]:
    try:
        yield Finding("extras", "Ray", True, importlib.metadata.version("ray"))
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install 'deltactl[cluster]' for many machines"
        yield Finding("extras", "Ray", False, "not installed", remedy, optional=True)
