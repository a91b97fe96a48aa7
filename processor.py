"""What this machine's processor can do that matters here: multiply in bfloat16 faster than in float32."""

from __future__ import annotations

from pathlib import Path

FAST_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Linux's names of such instructions, on x86 and on ARM."""


def bfloat16_instructions() -> list[str]:
    """Return which of them the processor has; none if Linux does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split()
    return [name for name in FAST_BFLOAT16 if name in flags]
