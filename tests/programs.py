"""Runs programs that print JSON, in processes of their own.

What compiles networks needs that: the tests check shapes by a wrapper of every function, which torch.compile cannot
trace.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def printed(script: Path, *words: object, cache: Path | None = None, timeout: int = 580) -> list[str]:
    """Return the lines that a script prints, without the check of shapes; `cache`: where inductor keeps its kernels."""
    inductor = {} if cache is None else {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        env={**os.environ, "JAXTYPING_DISABLE": "1", **inductor},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()
