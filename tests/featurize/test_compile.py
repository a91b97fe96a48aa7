"""Compiled as on a GPU, featurize and tokenize give what they give plainly, from a graph with nothing to spare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import printed

from deltactl.configs.frame_size import FrameSize
from deltactl.devices import store_products
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.backbones.merged import MergedAttention, PatchProduct
from deltactl.featurize.pipeline.compute import Computer

SCRIPT = Path(__file__).parents[1] / "helpers" / "compiled_featurize.py"


def script(folder: Path, *arguments: str) -> Any:
    return json.loads("".join(printed(SCRIPT, *arguments, cache=folder / "cache", timeout=550)))


def test_the_graph_has_one_product_for_each_step_and_makes_nothing_twice(tmp_path: Path) -> None:
    found = script(tmp_path, "graph")
    layers, operations = found["layers"], found["operations"]
    # In each layer: queries with keys and values, the attention's output, two of the MLP; and the patch embedding.
    assert operations["aten.addmm.default"] == 4 * layers + 1
    assert sum(count for name, count in operations.items() if "attention" in name) == layers
    assert operations["aten.native_layer_norm.default"] == 2 * layers + 1
    # Positions are buffers, and weights of products lie there as they are used (but the patch embedding's).
    made = ("aten.cos.", "aten.sin.", "aten.arange.", "aten.convolution.", "aten.mm.")
    assert not any(name.startswith(made) for name in operations)
    assert operations["weights converted"] == 1
    # Normalisation and the look at what can be stored are in the same graph.
    assert operations["aten.sub.Tensor"] == operations["aten.amax.default"] == 1


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_both_stages_compiled_are_what_they_are_plainly(tmp_path: Path, backend: str) -> None:
    found = script(tmp_path, backend, str(tmp_path))
    assert found["breaks"] == 0
    # The backbone's in each precision and the tokenizer's; the last, short batch and the black frame add none.
    assert found["graphs"] == 3
    for name in ("float32-True", "float32-False", "bfloat16-True", "bfloat16-False"):
        assert found[name]["compiled"] is name.endswith("True")
        assert found[name]["black"] == found["float32-False"]["black"]
    assert found["float32-True"]["tokenizer"] is True
    assert min(found["float32"]) > 0.99999
    assert min(found["bfloat16"]) > 0.9999


# --- rearranged layers ---


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_rearranged_layers_give_the_same_numbers_up_to_rounding(golden: Path, frames: torch.Tensor) -> None:
    plain, merged = (Backbone.load(golden / "backbone", "cpu") for _ in range(2))
    merged.merge(64, 96)
    merged.merge(64, 64)
    attention = [module for module in merged.modules() if isinstance(module, MergedAttention)]
    assert len(attention) == merged.facts.depth
    assert isinstance(merged.network.model.embeddings.patch_embeddings, PatchProduct)
    for images in (frames, frames[..., :64], frames[..., :32]):  # the last without buffers for its size
        assert torch.allclose(merged(images), plain(images), rtol=1e-4, atol=2e-5)
    assert not any(parameter.requires_grad for parameter in merged.parameters())
    assert merged.content_hash == plain.content_hash


def test_products_stored_in_bfloat16_give_the_same_bits_as_autocast(golden: Path, frames: torch.Tensor) -> None:
    stored, converted = (Backbone.load(golden / "backbone", "cpu", torch.bfloat16) for _ in range(2))
    store_products(converted.network.model, torch.float32)
    source = Backbone.load(golden / "backbone", "cpu").network.model.state_dict()
    converted.network.model.load_state_dict(source)
    assert {name for name, each in stored.network.model.named_parameters() if each.dtype == torch.bfloat16} == {
        name for name in source if "_proj." in name
    }
    assert torch.equal(stored(frames), converted(frames))
    assert torch.equal(stored.norm_weight, converted.norm_weight)


def test_a_cpu_keeps_the_librarys_layers_unless_they_are_compiled(golden: Path, frames: torch.Tensor) -> None:
    computer = Computer(Backbone.load(golden / "backbone", "cpu"), FrameSize.of(64), 4, None)
    assert not computer.compiled
    assert not any(isinstance(module, MergedAttention) for module in computer.backbone.modules())
    features, found = computer.start(frames[..., :64]).wait()
    assert torch.equal(features, Backbone.load(golden / "backbone", "cpu")(frames[..., :64]).half())
    assert found.storable(65504.0).all()


def test_the_black_frame_is_float32_of_a_cpu_however_the_rest_is_computed(golden: Path) -> None:
    plain = Backbone.load(golden / "backbone", "cpu").black_features(64, 64)
    merged = Backbone.load(golden / "backbone", "cpu")
    merged.merge(64, 64)
    for backbone in (merged, Backbone.load(golden / "backbone", "cpu", torch.bfloat16)):
        assert torch.equal(backbone.black_features(64, 64), plain)
        assert backbone.black_features(64, 64) is backbone.black_features(64, 64)


@pytest.mark.gpu
def test_the_black_frame_of_a_gpu_is_the_cpus(golden: Path) -> None:
    plain = Backbone.load(golden / "backbone", "cpu").black_features(64, 64)
    assert torch.equal(Backbone.load(golden / "backbone", "cuda").black_features(64, 64).cpu(), plain)
