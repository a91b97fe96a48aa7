"""Decodes JPEG frames with NVIDIA DALI: on the GPU that runs the backbone, or the same graph on a CPU.

Takes a few clips as they lie in the shard, returns their crops on the device, as `ClipDecoder` does. One call takes all
their frames. A single damaged file costs DALI the whole call and the pipeline with it; then OpenCV decodes these
clips, and names the frame. (400 JPEGs with flipped bytes gave errors, never a crash; and frames are checked for their
end first. A tar's hash is known after its last clip only.) On a CPU the pixels are OpenCV's, bit for bit; on a GPU the
halved colours of a JPEG are smoothed as OpenCV's are, which the card's own JPEG engine cannot do: the decoder's kernels
do it, and take a little of the time that the backbone would have.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from deltactl.errors import MissingExtraError, SourceError
from deltactl.featurize.pipeline.decode import ClipDecoder, frame_name
from deltactl.featurize.pipeline.events import ClipFrames, Closed, DecodedEvent, NoFrames, RawClip, ShardEvent
from deltactl.ingest.shards.images import check_complete
from deltactl.ingest.video.decode_dali import first_reason

log = logging.getLogger(__name__)

CALL_CLIPS = 8
"""Clips decoded in one call."""
HARDWARE_SHARE = 0.9
"""Of the frames that a card's JPEG engine can decode, those it is given; the rest go to the decoder's kernels."""


class DaliClipDecoder:
    """Decodes several clips at once; where DALI does not work, and where it fails, OpenCV does."""

    def __init__(self, clips: ClipDecoder, device_id: int | None) -> None:
        """`clips` decodes with OpenCV, in as many threads as DALI; `device_id` is the GPU's number, None for a CPU."""
        self._clips = clips
        self._device_id = device_id
        self._works: bool | None = None
        """Whether DALI works here; None until it was tried."""
        self._pipeline: Any = None
        self._stream: Any = None

    def run(self, events: Iterator[ShardEvent]) -> Iterator[DecodedEvent]:
        """Yield decoded clips in place of raw ones, a few of a job in one call."""
        if self._works is None:
            fault = self.fault()
            self._works = fault is None
            if fault is not None:
                device = "cpu" if self._device_id is None else f"cuda:{self._device_id}"
                log.warning("DALI does not work on %s, so OpenCV decodes: %s", device, fault)
        if not self._works:
            yield from self._clips.run(events)
            return
        raws: list[RawClip] = []
        for event in events:
            if isinstance(event, RawClip):
                raws.append(event)
            if len(raws) == CALL_CLIPS or (raws and not isinstance(event, RawClip)):
                yield from self.decode(raws)
                raws = []
            if not isinstance(event, RawClip):
                yield Closed({"decoder": "dali", **event.computed}) if isinstance(event, Closed) else event

    def fault(self) -> str | None:
        """Return why DALI does not work on this device, tried on a small picture; None where it does."""
        picture = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1]
        try:
            self._images([picture.tobytes()])
        except RuntimeError as error:
            self._pipeline = None
            return first_reason(str(error))
        return None

    def decode(self, raws: Sequence[RawClip]) -> list[ClipFrames | NoFrames]:
        """Return each clip's crops, or why there are none, in order."""
        if not all(self._looks_sound(raw) for raw in raws):
            return [self._clips.decode(raw) for raw in raws]
        try:
            images = self._images([data for raw in raws for data in raw.clip.frames])
        except RuntimeError as error:
            self._pipeline = None  # an error ends it
            log.debug("DALI did not decode %d clips, OpenCV does: %s", len(raws), error)
            return [self._clips.decode(raw) for raw in raws]
        return self._cut_on_gpu(raws, images) if self._device_id is not None else self._cut(raws, images)

    def _cut(self, raws: Sequence[RawClip], images: Sequence[Tensor]) -> list[ClipFrames | NoFrames]:
        size = self._clips.frames
        return [self._clips.cut(raw, images[number * size :][:size]) for number, raw in enumerate(raws)]

    def _cut_on_gpu(self, raws: Sequence[RawClip], images: Sequence[Tensor]) -> list[ClipFrames | NoFrames]:
        """Cut on a stream of its own: on the backbone's, the copies would wait for the backbone."""
        assert self._device_id is not None, "on a GPU only"
        device = torch.device("cuda", self._device_id)
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        with torch.cuda.stream(self._stream):
            clips = self._cut(raws, images)
        self._stream.synchronize()  # DALI uses its buffer again in the next call
        for clip in clips:
            if isinstance(clip, ClipFrames):
                clip.frames.record_stream(torch.cuda.default_stream(device))
        return clips

    def _looks_sound(self, raw: RawClip) -> bool:
        if self._clips.refuse(raw) is not None or raw.clip.frame_format != "jpg":
            return False
        try:
            for number, data in enumerate(raw.clip.frames):
                check_complete(data, frame_name(raw, number))
        except SourceError:
            return False
        return True

    def _images(self, files: Sequence[bytes]) -> list[UInt8[Tensor, "height width 3"]]:
        """Return the pictures in the files; they are views into a buffer that the next call overwrites."""
        if self._pipeline is None:
            self._pipeline = self._build()
        self._pipeline.feed_input("files", [np.frombuffer(data, np.uint8) for data in files])
        (output,) = self._pipeline.run()
        return [from_dlpack(output[number]) for number in range(len(files))]

    def _build(self) -> Any:
        dali: Any = load_dali()
        pipeline = dali.Pipeline(
            batch_size=CALL_CLIPS * self._clips.frames,
            num_threads=self._clips.threads,
            device_id=self._device_id,
            exec_pipelined=False,
            exec_async=False,
            prefetch_queue_depth=1,
        )
        with pipeline:
            files = dali.fn.external_source(name="files", dtype=dali.types.UINT8, ndim=1)
            images = dali.fn.decoders.image(
                files,
                device="cpu" if self._device_id is None else "mixed",
                output_type=dali.types.RGB,
                jpeg_fancy_upsampling=True,  # as OpenCV
                hw_decoder_load=HARDWARE_SHARE,
            )
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline


def load_dali() -> Any:
    """Return the module `nvidia.dali`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("nvidia.dali")
    except ImportError as error:
        raise MissingExtraError("NVIDIA DALI", "gpu", "--set decoder=dali") from error
