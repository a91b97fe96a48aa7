"""A card that is not there: tensors on `cuda` without contents, autocast for them, and what inductor asks of an H200.

Needs a CUDA build of torch, though neither a card nor its driver; the CPU build cannot make tensors on `cuda`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

H200 = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    total_memory=141 * 10**9,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    warp_size=32,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    L2_cache_size=60 * 2**20,
    gcnArchName="",
)


@contextlib.contextmanager
def pretended_card() -> Iterator[None]:
    """Let tensors on `cuda` be computed with, under autocast and with fused attention, as if the card were there."""
    torch._C._ensureCUDADeviceGuardSet()
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("torch.nn.functional.scaled_dot_product_attention", fused_attention),
    ):
        yield


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention by the kernel that a card takes: torch asks the card, and without one takes plain products."""
    assert dropout_p == 0.0
    assert not enable_gqa
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (each.to(torch.get_autocast_dtype("cuda")) for each in (query, key, value))
    if attn_mask is None:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, 0.0, is_causal, False, scale=scale)[0]
    bias = attn_mask
    if bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~bias, -torch.inf)
    bias = bias.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, False, 0.0, is_causal, scale=scale)[0]


def emptied(network: nn.Module, mode: FakeTensorMode, device: str) -> nn.Module:
    """Return the network with tensors without contents, on a device that need not be there."""
    with mode:
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                    module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return network


@contextlib.contextmanager
def pretended_h200() -> Iterator[None]:
    """Let inductor ask for the card that it lowers for."""
    found: dict[str, Any] = {
        "get_device_properties": lambda *_: H200,
        "_get_device_properties": lambda *_: H200,
        "get_device_capability": lambda *_: (9, 0),
        "current_device": lambda: 0,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "_lazy_init": lambda: None,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in found.items():
            stack.enter_context(mock.patch(f"torch.cuda.{name}", answer, create=True))
        for target in ("fuse_attention._sfdp_init", "pad_mm._pad_mm_init"):  # which run samples on the card
            stack.enter_context(mock.patch(f"torch._inductor.fx_passes.{target}", return_value=None))
        stack.enter_context(mock.patch("torch._inductor.scheduler.has_triton", return_value=True))
        yield
