"""Whether bfloat16 would do on this CPU: measured on frames of the shards themselves, before anything is made.

`auto` means float32 on a CPU, whose features agree with the published ones. Where the processor multiplies faster in
bfloat16, a dry run measures how much faster, and how far those features are from the ones in float32. It offers
bfloat16 where they count as the same. Costs the backbone once more in memory, and two batches in each precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.featurize.pipeline.compute import Computer
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.pipeline.decode import ClipDecoder
from deltactl.featurize.pipeline.events import ClipFrames, RawClip
from deltactl.featurize.plan import Plan
from deltactl.featurize.views import Augmentation
from deltactl.processor import bfloat16_instructions

LEAST_COSINE = 0.9999
"""Between features that count as the same."""


def offer_bfloat16(
    config: FeaturizeConfig,
    plan: Plan,
    computer: Computer,
    frames_per_second: float,
    load: Callable[[FeaturizeConfig, str], Computer],
) -> str | None:
    """Return what `--precision bfloat16` would give, and cost; None where the question does not arise.

    `frames_per_second` is the rate of `computer`, and `load` loads another one.
    """
    instructions = bfloat16_instructions()
    if config.precision != "auto" or computer.device.type != "cpu" or not instructions:
        return None
    frames = _first_frames(config, plan, computer.batch_size)
    if frames is None:
        return None
    low = load(config.model_copy(update={"precision": "bfloat16", "batch_size": computer.batch_size}), "cpu")
    plain, other = (each.start(frames).wait()[0].float() for each in (computer, low))
    least = float(torch.nn.functional.cosine_similarity(plain, other, dim=-1).min())
    faster = low.frames_per_second() / frames_per_second
    measured = f"least cosine to float32 {least:.6f} over {len(frames)} of these frames"
    if least < LEAST_COSINE:
        return f"bfloat16 is not offered: {measured}, below {LEAST_COSINE:g}"
    if faster <= 1:
        return f"bfloat16 is not offered: {faster:.2g} × as fast on this processor, which gains by larger networks only"
    return f"--precision bfloat16: {faster:.2g} × as fast on this processor ({', '.join(instructions)}), {measured}"


def _first_frames(config: FeaturizeConfig, plan: Plan, count: int) -> UInt8[Tensor, "frame 3 height width"] | None:
    """Return the first frames that would be computed, as the backbone sees them; None where there are none.

    Reads the beginning of one unit only. Damage in it is ignored here: the run itself names it.
    """
    augmentation, aspect = Augmentation.of(config), config.size.aspect
    frames = plan.origin.identity.integer("frames")
    decoder = ClipDecoder(plan.crops, config.seed, frames, pinned=False, augmentation=augmentation, aspect=aspect)
    found: list[Tensor] = []
    reader = plan.origin.reader(1)
    reader.start(1)
    with contextlib.closing(reader), contextlib.closing(reader.read(plan.jobs[:1])) as events:
        for event in events:
            decoded = decoder.decode(event) if isinstance(event, RawClip) else event
            if isinstance(decoded, ClipFrames):
                found.append(crop_resize(decoded.frames.permute(0, 3, 1, 2), decoded.view.of_cut, config.size))
            if sum(map(len, found)) >= count:
                return torch.cat(found)[:count]
    return torch.cat(found) if found else None
