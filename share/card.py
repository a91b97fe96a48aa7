"""The cards of what is shared: what it is, how it was made, how large it is, under which licence, how it is loaded.

A card is Markdown with a front matter that the Hub reads. It says what others can use, and nothing of who made it where
(`publication`). Weights have the card that an export has (`train.checkpoints.card`); of a run it is that of its best
checkpoint, with what else lies there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltactl.artifacts import STAGES, Header, read_header
from deltactl.errors import DamagedError
from deltactl.evaluate.report.describe import METRICS_FILE
from deltactl.evaluate.report.table import method_name
from deltactl.featurize.backbones.licences import licence_of
from deltactl.featurize.describe import describe as describe_store
from deltactl.ingest.describe import describe as describe_shards
from deltactl.locations import Location
from deltactl.progress import counted, format_bytes
from deltactl.publication import front_matter, publishable, publishable_command
from deltactl.share.contents import Item
from deltactl.train.checkpoints.card import how_made, licence_section, model_card
from deltactl.train.checkpoints.loading import Checkpoint

TITLES = {"shards": "clips of video, as WebDataset shards", "features": "features of video", "tokens": "delta tokens"}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
"""The Hub's words for the number of samples."""
LOADING = {
    "shards": """import webdataset

for sample in webdataset.WebDataset("{folder}/000000.tar", shardshuffle=False):
    print(sample["__key__"], sorted(sample))""",
    "features": """from deltactl.featurize.store.reader import FeatureStore

with FeatureStore.open("{folder}") as store:
    print(len(store), store.read_clips([0]).shape)  # (clip, frame, patch, dim)""",
    "tokens": """from deltactl.featurize.store.reader import FeatureStore

with FeatureStore.open("{folder}") as store:
    print(len(store), store.read_clips([0]).shape)  # (clip, frame, token, dim)""",
}


@dataclass(frozen=True)
class Results:
    """The numbers of a report."""

    name: str
    metrics: Mapping[str, Any]

    def section(self) -> str:
        """Return a section of a card: the last frame of each horizon."""
        metrics = self.metrics
        rows = [row for row in metrics["rows"] if row["step"] == row["horizon"]]
        measure = next((row["metric"] for row in rows if row.get("metric")), None)
        unit = {"miou": "mIoU, %", "rmse": "RMSE, m"}.get(str(measure), "value")
        lines = [
            f"| {row['horizon']} | {method_name(row)} | "
            f"{_number(row.get('value'), 2)} | {_number(row.get('loss'), 4)} |"
            for row in rows
        ]
        departures = metrics.get("departures", ["how it was made is not known"])
        note = f" Not the published evaluation: {'; '.join(map(str, departures))}." if departures else ""
        return (
            f"## Results on {metrics['dataset']}\n\n"
            f"{counted(metrics['clips'], 'clips')} at {metrics['size']} px, {metrics['context']} frames of context, "
            f"{counted(metrics['samples'], 'samples')}, the last frame of each horizon.{publishable(note)}\n\n"
            f"| horizon | method | {unit} | loss |\n|---:|---|---:|---:|\n" + "\n".join(lines) + "\n\n"
        )


def read_report(place: str) -> Results:
    """Return the numbers of a report.

    Raises:
        DamagedError: there is none, or it is damaged.
    """
    root = Location.of(place)
    try:
        content = (root / METRICS_FILE).read_json()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(
            f"{root} is no report: it has no {METRICS_FILE}; name a folder that deltactl eval wrote"
        ) from error
    result = Results(root.name, content if isinstance(content, dict) else {})
    try:
        result.section()
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{root / METRICS_FILE} is not what deltactl eval writes; name a folder that it wrote"
        ) from error
    return result


def artifact_card(
    root: Location, name: str, items: Sequence[Item], results: Sequence[Results], licence: str | None
) -> str:
    """Return the card of shards, features or tokens."""
    header = read_header(root)
    kind = header.identity.kind
    facts = describe_shards(root) if kind == "shards" else describe_store(root)
    provenance = publishable(dict(header.provenance))
    backbone = str(provenance.get("backbone", "")) or None
    title = name.rpartition("/")[2]
    clips = facts.get("clips", 0)
    top = {
        "pretty_name": title,
        "license": licence,
        "tags": ["deltactl", kind, "video", "world-model"],
        "size_categories": [next((word for most, word in SIZES if clips < most), "n>10M")],
        "configs": [{"config_name": "default", "data_files": "*.tar"}] if kind == "shards" else None,
    }
    size = sum(item.size for item in items)
    rows = {**facts, "in this repository": f"{counted(len(items), 'files')}, {format_bytes(size)}"}
    of_backbone = licence_section(licence_of(backbone), licence) if kind != "shards" else _licence_of_videos(licence)
    return f"""{front_matter(top)}

# {title}: {TITLES[kind]}

Made with deltactl, and verified before it was sent. `deltactl pull {name}` fetches it and reads every byte
against its checksum.

{_table(rows)}

## What it was made from

The identity: two artifacts are the same where all of these values are.

{_table(_flat(header.identity.values))}

## How it was made

{how_made(_command(header))}{_table(_flat(provenance))}

{"".join(each.section() for each in results)}## Load it

```sh
deltactl pull {name} --out {title}
```

```python
{LOADING[kind].format(folder=title)}
```

{of_backbone}"""


def run_card(
    checkpoint: Checkpoint,
    root: Location,
    name: str,
    items: Sequence[Item],
    results: Sequence[Results],
    licence: str | None,
) -> str:
    """Return the card of a run: that of the network it stands for, and what is in the run."""
    provenance = publishable({**checkpoint.provenance, **checkpoint.contents.progress})
    size = sum(item.size for item in items)
    files = (
        f"## The run\n\n{counted(len(items), 'files')}, {format_bytes(size)}: settings (`config.yaml`), `metrics.csv` "
        "and checkpoints with the optimizer's state. To go on with it, where its data are:\n\n"
        f"```sh\ndeltactl pull {name} --out RUN\ndeltactl train ... --out NEW --resume RUN\n```\n\n"
    )
    return model_card(
        checkpoint,
        name,
        provenance,
        results="".join(each.section() for each in results) + files,
        command=publishable_command(_last_command(root)),
        licence=licence,
    )


def _last_command(root: Location) -> str:
    """Return the command of a run's last start; nothing where it is not known."""
    place = root / "provenance.json"
    starts = place.read_json() if place.exists() else []
    last = starts[-1] if isinstance(starts, list) and starts and isinstance(starts[-1], Mapping) else {}
    return str(last.get("command", ""))


def _command(header: Header) -> str:
    """Return the command that made an artifact, as far as it may be shared; what was pulled does not say."""
    said = header.provenance.get("command")
    return publishable_command(str(said)) if said else f"deltactl {STAGES[header.identity.kind]}"


def _licence_of_videos(licence: str | None) -> str:
    chosen = f"Whoever shares this put it under `{licence}`." if licence else "Its licence is not stated here."
    return (
        f"## Licence\n\n{chosen} The frames are those of the videos that they were cut from, whose owners set their "
        "licence. deltactl itself, which wrote these files, is under Apache-2.0.\n"
    )


def _table(facts: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return f"| | |\n|---|---|\n{rows}"


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return " ".join(str(publishable(value)).split()).replace("|", "\\|")
    return f"{value:,}" if type(value) is int else json.dumps(value, ensure_ascii=False)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
