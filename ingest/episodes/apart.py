"""Calls functions in a process of its own, for libraries that a damaged file may crash, such as HDF5's.

The process is started with the first call (half a second) and again after it died. What decodes sources runs in such
processes anyway (`video.videos`); this is for what is read before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from deltactl.engine import Child
from deltactl.errors import SourceError, WorkerDiedError, WorkerTimeoutError

LIMIT_SECONDS = 300.0
P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class _Calls:
    """What the process does."""

    def start(self, slot: int) -> None:
        """Nothing."""

    def run(self, task: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
        """Call a function."""
        function, arguments = task
        return function(*arguments)


class Apart:
    """Calls functions of modules in another process. A context manager."""

    def __init__(self) -> None:
        self._child: Child[tuple[Callable[..., Any], tuple[Any, ...]], Any] = Child(_Calls())

    def call(self, function: Callable[P, ResultT], *arguments: P.args, **_: P.kwargs) -> ResultT:
        """Return what a function returns; it, its arguments and its result must be picklable.

        Raises:
            SourceError: the process crashed, twice, or hung.
            Exception: whatever the function raises.
        """
        try:
            result: ResultT = self._child.call((function, arguments), LIMIT_SECONDS, deaths=2)
        except WorkerTimeoutError as error:
            raise SourceError(f"was not read in {LIMIT_SECONDS:g} s") from error
        except WorkerDiedError as error:
            raise SourceError(f"is damaged: reading it, {error}") from error
        return result

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()
