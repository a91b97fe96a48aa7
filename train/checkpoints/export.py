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
from deltactl.train.checkpoints.card import model_card
from deltactl.train.checkpoints.files import CONFIG_FILE, WEIGHT_FILES
from deltactl.train.checkpoints.headers import HEADER, make_header, with_header
from deltactl.train.checkpoints.loading import Checkpoint, Place, read

CARD = "README.md"


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
    provenance = {**checkpoint.provenance, **checkpoint.contents.progress, "exported_by": f"deltactl {__version__}"}
    write_weights(checkpoint, target, publishable(provenance))
    return checkpoint


def write_weights(checkpoint: Checkpoint, target: Location, provenance: Mapping[str, object]) -> None:
    """Write the files of an export to `target`, whose provenance says nothing that may not be shared."""
    kind, config = checkpoint.kind, checkpoint.config
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


def _ordered(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors in the order of the file, or in the published one if the file has none (safetensors)."""
    if checkpoint.contents.container != "safetensors":
        return checkpoint.state
    return {name: checkpoint.state[name] for name in checkpoint.network.state_dict()}
