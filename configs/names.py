"""Settings that name a record of a registry: the name is checked, and nothing of the record imported."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from deltactl.errors import ConfigError
from deltactl.registry import LOSSES, NETWORKS, Registry


def name_in(registry: Registry) -> AfterValidator:
    """Return the check of a setting's type that refuses names which a registry does not know."""

    def check(name: str) -> str:
        try:
            registry.check(name)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return name

    return AfterValidator(check)


Network = Annotated[str, name_in(NETWORKS)]
Loss = Annotated[str, name_in(LOSSES)]
