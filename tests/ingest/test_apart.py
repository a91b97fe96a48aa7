"""What reads fragile files may crash or fail, and costs the file alone."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from deltactl.errors import SourceError
from deltactl.ingest.episodes.apart import Apart


def test_a_crash_is_an_error_of_the_file_and_the_next_call_works() -> None:
    with Apart() as apart:
        assert apart.call(math.hypot, 3.0, 4.0) == 5.0
        assert apart.call(os.getpid) != os.getpid()
        with pytest.raises(SourceError, match="is damaged: reading it, a worker process was ended by SIGABRT in the"):
            apart.call(os.abort)
        assert apart.call(math.hypot, 6.0, 8.0) == 10.0


def test_what_a_function_raises_is_raised(tmp_path: Path) -> None:
    with Apart() as apart, pytest.raises(FileNotFoundError):
        apart.call(os.stat, str(tmp_path / "absent"))
