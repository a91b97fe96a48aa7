"""The base of every configuration model: unknown keys are refused, with the nearest known name.

Models are frozen pydantic models. Every field has a docstring (an attribute docstring below the field) that says
what it is and in which unit; `deltactl config show` prints them.
"""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from deltactl.errors import ConfigError


class Config(BaseModel):
    """A frozen, strict configuration; see the module docstring."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        """Name an unknown key and the known one nearest to it."""
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ConfigError(unknown_key(str(key), list(cls.model_fields), cls.__name__))
        return values


def unknown_key(key: str, known: list[str], where: str) -> str:
    """Return the message for a key that `where` does not know."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "known names: " + ", ".join(sorted(known))
    return f"unknown setting {key!r} in {where}; {hint}"
