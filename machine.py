"""What this machine has for each stage: processor, disk, GPU, decoders, data, accounts.

Takes nothing, yields findings, each with what it is, whether it is there, and what to do where it is not. Nothing is
changed, nothing is asked of the network, no token is read out, and a part that cannot be looked at is a finding of its
own. Costs about 10 s, most of it for loading torch and DALI and trying DALI on small videos in a child process.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from deltactl import __version__
from deltactl.artifacts import workspace
from deltactl.compilation import compile_fault
from deltactl.configs.backbone_name import BackboneName
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.configs.names import head_variable, root_variable
from deltactl.engine import Child
from deltactl.errors import DeltactlError
from deltactl.processor import bfloat16_instructions
from deltactl.progress import format_bytes
from deltactl.redaction import one_line
from deltactl.registry import DATASETS

BACKBONE: str = EvaluateConfig.model_fields["backbone"].default
ROOTS = tuple(filter(None, map(root_variable, DATASETS.names())))
HEADS = tuple(filter(None, map(head_variable, DATASETS.names())))
NETWORKS = ("DELTACTL_BACKBONE", *HEADS, "RGB_HEAD_PATH")
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


def _here(name: str, detail: str) -> Finding:
    return Finding("", name, True, detail)


def _missing(name: str, detail: str, remedy: str, optional: bool = False) -> Finding:
    return Finding("", name, False, detail, remedy, optional)


def examine() -> Iterator[Finding]:
    """Yield all findings, group by group."""
    groups = {
        "machine": _machine,
        "GPU": _gpu,
        "decoders": _decoders,
        "data": _data,
        "accounts": _accounts,
        "extras": _extras,
    }
    for group, look in groups.items():
        try:
            for finding in look():
                yield replace(finding, group=group)
        except Exception as error:
            logging.getLogger(__name__).debug("looking at %s", group, exc_info=True)
            detail = f"could not be looked at ({one_line(f'{type(error).__name__}: {error}')})"
            yield Finding(group, group, False, detail, "deltactl doctor --verbose says more")


def _machine() -> Iterator[Finding]:
    yield _here("deltactl", f"{__version__}, Python {platform.python_version()}")
    yield _here("processor", f"{len(os.sched_getaffinity(0))} cores")
    yield _here("bfloat16", _bfloat16(bfloat16_instructions()))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    yield _here("memory", format_bytes(total))
    home = workspace()
    if not home.is_local:
        yield _here("workspace", f"{home} (an object store; not looked at)")
        return
    there = next(folder for folder in (home.path, *home.path.parents) if folder.is_dir())
    if os.access(there, os.W_OK | os.X_OK):
        yield _here("workspace", f"{home}, {format_bytes(shutil.disk_usage(there).free)} free")
    else:
        yield _missing("workspace", f"{there} is not writable", "set DELTACTL_HOME to a folder that is")


def _bfloat16(instructions: list[str]) -> str:
    """Return whether the processor multiplies in bfloat16 faster than in float32."""
    if instructions:
        return f"{' and '.join(instructions)}: --precision bfloat16 computes faster than float32 on this processor"
    return "neither amx_bf16 nor avx512_bf16: float32 is the faster precision on this processor"


def _gpu() -> Iterator[Finding]:
    import torch

    from deltactl.gpu_faults import absence, usable_gpus
    from deltactl.ingest.video.decode_dali import NVDEC, has_nvdec

    driver, knows = _driver(), _driver_cuda()
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield _here("torch", f"{torch.__version__} ({build})")
    usable = False
    if driver is None and knows is None:
        yield _missing("driver", "no NVIDIA driver", "everything runs on the CPU; training at size needs one", True)
    else:
        yield _here("driver", f"NVIDIA {driver or '?'}" + (f", which knows CUDA {knows}" if knows else ""))
        usable = usable_gpus() > 0
        if not usable:
            reason, _, remedy = absence().partition("; ")
            yield _missing("devices", reason, remedy or "run: nvidia-smi")
    for index in range(torch.cuda.device_count() if usable else 0):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if device.major >= 8 else "no bf16"
        yield _here(f"cuda:{index}", f"{device.name}, {format_bytes(device.total_memory)}, {bf16}")
    yield _compile("cuda" if usable else "cpu")
    if usable and has_nvdec():
        yield _here("NVDEC", f"{NVDEC} is here")
    elif usable:  # containers often leave it out
        instead = "PyAV decodes on the CPU meanwhile"
        remedy = f"in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility,video; {instead}"
        yield _missing("NVDEC", f"{NVDEC} is not here, so no video is decoded on the GPU", remedy)


def _compile(device_type: Literal["cuda", "cpu"]) -> Finding:
    """Return whether torch.compile has what it needs; on a CPU it is used where `compile` says so."""
    where = "GPU" if device_type == "cuda" else "CPU"
    if (fault := compile_fault(device_type)) is None:
        return _here("torch.compile", f"has the compiler and headers that it needs for this {where}")
    reason, _, remedy = fault.partition("; ")
    use = "without it networks run slower" if device_type == "cuda" else "only needed for the setting compile=true"
    detail = f"does not work for this {where}: {reason}"
    return _missing("torch.compile", detail, f"{remedy}; {use}", optional=device_type == "cpu")


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


def _decoders() -> Iterator[Finding]:
    import av

    from deltactl.ingest.video.decode_dali import dali_is_installed, gpu_count
    from deltactl.ingest.video.probe import ENCODERS

    known = ", ".join(codec for codec in ENCODERS if _pyav_decodes(codec))
    yield _here("PyAV", f"{av.__version__}, FFmpeg {av.ffmpeg_version_info}; decodes {known}")
    if not dali_is_installed():
        remedy = "pip install 'deltactl[gpu]' (CUDA 12: 'deltactl[gpu-cuda12]') to decode videos on a GPU"
        yield _missing("DALI", "not installed", remedy, optional=True)
        return
    names = (each.metadata["Name"] or "" for each in importlib.metadata.distributions())
    name = next(name for name in names if name.startswith("nvidia-dali"))
    device: Literal["gpu", "cpu"] = "gpu" if gpu_count() else "cpu"
    reasons = dali_codecs(device)
    works = ", ".join(codec for codec, reason in reasons.items() if reason is None) or "nothing"
    yield _here("DALI", f"{name} {importlib.metadata.version(name)}; decodes {works} on this {device.upper()}")
    for codec, reason in reasons.items():
        if reason is not None and device == "gpu":
            yield _missing(f"DALI, {codec}", reason, "PyAV decodes it on the CPU", optional=True)


def _pyav_decodes(codec: str) -> bool:
    import av

    try:
        return bool(av.codec.Codec(codec, "r"))
    except ValueError:
        return False


def dali_codecs(device: Literal["gpu", "cpu"]) -> dict[str, str | None]:
    """Return for each codec None where DALI decodes a small video of it on the device, else the reason."""
    from deltactl.ingest.video.probe import ENCODERS

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
        from deltactl.ingest.video.decode_dali import DaliDecoder
        from deltactl.ingest.video.probe import PROBE_FRAMES, write_probe
        from deltactl.ingest.video.timestamps import Video

        decoder, path = DaliDecoder(self._device), Path(task)
        write_probe(path, path.stem)
        with Video(path) as video:
            if reason := decoder.refusal(video):
                return reason
            frames = list(decoder.frames(video, range(PROBE_FRAMES)))
        return None if len(frames) == PROBE_FRAMES else f"{len(frames)} of {PROBE_FRAMES} frames came back"


def _data() -> Iterator[Finding]:
    for name in (*ROOTS, *NETWORKS):
        value = os.environ.get(name)
        if not value:
            what = "folder" if name in ROOTS else "backbone" if name == NETWORKS[0] else "checkpoint"
            yield _missing(name, "not set", f"set it to the {what}, or name that on the command line", optional=True)
            continue
        try:
            place = BackboneName.parse(value).place if name == NETWORKS[0] else value
        except ValueError as error:
            yield _missing(name, f"{value}: {error}", "correct what stands behind the ?")
            continue
        there = Path(place).expanduser().exists()
        if "://" in place or (name in NETWORKS and not there and place.count("/") == 1):
            yield _here(name, f"{value} (remote; not looked at)")
        elif there:
            yield _here(name, value)
        else:
            yield _missing(name, f"{value} does not exist", "correct the path")


def _accounts() -> Iterator[Finding]:
    from huggingface_hub import get_token, try_to_load_from_cache

    from deltactl.train.callbacks.wandb_login import is_logged_in

    if get_token():
        yield _here("Hugging Face", "logged in (the token was not tried)")
    else:
        remedy = "hf auth login; needed for gated models, such as DINOv3"
        yield _missing("Hugging Face", "not logged in", remedy, optional=True)
    if isinstance(try_to_load_from_cache(BACKBONE, "model.safetensors"), str):
        yield _here("DINOv3 ViT-B", "the default backbone; in the Hub's cache")
    else:
        remedy = f"accept the licence at https://huggingface.co/{BACKBONE}; it is fetched when first used"
        yield _missing("DINOv3 ViT-B", "the default backbone; not in the Hub's cache", remedy, optional=True)
    if is_logged_in():
        mode = os.environ.get("WANDB_MODE")
        yield _here("Weights & Biases", "logged in" + (f", WANDB_MODE={mode}" if mode else ""))
    else:
        remedy = "wandb login, to see runs online; without it they are kept here"
        yield _missing("Weights & Biases", "not logged in", remedy, optional=True)


def _extras() -> Iterator[Finding]:
    try:
        yield _here("Ray", importlib.metadata.version("ray"))
    except importlib.metadata.PackageNotFoundError:
        yield _missing("Ray", "not installed", "pip install 'deltactl[cluster]' for many machines", optional=True)
    for title, package, what in (("PyArrow", "pyarrow", "LeRobot sets"), ("h5py", "h5py", "HDF5 demonstrations")):
        try:
            yield _here(title, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield _missing(title, "not installed", f"pip install 'deltactl[robotics]' for {what}", optional=True)
