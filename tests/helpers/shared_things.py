"""Small shards, stores, a run and exported weights, which say who made them where, to be shared without that."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from small_training import make_features, make_shards, tokenizer_config
from token_stores import make_store, unit_names

from deltactl.artifacts import HEADER, read_sealed, write_sealed
from deltactl.configs.show import to_yaml
from deltactl.locations import Location
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.headers import header_of
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig

BACKBONE = "0123456789abcdef" * 4
PRIVATE = {
    "command": "/home/somebody/bin/deltactl stage '/home/somebody/my videos' --out=/scratch/somebody/x --size 64",
    "host": "somebodys-machine",
    "source": "/home/somebody/my videos",
    "backbone": "/home/somebody/models/dinov3-vitb16-pretrain-lvd1689m",
    "versions": {"deltactl": "0.1.0"},
}
KINDS = ("shards", "features", "tokens", "run", "network")
IN_WORKSPACE = {"run": "runs", "network": "exports"}


def make(folder: Path) -> dict[str, Path]:
    """Return a folder of each kind."""
    made = {kind: folder / kind for kind in KINDS}
    make_features(make_shards(made["shards"]), made["features"])
    make_store(made["tokens"], unit_names(8))
    for kind in ("shards", "tokens"):
        say_who(made[kind])
    make_run(made["run"])
    export(made["run"], made["network"])
    return made


def say_who(root: Path) -> None:
    """Give an artifact a header with everything that a maker's own says; of a store the index follows."""
    place = Location.of(root) / HEADER
    write_sealed(place, {**read_sealed(place).values, "provenance": PRIVATE})
    index = Location.of(root) / "index.json"
    content = read_sealed(index).values
    if "files" in content:
        from hashlib import sha256

        content["files"][HEADER] = sha256((root / HEADER).read_bytes()).hexdigest()
        write_sealed(index, content)


def make_run(root: Path) -> None:
    """Write a run as training leaves it, of one checkpoint."""
    torch.manual_seed(0)
    network = DeltaTok(DeltaTokConfig(width=64, depth=1))
    trained = {"size": 64, "step_seconds": None, "backbone": None}
    provenance = {**PRIVATE, "frozen": {"backbone": BACKBONE}, "trained": trained, "metrics": {"validation/loss": 0.25}}
    (root / "checkpoints").mkdir(parents=True)
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    header = header_of(network, provenance)
    torch.save(
        {"state_dict": state, "global_step": 500, "optimizer_states": [{"step": 500}], "deltactl": header},
        root / "checkpoints" / "last.ckpt",
    )
    config = tokenizer_config("/scratch/somebody/features/k700", Path("/scratch/somebody/x"))
    (root / "config.yaml").write_text(to_yaml(config, "tokenizer"))
    (root / "provenance.json").write_text(json.dumps([{**PRIVATE, "step": 0}]))
    (root / "metrics.csv").write_text("step,train/loss\r\n500,0.25\r\n")
    (root / "wandb").mkdir()
    (root / "wandb" / "debug.log").write_text("somebodys-machine")
