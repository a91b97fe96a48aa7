"""Whether Weights & Biases is logged in on this machine, and the mode of a run that follows from it.

Loads nothing of wandb, shows no key and asks nothing of the network.
"""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Literal

from deltactl.reading import leads_to_file


def wandb_mode(setting: Literal["auto", "online", "offline", "disabled"]) -> Literal["online", "offline", "disabled"]:
    """Return the mode of W&B, which is never left to itself: without a login or a terminal it would raise."""
    if setting != "auto":
        return setting
    mode = os.environ.get("WANDB_MODE")
    if mode in ("online", "offline", "disabled"):
        return mode  # type: ignore[return-value]
    return "online" if is_logged_in() else "offline"


def is_logged_in() -> bool:
    """Return whether there is a key for W&B's server, where wandb itself looks: the environment, then a netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    file = next((path for name in names if leads_to_file(path := Path(name).expanduser())), None)
    try:
        return file is not None and netrc.netrc(file).authenticators(host) is not None
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
        return False
