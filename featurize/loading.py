"""Loads what makes groups of features: the backbone onto a device, and the pipeline around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from deltactl.artifacts import Identity
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.featurize.pipeline.compute import Computer, Result
from deltactl.featurize.pipeline.decode import ClipDecoder, Decoder
from deltactl.featurize.pipeline.decode_dali import DaliClipDecoder
from deltactl.featurize.pipeline.fill import Filler
from deltactl.featurize.pipeline.pipeline import Pipeline, decode_threads
from deltactl.featurize.pipeline.read import ClipReader
from deltactl.featurize.store.finish import layout_of
from deltactl.featurize.store.layout import BLACK, GROUP_FILE, Layout
from deltactl.featurize.views import Augmentation, Crops
from deltactl.ingest.shards.columns import Columns
from deltactl.locations import Location


def load_computer(config: FeaturizeConfig, device: str) -> Computer:
    """Load the backbone that the configuration names onto a device; errors as `Computer.load`."""
    return Computer.load(
        config.backbone,
        config.size,
        device=device,
        precision=config.precision,
        batch_size=config.batch_size,
        compiled=config.compile,
        dtype=config.dtype,
    )


def choose_decoder(
    config: FeaturizeConfig, device: str, crops: str, *, decoded: bool = False
) -> Literal["opencv", "dali"]:
    """Return what decodes frames on this device: DALI on a GPU, where it is installed and frames are JPEGs.

    Frames of evaluation sets (square crops) are PNGs, which DALI decodes on the CPU as well; those straight from videos
    come `decoded`.
    """
    if config.decoder != "auto":
        return config.decoder
    if decoded or not device.startswith("cuda") or crops != "augment":
        return "opencv"
    from deltactl.ingest.video.decode_dali import dali_is_installed  # with PyAV, which nothing else needs here

    return "dali" if dali_is_installed() else "opencv"


def load_pipeline(
    config: FeaturizeConfig,
    reader: ClipReader,
    frames: int,
    root: Location,
    identity: Identity,
    crops: Crops,
    device: str,
    *,
    carried: Columns = (),
) -> Pipeline:
    """Load what makes the groups of the feature store at `root`, of clips of so many frames, that carry so much."""
    computer = load_computer(config, device)
    rows, columns = computer.grid
    steps, shape = frames // computer.frames_per_step, (rows * columns, computer.backbone.dim)
    layout = Layout("features", steps, shape, config.dtype, carried=carried)
    filler = Filler(root, identity, layout_of(root, layout), computer.grid, computer.device.type)
    return make_pipeline(config, reader, frames, computer, computer.start, crops, filler)


def make_pipeline(
    config: FeaturizeConfig,
    reader: ClipReader,
    frames: int,
    computer: Computer,
    start: Callable[[Tensor], Result],
    crops: Crops,
    filler: Filler,
) -> Pipeline:
    """Start the reader, and put the pipeline together; `start` is as in `Pipeline`."""
    reader.start(config.decode_threads or decode_threads(computer.device.type))
    decoder = make_decoder(config, computer, crops, frames, decoded=reader.decodes)
    return Pipeline(reader, decoder, computer, start, filler)


def make_decoder(
    config: FeaturizeConfig, computer: Computer, crops: Crops, frames: int, *, decoded: bool = False
) -> Decoder:
    """Return what decodes clips of so many frames for a backbone, where `choose_decoder` says."""
    device = computer.device
    on_gpu, threads = device.type == "cuda", config.decode_threads or decode_threads(device.type)
    clips = ClipDecoder(
        crops,
        config.seed,
        frames,
        pinned=on_gpu,
        threads=threads,
        augmentation=Augmentation.of(config),
        aspect=config.size.aspect,
    )
    if choose_decoder(config, str(device), crops, decoded=decoded) == "opencv":
        return clips
    return DaliClipDecoder(clips, (device.index or 0) if on_gpu else None)


def black_frame(config: FeaturizeConfig, root: Location) -> Float32[np.ndarray, "patch dim"] | None:
    """Return the features of an all-zero frame, computed on the CPU; None where they stand in the store already."""
    if (root / BLACK / GROUP_FILE).exists():
        return None
    plain = config.model_copy(update={"precision": "float32", "compile": False})
    backbone = load_computer(plain, "cpu").backbone
    return backbone.black_features(*config.size.pair).numpy()
