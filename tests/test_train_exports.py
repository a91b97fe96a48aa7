"""`deltactl.train` offers the networks by name, and costs nothing until one is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import deltactl.train


def test_importing_the_room_does_not_import_torch() -> None:
    code = "import sys, deltactl.train; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", deltactl.train.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(deltactl.train, name).__name__ == name
    assert name in dir(deltactl.train)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="'deltactl.train' has no attribute 'DeltaTock'"):
        deltactl.train.DeltaTock  # noqa: B018
