"""The model card of exported weights: what the network is, how it was trained, how it is loaded, under which licence.

Takes what was read of a checkpoint and the part of its provenance that may be shared (`publication`); returns Markdown
with a front matter that the Hub reads. Reports that are named give the card their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from deltactl.featurize.backbones.licences import Licence, licence_of
from deltactl.publication import front_matter
from deltactl.train.checkpoints.loading import Checkpoint
from deltactl.train.networks.network import Network

PAPER = "https://arxiv.org/abs/2604.04913"
TRAINING = ("step", "trained", "data", "frozen", "metrics")
"""What of the provenance the card shows as a table."""
NEW_LINE = "\n"


def model_card(
    checkpoint: Checkpoint,
    name: str,
    provenance: Mapping[str, object],
    *,
    results: str = "",
    command: str = "",
    licence: str | None = None,
) -> str:
    """Return the text of the model card.

    `results` are tables of reports, `command` how the network was made, `licence` the identifier of one that whoever
    shares the weights has chosen.
    """
    sizes = "\n".join(
        f"| {key} | {json.dumps(value)} |" for key, value in checkpoint.kind.said(checkpoint.config).items()
    )
    training = "\n".join(f"| {name} | {value} |" for name, value in training_facts(provenance))
    rest = {key: value for key, value in provenance.items() if key not in TRAINING}
    origin = "\n".join(f"- {key}: {_text(value)}" for key, value in rest.items())
    differences = checkpoint.differences
    match = "not those published: " + ", ".join(differences) if differences else "those published"
    of_backbone = licence_of(backbone_of(provenance))
    tags = ["deltactl", "deltatok", "deltaworld", "world-model"]
    if "dinov3" in backbone_of(provenance).lower():
        tags.append("dinov3")
    return f"""{front_matter({"library_name": "deltactl", "license": licence, "tags": tags})}

# {name}: a {checkpoint.kind.title}

{checkpoint.parameters:,} parameters ({", ".join(checkpoint.dtypes)}). Sizes and switches are {match}.

| setting | value |
|---|---|
{sizes}
| content hash | `{checkpoint.content_hash}` |

## Training

{f"| | |{NEW_LINE}|---|---|{NEW_LINE}{training}" if training else "Its file does not say how it was trained."}

{how_made(command)}{results}## Load it

```python
{_how_to_load(checkpoint, name)}
```

`deltactl info {name}` describes it.
{_beyond_published(checkpoint)}## Where it comes from

{origin}

{licence_section(of_backbone, licence)}
## Citation

The networks and their training are those of DeltaTok and DeltaWorld (CVPR 2026), [arXiv 2604.04913]({PAPER}).
"""


def how_made(command: str) -> str:
    """Return the command that made what a card describes, as a paragraph; nothing where it is not known."""
    return f"Made by:\n\n```sh\n{command}\n```\n\n" if command else ""


def licence_section(of_backbone: Licence | None, licence: str | None) -> str:
    """Return what a card says about licences: the chosen one, and that of the weights of the backbone."""
    chosen = (
        f"Whoever shares this put it under `{licence}`."
        if licence is not None
        else "Whoever made this sets its licence; it is not stated here."
    )
    title = "not known from its name"
    if of_backbone is not None:
        title = f"[{of_backbone.title}]({of_backbone.link})" if of_backbone.link else of_backbone.title
    return f"""## Licence

{chosen} What a backbone made, and what was trained on it, comes under the licence of the
backbone's weights as well: {title}. deltactl itself, which wrote these files, is under Apache-2.0.
"""


def _how_to_load(checkpoint: Checkpoint, name: str) -> str:
    """Return the lines of Python that load it."""
    network = checkpoint.kind.network
    if not issubclass(network, Network):
        lines = "from deltactl.train.checkpoints.loading import load", f"network = load({name!r})"
    else:
        call = f"network = {network.__name__}.from_pretrained({name!r})"
        lines = f"from {network.__module__} import {network.__name__}", call
    return f"{lines[0]}\n\n{lines[1]}  # a path, or the name of this repository on the Hub"


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


def backbone_of(provenance: Mapping[str, object]) -> str:
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
        "backbone": backbone_of(provenance),
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
