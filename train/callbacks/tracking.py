"""Where a run's figures go: `metrics.csv`, and Weights & Biases.

`metrics.csv` has a row for every report and a column for every figure. A run that is resumed appends to it, once the
rows that lie behind the step it goes on from, and will be computed anew, are taken out. W&B gets the same figures with
the settings, versions, command and git state; it is offline unless this machine is logged in, and no key is written.
"""

from __future__ import annotations

import csv
import io
import re
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from deltactl.artifacts import make_provenance
from deltactl.configs.training import METRICS, TrainingConfig
from deltactl.errors import DamagedError
from deltactl.locations import Location, make_folder, storage_errors
from deltactl.redaction import redact, redacted
from deltactl.train.callbacks.wandb_login import wandb_mode
from deltactl.train.checkpoints.resume_point import ResumePoint
from deltactl.train.processes import is_first_process

PROVENANCE = "provenance.json"
REMOTE_EVERY_ROWS = 20
"""Rows between writes of a metrics.csv in an object store, which is written whole each time."""

LIBRARIES = ("torch", "lightning", "numpy", "tensorstore", "transformers")


class MetricsLogger(Logger):
    """Writes `metrics.csv`: the column `step`, then a column for each figure, empty where a row has none."""

    def __init__(self, location: Location) -> None:
        super().__init__()
        self.location = location
        self._rows: list[dict[str, str]] = []
        self._columns = ["step"]
        self._unwritten = 0

    def start_at(self, step: int, *, validated: bool = True) -> None:
        """Keep the rows up to this step of the file that is there, and none of those behind it.

        Where the validation of this step will be done again (not `validated`), its rows are dropped too, and so is a
        last row that was cut off.

        Raises:
            DamagedError: the file is no table.
        """
        try:
            text = self.location.read_whole().decode()
            rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
        except FileNotFoundError:
            return
        except (UnicodeDecodeError, csv.Error) as error:
            raise DamagedError(f"{self.location} is damaged: {error}; move it away to go on without it") from error
        # A row of more cells than there are columns has them under None, one of fewer has None in them.
        rows = [{name: cell or "" for name, cell in row.items() if name} for row in rows]
        self._rows = [row for row in rows if row.get("step", "").isdecimal() and int(row["step"]) <= step]
        if not validated:
            self._rows = [row for row in self._rows if int(row["step"]) < step or row.get("train/loss")]
        self._columns = ["step", *sorted({name for row in self._rows for name in row} - {"step"})]
        self._write_all()

    @property
    def name(self) -> str:
        """The file's name."""
        return self.location.name

    @property
    def version(self) -> str:
        """There is one version only."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings are in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        row = {"step": str(step), **{name: f"{value:.6g}" for name, value in metrics.items()}}
        self._rows.append(row)
        new = sorted(row.keys() - set(self._columns))
        self._columns += new
        self._unwritten += 1
        if new or (not self.location.is_local and self._unwritten >= REMOTE_EVERY_ROWS):
            self._write_all()
        elif self.location.is_local:
            with storage_errors(self.location, "write"), self.location.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
            self._unwritten = 0

    @rank_zero_only
    def save(self) -> None:
        """Write what is left."""
        if self._unwritten:
            self._write_all()

    @rank_zero_only
    def finalize(self, status: str) -> None:  # noqa: ARG002 (the signature is Lightning's)
        """Write what is left."""
        self.save()

    def _write_all(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self._rows)
        self.location.write_bytes(text.getvalue().encode())
        self._unwritten = 0


def open_loggers(
    config: TrainingConfig, run: Location, provenance: Mapping[str, Any], point: ResumePoint | None
) -> list[Logger]:
    """Return the loggers of this process, and note in `provenance.json` how it was started.

    `point` is the checkpoint that the run goes on from. Processes other than the first have no loggers.

    Raises:
        DamagedError: a file of the run's earlier starts is not what they wrote.
    """
    if not is_first_process():
        return []
    starts = _starts(run / PROVENANCE)
    (run / PROVENANCE).write_json([*starts, {**provenance, "step": 0 if point is None else point.step}])
    file = MetricsLogger(run / METRICS)
    if point is None:
        file.start_at(0)
    else:
        file.start_at(point.step, validated=point.validated)
    mode = wandb_mode(config.wandb)
    if mode == "disabled" or not run.is_local:
        return [file]
    settings = redacted({**config.model_dump(mode="json"), "provenance": provenance})
    return [file, wandb_logger(mode, config.project, run.name, run.path, settings)]


def _starts(place: Location) -> list[Any]:
    """Return what is known of the earlier starts of a run.

    Raises:
        DamagedError: the file is not what they wrote.
    """
    if not place.exists():
        return []
    starts = place.read_json()
    if not isinstance(starts, list):
        raise DamagedError(
            f"{place} is damaged: it is a {type(starts).__name__}, not the list of a run's starts; move it away"
        )
    return starts


def wandb_logger(
    mode: Literal["online", "offline"], project: str, name: str, folder: Path, settings: Mapping[str, Any]
) -> Logger:
    """Return W&B's logger of a run; its files lie in the run's folder. A resumed run goes on under the same id.

    Raises:
        DamagedError: the file that holds the id holds something else.
    """
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    make_folder(folder)
    identifier = Location.of(folder) / "wandb-id.txt"
    if not identifier.exists():
        identifier.write_bytes(secrets.token_hex(4).encode())
    name_there = identifier.read_whole().decode("ascii", "replace").strip()
    if not re.fullmatch(r"[\w-]{1,64}", name_there):
        raise DamagedError(
            f"{identifier} is damaged: it holds no id of a W&B run; remove it to start another one there"
        )
    words = " ".join(sys.argv)
    run = wandb.init(
        project=project,
        name=name,
        id=name_there,
        resume="allow" if mode == "online" else None,
        dir=str(folder),
        mode=mode,
        config=dict(settings),
        # W&B keeps arguments and what is printed as they are: the one only where nothing is to be hidden, the other
        # not at all. The command, without secrets, is in the settings.
        settings=wandb.Settings(
            silent=True, save_code=False, disable_git=True, console="off", x_disable_meta=redact(words) != words
        ),
    )
    return WandbLogger(experiment=run)


def finish_tracking(loggers: Sequence[Logger]) -> None:
    """End W&B's run, where there is one; its process would outlive the training."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def run_provenance(**facts: Any) -> dict[str, Any]:
    """Return versions, command, host, time and the state of the program's git checkout."""
    return make_provenance(LIBRARIES, git=git_state(), **facts)


def git_state() -> str | None:
    """Return the commit of the working folder's checkout, with `+changes` where files differ; None outside of one."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit
