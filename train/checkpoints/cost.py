"""What the header of a checkpoint says that its network has cost; loads nothing that trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADER_KEY = "cost"


def cost_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint's provenance says that it cost: `device_hours`, `device` and `devices`, None if unknown.

    The file may come from anywhere: what is no such number or text is not known.
    """
    said = provenance.get(HEADER_KEY)
    said = said if isinstance(said, Mapping) else {}
    hours, device, devices = said.get("device_hours"), said.get("device"), said.get("devices")
    if not isinstance(hours, int | float) or isinstance(hours, bool) or not 0 <= hours < float("inf"):
        hours = None
    return {
        "device_hours": hours,
        "device": device[:80] if isinstance(device, str) else None,
        "devices": devices if isinstance(devices, int) and not isinstance(devices, bool) else None,
    }
