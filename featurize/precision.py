"""Whether bfloat16 would do on this CPU: measured on a clip of the shards themselves, before anything is made.

`auto` means float32 on a CPU, whose features agree with the published ones. Where the processor multiplies in bfloat16
faster, a dry run measures by how much, and how far these features are from those in float32; within the bound of a
store's identity it offers them. Costs the backbone once more in memory, and two batches in each precision.
"""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.featurize.compute import Computer
from deltactl.featurize.crops import crop_resize
from deltactl.featurize.decode import ClipDecoder
from deltactl.featurize.events import ClipFrames, Job, RawClip
from deltactl.featurize.plan import Plan
from deltactl.featurize.views import View
from deltactl.ingest.geometry import Box
from deltactl.processor import bfloat16_instructions

LEAST_COSINE = 0.9999
"""Between features that count as the same."""


def offer_bfloat16(config: FeaturizeConfig, plan: Plan, computer: Computer) -> str | None:
    """Return what `--precision bfloat16` would give, and cost; None where the question does not arise."""
    instructions = bfloat16_instructions()
    if config.precision != "auto" or computer.device.type != "cpu" or not instructions:
        return None
    frames = _first_frames(config, plan, computer.batch_size)
    if frames is None:
        return None
    low = Computer.load(
        config.backbone,
        config.size,
        device="cpu",
        precision="bfloat16",
        batch_size=computer.batch_size,
        compiled=config.compile,
    )
    plain, other = (each.start(frames).wait()[0].float() for each in (computer, low))
    least = float(torch.nn.functional.cosine_similarity(plain, other, dim=-1).min())
    faster = low.frames_per_second() / computer.frames_per_second()
    measured = f"least cosine to float32 {least:.6f} over {len(frames)} of these frames"
    if least < LEAST_COSINE:
        return f"bfloat16 is not offered: {measured}, below {LEAST_COSINE:g}"
    return f"--precision bfloat16: {faster:.2g} × as fast on this processor ({', '.join(instructions)}), {measured}"


def _first_frames(config: FeaturizeConfig, plan: Plan, count: int) -> UInt8[Tensor, "frame 3 size size"] | None:
    """Return the first frames that would be computed, as the backbone sees them; None where there are none."""
    decoder = ClipDecoder(plan.crops, config.seed, plan.layout.frames, pinned=False)
    found: list[Tensor] = []
    for job in plan.jobs[:1]:
        for row, clip in enumerate(plan.shards.read(job.unit)):
            decoded = decoder.decode(RawClip(Job(job.view, job.unit), row, clip))
            if isinstance(decoded, ClipFrames):
                box = decoded.view.crop
                whole = View(Box(0, 0, box.height, box.width), decoded.view.flip)
                found.append(crop_resize(decoded.frames.permute(0, 3, 1, 2), whole, config.size))
            if sum(map(len, found)) >= count:
                return torch.cat(found)[:count]
    return torch.cat(found) if found else None
