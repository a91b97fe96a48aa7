"""A checkpoint written as weights to share: the published format, safetensors, a model card.

    OUT/pytorch_model.bin     a bare state dict under the published names: bytes, types and order as they came
    OUT/model.safetensors     the same tensors; metadata: the header, with the hash that loading checks
    OUT/README.md             the model card
    OUT/config.json           the header (kind, config, provenance); written last

The header and the card say what the network was trained on, how long, and with what result, but nothing of the machine
that it was trained on (`publication`). A network of several tokens a frame has the published names and a few more; the
card says so. What weights do not show (a tokenizer without delta, an RGB head of other heads)
must not get lost with the files beside it, so such a state dict goes under `state_dict`, where the published format
allows it, the header next to it. Cost: three passes over the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from deltactl import __version__
from deltactl.claims import hold
from deltactl.errors import ConfigError
from deltactl.locations import Location
from deltactl.publication import publishable
from deltactl.removal import Consent, Removal, refuse
from deltactl.staging import publish_files
from deltactl.train.checkpoints.files import CONFIG_FILE, WEIGHT_FILES
from deltactl.train.checkpoints.headers import HEADER, make_header, with_header
from deltactl.train.checkpoints.loading import Checkpoint, Place, read

CARD = "README.md"
PAPER = "https://arxiv.org/abs/2604.04913"
TRAINING = ("step", "trained", "data", "frozen", "metrics")
"""What of the provenance the card shows as a table."""
NEW_LINE = "\n"


def export(place: Place, out: str | Path | Location, consent: Consent = refuse) -> Checkpoint:
    """Write the checkpoint at `place` to the folder `out`, and return what it is.

    `consent` is asked if files of an earlier export would be replaced.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ConfigError: `out` holds other files already, or `consent` was not given.
    """
    target = Location.of(out)
    refuse_to_overwrite(target)
    with hold(target):
        refuse_to_overwrite(target)
        consent([Removal.of(target / name, "of an earlier export, it seems") for name in target.list()])
        return _export(place, target)


def _export(place: Place, target: Location) -> Checkpoint:
    checkpoint = read(place)
    kind, config = checkpoint.kind, checkpoint.config
    provenance = publishable(
        {**checkpoint.provenance, **checkpoint.contents.progress, "exported_by": f"deltactl {__version__}"}
    )
    header = make_header(kind, config, provenance)
    # Own storage for each: tensors that share memory would be written twice over, or refused.
    state = {name: tensor.detach().contiguous().clone() for name, tensor in _ordered(checkpoint).items()}
    with publish_files(target, marker=CONFIG_FILE, replace=True) as folder:
        torch.save(with_header(state, kind, config, header), folder / WEIGHT_FILES[1])
        # One entry: safetensors writes several in random order, and equal exports should be equal files.
        metadata = {HEADER: json.dumps({**header, "content_hash": checkpoint.content_hash})}
        save_file(state, folder / WEIGHT_FILES[0], metadata)
        name = target.name.encode("utf-8", "backslashreplace").decode()  # a card is text, whatever the folder's name
        (folder / CARD).write_text(model_card(checkpoint, name, provenance), encoding="utf-8")
        # safetensors lets nobody but the owner read what it writes.
        (folder / WEIGHT_FILES[0]).chmod((folder / CARD).stat().st_mode)
        (folder / CONFIG_FILE).write_text(json.dumps({HEADER: header}, indent=1) + "\n", encoding="utf-8")
    return checkpoint


def refuse_to_overwrite(target: Location) -> None:
    """Check that nothing but an export would be overwritten.

    Raises:
        ConfigError: `target` is a file, or a folder that holds anything else.
    """
    names = target.list()
    is_folder = target.path.is_dir() if target.is_local else bool(target.list(hidden=True))
    if not names and (is_folder or not target.exists()):
        return
    own = {*WEIGHT_FILES, CARD, CONFIG_FILE}
    foreign = [name for name in names if name not in own]
    if not names or foreign:
        held = f"holds {foreign[0]!r} already" if foreign else "is a file"
        raise ConfigError(f"--out {target} {held}; nothing is overwritten: name an empty or new folder")


def model_card(checkpoint: Checkpoint, name: str, provenance: Mapping[str, object]) -> str:
    """Return the text of the model card."""
    sizes = "\n".join(
        f"| {key} | {json.dumps(value)} |" for key, value in checkpoint.kind.said(checkpoint.config).items()
    )
    training = "\n".join(f"| {name} | {value} |" for name, value in training_facts(provenance))
    rest = {key: value for key, value in provenance.items() if key not in TRAINING}
    origin = "\n".join(f"- {key}: {_text(value)}" for key, value in rest.items())
    differences = checkpoint.differences
    match = "not those published: " + ", ".join(differences) if differences else "those published"
    return f"""---
library_name: deltactl
tags: [deltatok, deltaworld, world-model{", dinov3" if "dinov3" in _backbone(provenance).lower() else ""}]
---

# {name}: a {checkpoint.kind.title}

{checkpoint.parameters:,} parameters ({", ".join(checkpoint.dtypes)}). Sizes and switches are {match}.

| setting | value |
|---|---|
{sizes}
| content hash | `{checkpoint.content_hash}` |

## Training

{f"| | |{NEW_LINE}|---|---|{NEW_LINE}{training}" if training else "Its file does not say how it was trained."}

## Load it

```python
from deltactl.train.checkpoints.loading import load

network = load({name!r})  # a path, or the name of this repository on the Hub
```

`pytorch_model.bin` is a state dict, `model.safetensors` the same tensors; `deltactl info {name}` describes either.
{_beyond_published(checkpoint)}## Where it comes from

{origin}

## Licence

deltactl, which wrote these files, is under Apache-2.0. That says nothing about the weights: whoever trained them sets
their licence, and the features on which they were trained come under that of the backbone that made them (of DINOv3 the
DINOv3 License). State yours here before you share them.

## Citation

The networks and their training are those of DeltaTok and DeltaWorld (CVPR 2026), [arXiv 2604.04913]({PAPER}).
"""


def _beyond_published(checkpoint: Checkpoint) -> str:
    """Return that the published code does not know such a network, where it has what came later than the paper's."""
    kind, config = checkpoint.kind, checkpoint.config
    if not kind.paper or not (new := kind.said(config).keys() & set(kind.added)):
        return ""
    published = kind.empty(replace(config, **{name: getattr(kind.default, name) for name in kind.added})).state_dict()
    names = ", ".join(f"`{name}`" for name in sorted(checkpoint.state.keys() - published.keys()))
    beside = f" and besides the published names it has {names}" if names else ""
    settings = " and ".join(sorted(new))
    return f"Published code does not read these weights: the network has {settings} of its own{beside}.\n\n"


def _backbone(provenance: Mapping[str, object]) -> str:
    """Return the name of the backbone that a checkpoint was trained behind; empty where it does not say."""
    for part in (provenance.get("trained"), provenance.get("data")):
        if isinstance(part, Mapping) and isinstance(name := part.get("backbone"), str):
            return name
    return ""


def training_facts(provenance: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return what a checkpoint says about its training, as names and text: steps, data, frozen networks, results."""
    trained, data, frozen, metrics = (
        value if isinstance(value := provenance.get(name), Mapping) else {} for name in TRAINING[1:]
    )
    size = trained.get("size", data.get("size"))
    times = trained.get("step_seconds")
    facts = {
        "optimizer steps": provenance.get("step"),
        "frame size": None if size is None else f"{size} px",
        "seconds between frames": " to ".join(f"{float(each):.3g}" for each in (times[0], times[-1]))
        if times
        else None,
        "backbone": _backbone(provenance),
        **{f"hash of the {name}": f"`{value}`" for name, value in frozen.items()},
        "data": ", ".join(
            f"{name.replace('_', ' ')} {_text(value)}"
            for name, value in data.items()
            if name not in ("size", "backbone")
        ),
        **{name: _text(value) for name, value in metrics.items()},
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _text(value: object) -> str:
    """Return a value for one line of the card."""
    if isinstance(value, str):
        return " ".join(value.split())
    return f"{value:,}" if type(value) is int else json.dumps(value, ensure_ascii=False)


def _ordered(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors in the order of the file, or in the published one if the file has none (safetensors)."""
    if checkpoint.contents.container != "safetensors":
        return checkpoint.state
    return {name: checkpoint.state[name] for name in checkpoint.network.state_dict()}
