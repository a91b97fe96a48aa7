"""Under which licence the published weights of a backbone stand, as far as its name tells.

What a backbone makes of videos, and what is trained on that, is shared with a word about it. Licences are those that
the owners' repositories on the Hub name; a folder of another name is of no known licence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """A licence of weights."""

    identifier: str
    """What the Hub calls it; `other` for one that it has no word for."""
    title: str
    link: str | None = None
    """Where its text is, for one that the Hub has no word for."""


APACHE = Licence("apache-2.0", "Apache-2.0")
LICENCES = {
    r"dinov3": Licence("other", "DINOv3 License", "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"),
    r"dinov2": APACHE,
    r"siglip2?-": APACHE,
    r"vit-mae-": APACHE,
    r"ijepa_": Licence("cc-by-nc-4.0", "CC BY-NC 4.0"),
}
"""By how the last part of a name begins. V-JEPA 2 is not among them: its repositories name different licences."""


def licence_of(backbone: str | None) -> Licence | None:
    """Return the licence of a backbone's published weights by its name or folder; None where that does not tell."""
    name = re.split(r"[/\\:]", (backbone or "").partition("?")[0].partition("@")[0].rstrip("/"))[-1].lower()
    return next((licence for start, licence in LICENCES.items() if re.match(start, name)), None)
