"""docs/formats.md says what is on the disk: its code reads real artifacts alone, and its tables name their keys."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from evaluations import GOLDEN, quiet, tiny
from pages import ROOT, blocks
from safetensors import safe_open
from small_stores import BACKBONE, TOKENIZER
from small_stores import run as featurize
from small_training import tokenizer_config
from videos import make_video

from deltactl.artifacts import canonical_json, read_index
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.predict import PredictConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.evaluate.predict.run import run_predict
from deltactl.evaluate.run import run as run_evaluate
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.backbones.dinov3 import SETTINGS
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet, finish, write_shard
from deltactl.locations import Location
from deltactl.tokenization.run import run as tokenize
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.loading import load, network_hash
from deltactl.train.networks.deltatok import TOKENIZER as KIND
from deltactl.train.networks.known_kinds import kinds
from deltactl.train.run import train

PAGE = ROOT / "docs" / "formats.md"
DAMAGED = 3
"""The row of the first shard whose clip has a frame that cannot be decoded."""


# --- one artifact of each kind ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with one real artifact of each kind, under the names that the page uses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELTACTL_HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        make_shards(home)
        featurize(home / "shards/videos", home / "features/videos", views="2")
        straight = {"dataset": "folder", "clips": 5, "shard_clips": 10}
        featurize(home / "sources", home / "features/by-videos", videos=straight)
        features = str(home / "features/videos")
        settings = {"backbone": str(BACKBONE), "size": 64, "views": "2", "device": "cpu", "workers": 0, "max_bad": 0.5}
        crops = {"crop_area": "0.5:0.9", "aspect": "0.8:1.25", "flip": 0.25}  # written where they are not the paper's
        for name, data, own in (("videos", features, {}), ("straight", str(home / "shards/videos"), crops)):
            tokenize(TokenizeConfig(data=data, out=str(home / "tokens" / name), tokenizer=TOKENIZER, **settings, **own))
        train(tokenizer_config(features, home / "runs/tokenizer", steps=10), "tokenizer")
        export(TOKENIZER, home / "exports/deltatok")
        run_evaluate(tiny("vspw", seeds="0:2", out=str(home / "reports/vspw")), quiet)
        predict(home)
    yield home
    torch.set_num_threads(threads)


def make_shards(home: Path) -> None:
    """Ingest three videos and a file that is none: a shard of ten clips, one of them then damaged, and one of five."""
    source = home / "sources"
    for name in ("a.mp4", "b.mp4", "c d.mp4"):
        make_video(source / name, frames=60, rate=30)
    (source / "bad.mp4").write_bytes(b"no video")
    place = home / "shards/videos"
    run_ingest(
        IngestConfig(
            source=str(source),
            dataset="folder",
            clips=5,
            shard_clips=10,
            size=64,
            out=str(place),
            workers=0,
            max_bad=0.5,
        )
    )
    shards = ShardSet.open(str(place))
    clips, sidecar = list(shards.read("000000")), shards.sidecar("000000")
    frames = clips[DAMAGED].frames
    clips[DAMAGED] = replace(clips[DAMAGED], frames=[frames[0][:500], *frames[1:]])
    write_shard(shards.root, "000000", clips, list(sidecar.quarantined), sidecar.provenance, replace=True)
    finish(shards.root)


def predict(home: Path) -> None:
    """Predict from the middle of a video, so that there is a truth."""
    run_predict(
        PredictConfig(
            video=str(home / "sources/a.mp4"), at=1.0, size=64, samples=3, device="cpu", backbone=str(BACKBONE),
            tokenizer=TOKENIZER, world=str(GOLDEN / "deltaworld.bin"), heads=(str(GOLDEN / "head_kitti.bin"),),
            out=str(home / "reports/prediction"),
        ),
        quiet,
    )  # fmt: skip


# --- the page's code -------------------------------------------------------------------------------------------------


def marked(word: str) -> str:
    """Return the marked block of the page that holds a word."""
    (found,) = [block for block in blocks(PAGE, "python", marked=True) if word in block]
    return found


def values_of(block: str, home: Path, *names: str) -> list[Any]:
    """Run a block in the workspace, in a process that cannot import deltactl; return its variables of these names."""
    script = f'import sys\nsys.modules["deltactl"] = None\n{block}\nimport pickle\n'
    script += f"sys.stdout.buffer.write(pickle.dumps([{', '.join(names)}]))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=home, capture_output=True, check=False, timeout=240
    )
    assert done.returncode == 0, f"{block}\n{done.stderr.decode()}"
    return list(pickle.loads(done.stdout))


READERS = ("import tarfile", "import webdataset", "def read_store", "group, row, frame =", "torch.load", "def hash_of")
"""A word of each marked block; a test below runs each."""


def test_every_marked_block_is_run_by_a_test() -> None:
    assert {marked(word) for word in READERS} == set(blocks(PAGE, "python", marked=True))
    assert not any("import deltactl" in block or "from deltactl" in block for block in blocks(PAGE, "python"))


def test_shards_are_read_with_the_standard_library(home: Path) -> None:
    frames, times = values_of(marked("import tarfile"), home, "frames", "times")
    shards = ShardSet.open(str(home / "shards/videos"))
    clips = [clip for unit in shards.units for clip in shards.read(unit)]
    assert len(clips) == 15
    assert list(frames) == [clip.key for clip in clips]
    assert frames == {clip.key: list(clip.frames) for clip in clips}
    assert times == {clip.key: list(clip.meta.times) for clip in clips}


def test_shards_are_read_with_plain_webdataset(home: Path) -> None:
    frames, times = values_of(marked("import webdataset"), home, "frames", "times")
    clips = list(ShardSet.open(str(home / "shards/videos")).read("000000"))
    assert frames == {clip.key: list(clip.frames) for clip in clips}
    assert times == {clip.key: list(clip.meta.times) for clip in clips}


def test_a_damaged_shard_is_refused_by_the_code_of_the_page(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "shards", tmp_path / "shards")
    tar = tmp_path / "shards/videos/000001.tar"
    data = bytearray(tar.read_bytes())
    data[1500] ^= 1
    tar.write_bytes(data)
    with pytest.raises(AssertionError, match=r"000001\.tar is damaged"):
        values_of(marked("import tarfile"), tmp_path, "frames")


def test_stores_are_read_with_zarr(home: Path) -> None:
    features, tokens, black = values_of(marked("def read_store"), home, "features", "tokens", "black")
    stores = FeatureStore.open(str(home / "features/videos")), TokenStore.open(str(home / "tokens/videos"))
    assert (black == stores[0].black.numpy()).all()
    for store, found in zip(stores, (features, tokens), strict=True):
        samples = range(len(store))
        assert len(store) == 2 * 14
        assert [key for key, _, _, _ in found] == list(store.keys)
        assert [view for _, view, _, _ in found] == [store.view_of(sample) for sample in samples]
        read = np.stack([data for _, _, data, _ in found])
        assert read.dtype == np.float16
        assert read.shape[1:] == (store.frames, *store.frame_shape)
        assert (read == store.read_clips(samples).numpy()).all()
        assert (np.stack([times for _, _, _, times in found]) == store.times(samples).numpy()).all()


def test_a_frame_is_read_from_the_bytes_that_the_page_describes(home: Path) -> None:
    found, row, frame = values_of(marked("group, row, frame ="), home, "features", "row", "frame")
    store = FeatureStore.open(str(home / "features/videos"))
    samples, rows = store.samples_of(1, "000000")
    assert (found == store.read_clips([samples[rows.index(row)]])[0, frame].numpy()).all()


def test_weights_are_read_with_torch_and_safetensors(home: Path) -> None:
    names = ("header", "step", "weights", "exported_header", "exported")
    header, step, weights, exported_header, exported = values_of(marked("torch.load"), home, *names)
    for state, place in ((weights, home / "runs/tokenizer/checkpoints/last.ckpt"), (exported, TOKENIZER)):
        network = load(place, KIND)
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert (step, header["kind"], header["config"]["width"]) == (10, "tokenizer", 128)
    assert exported_header["content_hash"] == network_hash(load(TOKENIZER, KIND))


def test_hashes_are_what_the_page_says(home: Path) -> None:
    tokenizer, shards = values_of(marked("def hash_of"), home, "tokenizer", "shards")
    assert tokenizer == network_hash(load(TOKENIZER, KIND))
    assert shards == ShardSet.open(str(home / "shards/videos")).identity.hash()


def test_the_hash_of_a_backbone_is_of_what_the_page_names() -> None:
    text = PAGE.read_text().partition("- *Of a backbone*")[2].partition("```")[0]
    names = [name for name in re.findall(r"`(\w+)`", text) if name != "settings"]
    assert set(names) == {*SETTINGS, "image_mean", "image_std", "rescale_factor"}
    both = {**read_json(BACKBONE / "config.json"), **read_json(BACKBONE / "preprocessor_config.json")}
    settings = {name: both[name] for name in names}
    for name in ("image_mean", "image_std"):
        settings[name] = [float(np.float32(value)) for value in settings[name]]
    with safe_open(BACKBONE / "model.safetensors", framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    weights = {
        name: [str(tensor.dtype), list(tensor.shape), hashlib.sha256(tensor.tobytes()).hexdigest()]
        for name, tensor in tensors.items()
    }
    canonical = json.dumps({"settings": settings, "weights": weights}, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == Backbone.load(BACKBONE, "cpu").content_hash


# --- the page's tables -----------------------------------------------------------------------------------------------


PLACEHOLDERS = {
    "versions": "LIBRARY", "ffmpeg": "LIBRARY", "files": "PATH", "units": "NNNNNN", "keys": "NNNNNN", "views": "V",
    "sources": "NNNNNN",
    "V": "NNNNNN", "weights": "NAME", "frozen": "NETWORK", "metrics": "FIGURE",
    "figures": "NAME", "networks": "NAME",
}  # fmt: skip
"""Mappings whose keys are data, and what the page calls these."""

WHOLE = {
    "identity.clips", "identity.values", "identity.videos",
    "config", "state_dict", "optimizer_states", "loops", "callbacks", "deltactl",
    "run.data.identity.values", "run.data.groups",
}  # fmt: skip
"""What the page describes in words."""


def names_in(value: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Return the dotted names of the values in nested mappings, through lists of mappings, as the page writes them."""
    found: set[str] = set()
    for key, item in value.items():
        parent = prefix.rstrip(".").rpartition(".")[2]
        fixed = parent == "sources" and key in ("names", "clips")  # those of one shard
        name = prefix + (str(key) if fixed else PLACEHOLDERS.get(parent, str(key)))
        inner = [item] if isinstance(item, dict) else item if isinstance(item, list) else []
        inner = [each for each in inner if isinstance(each, dict)]
        if inner and name not in WHOLE:
            found |= {each for mapping in inner for each in names_in(mapping, f"{name}.")}
        else:
            found.add(name)
    return found


def names_of(*values: Mapping[str, Any]) -> set[str]:
    """Return the names in several files of one kind; a list that is empty in one of them is what it is in another."""
    found = {name for value in values for name in names_in(value)}
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def tables(heading: str) -> list[list[list[str]]]:
    """Return the tables in the section of a heading: the cells of each row, without the row of titles."""
    (section,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found: list[list[list[str]]] = [[]]
    for line in section.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [rows[2:] for rows in found if rows]


def ticked(text: str) -> set[str]:
    """Return what stands between backticks."""
    return {*re.findall(r"`([^`]+)`", text)}


def named(heading: str) -> set[str]:
    """Return the keys that the first table of a section names."""
    return {name for row in tables(heading)[0] for name in ticked(row[0])}


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def attributes(home: Path, pattern: str) -> list[Any]:
    """Return the attributes of all groups whose `zarr.json` matches."""
    found = [read_json(path)["attributes"] for path in sorted(home.glob(pattern))]
    assert found
    return found


STORES = (
    *("features/videos", "features/vspw-val-backbone-64", "features/by-videos"),
    *("tokens/videos", "tokens/straight"),
)
ARTIFACTS = {
    "Identity and provenance of shards": ("shards/videos", "shards/vspw-val-64"),
    "Identity and provenance of stores": STORES,
    "Identity and provenance of reports": ("reports/vspw",),
    "Identity and provenance of predictions": ("reports/prediction",),
}


@pytest.mark.parametrize("heading", ARTIFACTS)
def test_the_keys_of_artifact_json_are_named(home: Path, heading: str) -> None:
    real = names_of(*(read_json(home / place / "artifact.json") for place in ARTIFACTS[heading]))
    common = named("`artifact.json`")
    assert {name for name in common if name != "identity"} <= real
    assert {name for name in real - common if name.startswith(("identity.", "provenance."))} == named(heading)
    assert {name.partition(".")[0] for name in real} == {"kind", "identity", "provenance", "sha256"}


def test_the_keys_of_shards_are_named(home: Path) -> None:
    sidecars = [read_json(path) for path in sorted(home.glob("shards/*/[0-9]*.json"))]
    assert any(sidecar["quarantined"] for sidecar in sidecars)
    assert names_of(*sidecars) == named("`NNNNNN.json`, the sidecar")
    assert names_of(*(read_json(path) for path in home.glob("shards/*/index.json"))) == named("`index.json` of shards")
    for name in ("videos", "vspw-val-64"):
        with tarfile.open(home / "shards" / name / "000000.tar") as tar:
            files = [tar.extractfile(member) for member in tar if member.name.endswith(".json")]
            assert names_of(*(json.load(file) for file in files if file is not None)) == named("`KEY.json`")


def test_the_keys_of_quarantines_are_named(home: Path) -> None:
    for place in ("shards/videos", "features/videos", "tokens/videos", "tokens/straight"):
        lines = (home / place / "quarantine.jsonl").read_text().split("\n")[:-1]
        assert lines, place
        assert names_of(*map(json.loads, lines)) == named("`quarantine.jsonl`")


def test_the_keys_of_stores_are_named(home: Path) -> None:
    groups = attributes(home, "features/*/v*/[0-9]*/zarr.json")
    packs = attributes(home, "tokens/*/v*/[0-9]*/zarr.json")
    assert names_of(*packs) == named("Packs")
    for path, pack in zip(sorted(home.glob("tokens/*/v*/[0-9]*/zarr.json")), packs, strict=True):
        inside = read_json(path.with_name("clips") / "zarr.json")["attributes"]["groups"]
        groups += inside
        for entry, said in zip(pack["groups"], inside, strict=True):
            alone = canonical_json({"zarr_format": 3, "node_type": "group", "attributes": said})
            assert hashlib.sha256(alone).hexdigest() == entry["sha256"]
        pairs = [[entry["shard"], entry["sha256"]] for entry in pack["groups"]]
        told = hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()
        assert path.parent.name == f"000000-000063-{told[:8]}"
    assert names_of(*groups) == named("`zarr.json` of a group")
    indexes = [read_json(home / place / "index.json") for place in STORES]
    assert names_of(*indexes) == named("`index.json` of a store")


def test_the_files_that_stand_once_in_a_store_are_named(home: Path) -> None:
    text = " ".join(PAGE.read_text().split())
    assert "`artifact.json`, `quarantine.jsonl`, and the `zarr.json` of the root, of each view and of `black`" in text
    files = {"artifact.json", "quarantine.jsonl", "zarr.json", "v000/zarr.json", "v001/zarr.json"}
    assert set(read_json(home / "tokens/videos/index.json")["files"]) == files
    assert set(read_json(home / "features/videos/index.json")["files"]) == {*files, "black/zarr.json"}
    for name in ("zarr.json", "v000/zarr.json"):
        assert read_json(home / "features/videos" / name)["attributes"] == {}


def test_the_keys_of_runs_are_named(home: Path) -> None:
    run = home / "runs/tokenizer"
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert names_of(checkpoint) == named("A checkpoint")
    assert names_of(checkpoint["deltactl"]) == named("The header")
    assert names_of(*read_json(run / "provenance.json")) == named("`provenance.json`")


def test_the_settings_of_every_network_are_named() -> None:
    rows = tables("The header")[1]
    settings = {kind: ticked(row[1]) for row in rows for kind in ticked(row[0])}
    assert settings == {kind.name: set(asdict(kind.default)) for kind in kinds()}


def test_the_figures_of_a_run_are_named(home: Path) -> None:
    data = (home / "runs/tokenizer/metrics.csv").read_bytes()
    lines = data.decode().split("\r\n")
    columns = lines[0].split(",")
    assert columns[0] == "step"
    assert set(columns) <= named("`metrics.csv`")
    assert {"train/loss", "health/copy", "validation/loss", "validation/copied"} <= set(columns)
    steps = [line.split(",")[0] for line in lines[1:-1]]
    assert steps == ["5", "10", "10"]


def test_the_checkpoints_are_there(home: Path) -> None:
    found = {path.name for path in (home / "runs/tokenizer/checkpoints").iterdir()}
    assert found == {"step-0000010.ckpt", "best.ckpt", "last.ckpt"}


def test_exports_are_described(home: Path) -> None:
    folder = home / "exports/deltatok"
    assert {path.name for path in folder.iterdir()} == {
        *("pytorch_model.bin", "model.safetensors", "README.md", "config.json")
    }
    assert set(read_json(folder / "config.json")) == {"deltactl"}
    assert set(read_json(folder / "config.json")["deltactl"]) == {"format", "kind", "config", "provenance"}
    assert set(torch.load(folder / "pytorch_model.bin", weights_only=True)) == set(load(TOKENIZER, KIND).state_dict())


def test_the_keys_of_reports_are_named(home: Path) -> None:
    assert names_of(read_json(home / "reports/vspw/metrics.json")) == named("`metrics.json`")
    weights = read_json(home / "reports/vspw/artifact.json")["identity"]["weights"]
    assert all(f"`{name}`" in PAGE.read_text() for name in weights)


def test_the_arrays_of_the_videos_of_a_report_are_named(home: Path) -> None:
    with np.load(home / "reports/vspw/videos.npz") as file:
        arrays = {name: file[name] for name in file.files}
    assert arrays.keys() == named("`videos.npz`")
    rows, videos, sums = arrays["sums"].shape
    assert (len(arrays["rows"]), len(arrays["videos"]), sums) == (rows, videos, 3 + 2 * 124)
    assert json.loads(arrays["rows"][0]).keys() == {"table", "method", "horizon", "step", "select", "k", "draw"}
    metrics = read_json(home / "reports/vspw/metrics.json")
    assert arrays["sums"][0, :, 2].sum() == metrics["clips"]


def test_the_keys_and_arrays_of_predictions_are_named(home: Path) -> None:
    folder = home / "reports/prediction"
    assert names_of(read_json(folder / "prediction.json")) == named("`prediction.json`")
    with np.load(folder / "features.npz") as file:
        arrays = {name: file[name] for name in file.files}
    assert arrays.keys() == named("`features.npz`")
    sizes = {"C": 4, "S": 3, "H": 3, "K": 3, "P": 16, "D": 128, "2": 2}
    for name, dtype, shape, _ in tables("`features.npz`")[0]:
        array = arrays[name.strip("`")]
        assert array.shape == tuple(sizes[size] for size in shape.strip("()").split(", ") if size), name
        assert dtype == ("text" if array.dtype.kind == "U" else array.dtype.name), name
    assert {path.name for path in folder.iterdir()} == {
        *("features.npz", "prediction.json", "futures.png", "futures.gif", "kitti", "artifact.json")
    }


# --- what else the page says of stores -------------------------------------------------------------------------------


def test_invalid_rows_are_as_the_page_says(home: Path) -> None:
    key = read_index(Location.of(home / "features/videos")).values["keys"]["000000"][DAMAGED]
    for place, known_times in (("features/videos", True), ("tokens/straight", True), ("tokens/videos", False)):
        (folder,) = (home / place / "v000").glob("000000*")
        group = zarr.open_group(folder, mode="r")
        columns = list(group["clips"].attrs["columns"])
        clips = np.asarray(group["clips"][:10])
        values = {name: clips[:, columns.index(name)] for name in columns}
        data = np.asarray(group[place.partition("/")[0]][:10])
        said = group.attrs if "keys" in group.attrs else group["clips"].attrs["groups"][0]
        assert said["invalid"] == np.flatnonzero(values["valid"] == 0).tolist() == [DAMAGED]
        assert np.isnan(data[DAMAGED]).all()
        assert np.isfinite(np.delete(data, DAMAGED, axis=0)).all()
        assert np.isfinite(clips[DAMAGED, :8]).all() == known_times
        assert not any(values[name][DAMAGED] for name in ("top", "left", "height", "width", "flip"))
        assert [entry["source"] for entry in said["quarantined"]] == [key]


def test_arrays_lie_as_the_page_says(home: Path) -> None:
    dtypes = {"features": "float16", "tokens": "float16", "clips": "float64"}
    assert {row[0].strip("`"): row[1] for row in tables("Arrays of a group")[0]} == dtypes
    frames, patches, dim = 8, 16, 128
    for kind, clips in (("features", 10), ("tokens", 15)):
        (group,) = (home / kind / "videos/v000").glob("000000*")
        columns = read_json(group / "clips/zarr.json")["attributes"]["columns"]
        assert columns == [f"time_{frame}" for frame in range(8)] + [
            name for row in tables("Arrays of a group")[1][1:] for name in re.findall(r"`(\w+)`", row[0])
        ]
        chunk = {"features": 2 * patches * dim + 4, "tokens": 2 * frames * dim + 4}[kind]
        chunks = clips * frames if kind == "features" else clips
        files = {
            kind: ("c.0.0.0.0", chunks * (chunk + 16) + 4),
            "clips": ("c.0.0", 32 * 8 * (frames + 6) + 4 + 16 + 4),
        }
        assert {path.name for path in group.iterdir()} == {*files, "zarr.json"}
        for name, (file, size) in files.items():
            metadata = read_json(group / name / "zarr.json")
            assert (metadata["data_type"], metadata["fill_value"]) == (dtypes[name], "NaN")
            assert {path.name: path.stat().st_size for path in (group / name).iterdir()} == {
                file: size,
                "zarr.json": (group / name / "zarr.json").stat().st_size,
            }
    assert np.isnan(np.frombuffer((group / "clips/c.0.0").read_bytes()[: 32 * 8 * 14]).reshape(32, 14)[15:]).all()


def test_a_square_frame_has_no_second_view(home: Path) -> None:
    shards = ShardSet.open(str(home / "shards/vspw-val-64"))
    square = {clip.key for clip in shards.read("000000") if len({*clip.meta.original_size}) == 1}
    store = attributes(home, "features/vspw-val-backbone-64/v001/*/zarr.json")[0]
    assert {store["keys"][row] for row in store["invalid"]} == square != set()
    assert store["quarantined"] == []
