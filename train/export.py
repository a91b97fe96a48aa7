"""A checkpoint written as weights to share: the published format, safetensors, a model card.

    OUT/pytorch_model.bin     a bare state dict under the published names: bytes, types and order as they came
    OUT/model.safetensors     the same tensors; metadata: the header, with the hash that loading checks
    OUT/README.md             the model card
    OUT/config.json           the header (kind, config, provenance); written last

What weights do not show (a tokenizer without delta, an RGB head of other heads) must not get lost with the files
beside it, so such a state dict goes under `state_dict`, where the published format allows it, the header next to it.
Cost: three passes over the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from deltactl import __version__
from deltactl.artifacts import publish_files
from deltactl.errors import ConfigError
from deltactl.locations import Location
from deltactl.train.architecture import HEADER, TITLES, make_header, settings_of
from deltactl.train.checkpoint_files import CONFIG_FILE, WEIGHT_FILES
from deltactl.train.checkpoints import Checkpoint, CheckpointInfo, Place, read
from deltactl.train.sizes import infer

CARD = "README.md"
PAPER = "https://arxiv.org/abs/2604.04913"
LOADERS = {
    "tokenizer": "load_tokenizer({place!r})",
    "world": "load_world({place!r})",
    "dinoworld": "load_dinoworld({place!r})",
}


def export(place: Place, out: str | Path | Location) -> CheckpointInfo:
    """Write the checkpoint at `place` to the folder `out`, and return what it is.

    Raises CheckpointError where it cannot be read, and ConfigError where `out` holds other files already.
    """
    target = Location.of(out)
    refuse_to_overwrite(target)
    checkpoint = read(place)
    info = checkpoint.info()
    provenance = {**checkpoint.provenance, **info.progress, "exported_by": f"deltactl {__version__}"}
    header = make_header(info.kind, info.config, provenance)
    # Own storage for each: tensors that share memory would be written twice over, or refused.
    state = {name: tensor.detach().contiguous().clone() for name, tensor in _ordered(checkpoint).items()}
    with publish_files(target, marker=CONFIG_FILE) as folder:
        speaks_for_itself = settings_of(infer(state, info.source)[1]) == settings_of(info.config)
        torch.save(state if speaks_for_itself else {"state_dict": state, HEADER: header}, folder / WEIGHT_FILES[1])
        # One entry: safetensors writes several in random order, and equal exports should be equal files.
        metadata = {HEADER: json.dumps({**header, "content_hash": info.content_hash})}
        save_file(state, folder / WEIGHT_FILES[0], metadata)
        name = target.name.encode("utf-8", "backslashreplace").decode()  # a card is text, whatever the folder's name
        (folder / CARD).write_text(model_card(info, name, provenance), encoding="utf-8")
        # safetensors lets nobody but the owner read what it writes.
        (folder / WEIGHT_FILES[0]).chmod((folder / CARD).stat().st_mode)
        (folder / CONFIG_FILE).write_text(json.dumps({HEADER: header}, indent=1) + "\n", encoding="utf-8")
    return info


def refuse_to_overwrite(target: Location) -> None:
    """ConfigError where `target` is a file, or a folder that holds anything but an export that did not end."""
    names = target.list()
    if not names and (not target.exists() or (target.is_local and target.path.is_dir())):
        return
    if not names or CONFIG_FILE in names or not set(names) <= {*WEIGHT_FILES, CARD}:
        held = f"holds {names[0]!r} already" if names else "is a file"
        raise ConfigError(f"--out {target} {held}; nothing is overwritten: name an empty or new folder")


def model_card(info: CheckpointInfo, name: str, provenance: Mapping[str, object]) -> str:
    """Return the text of the model card."""
    loader = LOADERS.get(info.kind, f"load_head({{place!r}}, {info.kind!r})").format(place=name)
    function = loader.split("(", 1)[0]
    sizes = "\n".join(f"| {key} | {json.dumps(value)} |" for key, value in asdict(info.config).items())
    origin = "\n".join(f"- {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in provenance.items())
    match = "those published" if info.matches_published else "not those published: " + ", ".join(info.differences)
    return f"""---
library_name: deltactl
tags: [deltatok, deltaworld, world-model, dinov3]
---

# {name}: a {TITLES[info.kind]}

{info.parameters:,} parameters ({", ".join(info.dtypes)}). Sizes and switches are {match}.

| setting | value |
|---|---|
{sizes}
| content hash | `{info.content_hash}` |

## Load it

```python
from deltactl.train.checkpoints import {function}

network = {loader}  # a path, or the name of this repository on the Hub
```

`pytorch_model.bin` is a state dict, `model.safetensors` the same tensors; `deltactl info {name}` describes either.

## Where it comes from

{origin}

## Licence

deltactl, which wrote these files, is under Apache-2.0. That says nothing about the weights: whoever trained them sets
their licence, and features of DINOv3, on which they were trained, come under the DINOv3 License. State yours here
before you share them.

## Citation

The networks and their training are those of DeltaTok and DeltaWorld (CVPR 2026), [arXiv 2604.04913]({PAPER}).
"""


def _ordered(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors in the order of the file, or in the published one where the file has none (safetensors)."""
    if checkpoint.contents.container != "safetensors":
        return checkpoint.state
    return {name: checkpoint.state[name] for name in checkpoint.network.state_dict()}
