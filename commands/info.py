"""`deltactl info PATH`: what an artifact or checkpoint is, how big, what made it, how complete."""

from __future__ import annotations

from typing import Any

import click

from deltactl.commands.options import Command, yes_option


@click.command(
    cls=Command,
    example="deltactl info workspace/features/kinetics-vitb16-256\ndeltactl info Amazon-FAR/deltatok-kinetics\n"
    "deltactl info streets.yaml --picture streets.png",
)
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as one JSON object.")
@click.option(
    "--picture",
    metavar="FILE",
    help="Draw clips of a feature store and the colours of their features, how the tokens of a token store are spread, "
    "or samples of a data set and their labels.",
)
@yes_option
def command(path: str, as_json: bool, picture: str | None, yes: bool) -> None:
    """Say what an artifact or checkpoint is and how complete.

    PATH is a folder of shards, a feature or token store, a run, a report, a backbone's folder, a checkpoint file, a
    URL of one of them, a name on the Hub, or a file that tells of a data set (`deltactl config show dataset`), of which
    it lists what is found. `deltactl verify` reads every byte; this does not.
    """
    import json

    from deltactl.redaction import printable, redacted

    sections = describe(path)
    if picture is not None:
        draw(path, picture, yes)
    if as_json:
        click.echo(json.dumps(redacted(sections), indent=1, ensure_ascii=False))
        return
    click.echo(path)
    for heading, facts in sections.items():
        if not facts:
            continue
        flat = dict(_flatten(facts))
        width = max((len(name) for name in flat), default=0)
        click.echo(f"\n{heading}")
        for name, value in flat.items():
            click.echo(printable(f"  {name:{width}}  {value}"))


def draw(path: str, file: str, yes: bool) -> None:
    """Draw a store, or samples of a data set, into a picture file; one that is there is asked about."""
    from pathlib import Path

    from deltactl.artifacts import read_header
    from deltactl.commands.consent import consent
    from deltactl.configs.names import is_dataset_file
    from deltactl.featurize.pictures.picture import draw_store
    from deltactl.featurize.store.reader import FeatureStore, TokenStore
    from deltactl.locations import Location
    from deltactl.removal import Removal
    from deltactl.tasks.samples import draw_samples
    from deltactl.tokenization.describe import draw_tokens

    def ask() -> None:
        if (place := Location.of(file)).exists():
            consent(yes)([Removal.of(place, "to be drawn anew")])

    if is_dataset_file(path):
        ask()
        clips = len(draw_samples(path, Path(file)))
    elif read_header(Location.of(path)).identity.kind == "tokens":
        with TokenStore.open(path) as tokens:
            ask()
            clips = draw_tokens(tokens, Path(file))
    else:
        with FeatureStore.open(path) as store:
            ask()
            clips = len(draw_store(store, Path(file)))
    click.echo(f"drew {clips} clips into {file}", err=True)


def describe(path: str) -> dict[str, dict[str, Any]]:
    """Return what lies at a path, URL or Hub name: headings with facts by name."""
    from deltactl.artifacts import HEADER, read_header
    from deltactl.configs.names import is_dataset_file
    from deltactl.errors import ArtifactError
    from deltactl.featurize.backbones.hub import is_hub_name
    from deltactl.locations import Location
    from deltactl.registry import BACKBONES

    if path.partition(":")[0] in BACKBONES.names() or _chooses_layers(path):
        from deltactl.featurize.backbones.backbone import describe_backbone

        return {"backbone": describe_backbone(path)}
    if is_dataset_file(path):
        from deltactl.datasets.describe import describe as describe_dataset

        return describe_dataset(path)
    if is_hub_name(path):
        return _describe_hub_model(path)
    root = Location.of(path)
    children = root.list()
    if not children and not root.exists():
        raise ArtifactError(f"{path} does not exist; expected a path, a URL, or a name on the Hub (owner/name)")
    if HEADER in children:
        header = read_header(root)
        facts = {"identity": dict(header.identity.values), "provenance": dict(header.provenance)}
        return {**_describe_artifact(root, header.identity.kind, children), **facts}
    if (found := _describe_run_or_report(root, children)) is not None:
        return found
    if "config.json" in children and (
        "preprocessor_config.json" in children or _is_model((root / "config.json").read_json())
    ):
        from deltactl.featurize.backbones.backbone import describe_backbone

        return {"backbone": describe_backbone(path)}
    if children and not any(name.endswith((".bin", ".ckpt", ".safetensors")) for name in children):
        raise ArtifactError(
            f"{path} is a folder, but neither an artifact (no {HEADER}), nor a run (no checkpoints), nor a report, nor "
            f"weights; it holds {', '.join(children[:3])}{', …' if len(children) > 3 else ''}"
        )
    from deltactl.train.checkpoints.describe import describe as describe_checkpoint

    return describe_checkpoint(path)


def _describe_hub_model(name: str) -> dict[str, dict[str, Any]]:
    """Return what a model on the Hub is: a backbone, or a checkpoint."""
    from deltactl.featurize.backbones.hub import hub_folder
    from deltactl.locations import Location

    config = Location.of(hub_folder(name, ["config.json"])) / "config.json"
    content = config.read_json() if config.exists() else None
    if _is_model(content):
        from deltactl.featurize.backbones.backbone import describe_backbone

        return {"backbone": describe_backbone(name)}
    from deltactl.train.checkpoints.describe import describe as describe_checkpoint

    return describe_checkpoint(name)


def _chooses_layers(path: str) -> bool:
    """Whether this is the name of a backbone with layers behind it."""
    from deltactl.configs.backbone_name import BackboneName

    try:
        return bool(BackboneName.parse(path).choice)
    except ValueError:  # the query of a URL
        return False


def _is_model(config: object) -> bool:
    """Whether the content of a config.json is that of a model folder, rather than of a checkpoint of ours."""
    return isinstance(config, dict) and "model_type" in config


def _describe_artifact(root: Any, kind: str, children: list[str]) -> dict[str, dict[str, Any]]:
    """Return what the room that makes artifacts of this kind says."""
    if kind == "shards":
        from deltactl.ingest.describe import describe as describe_shards

        return {"artifact": describe_shards(root)}
    if kind in ("features", "tokens"):
        from deltactl.featurize.describe import describe as describe_store

        return {"artifact": describe_store(root), **(_describe_tokens(root) if kind == "tokens" else {})}
    return _describe_run_or_report(root, children) or {"artifact": {"kind": kind, "files": ", ".join(children)}}


def _describe_tokens(root: Any) -> dict[str, dict[str, Any]]:
    """Return how a store's tokens are spread, or what is damaged; nothing before it has an index."""
    from deltactl.artifacts import INDEX
    from deltactl.errors import DamagedError
    from deltactl.featurize.store.reader import TokenStore
    from deltactl.tokenization.describe import TokenSample

    if not (root / INDEX).exists():
        return {}
    with TokenStore.open(root) as store:
        if not len(store):
            return {}
        try:
            return {"tokens": dict(TokenSample.of(store).figures())}
        except DamagedError as error:
            return {"tokens": {"damaged": str(error)}}


def _describe_run_or_report(root: Any, children: list[str]) -> dict[str, dict[str, Any]] | None:
    """Return what a run or a report is, by the names that lie in it; None for anything else."""
    if "checkpoints" in children:
        from deltactl.train.checkpoints.describe import describe_run

        return describe_run(root)
    if "metrics.json" in children:
        from deltactl.evaluate.report.describe import describe as describe_report

        return {"report": describe_report(root)}
    return None


def _flatten(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return names and values as text, with nested mappings under dotted names."""
    import json

    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows.extend(_flatten(value, f"{prefix}{name}."))
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows
