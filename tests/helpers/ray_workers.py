"""Workers for the tests of the Ray engine, in a module that the processes of a cluster can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from deltactl.errors import SourceError


@dataclass
class Squarer:
    """Squares numbers and says where; a file in `folder` tells each call of it.

    7 kills its process the first time, 8 hangs the first time, -1 always kills it, -2 cannot be done, and 100 and more
    take a second.
    """

    folder: Path
    starts: int = 0

    def start(self, slot: int) -> None:
        self.starts += 1

    def run(self, task: int) -> tuple[int, int, int, str]:
        calls = len(list(self.folder.glob(f"{task}-*")))
        (self.folder / f"{task}-{calls}").touch()
        if task == -1 or (task == 7 and calls == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 8 and calls == 0:
            time.sleep(60)
        if task == -2:
            raise SourceError("the source of task -2 cannot be read")
        if task >= 100:
            time.sleep(1)
        import ray

        return task * task, self.starts, os.getpid(), ray.get_runtime_context().get_node_id()


class Broken:
    """Cannot start."""

    def start(self, slot: int) -> None:
        raise SourceError("no model here")

    def run(self, task: int) -> int:
        return task
