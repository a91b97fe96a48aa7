"""What compiled steps ask of a device, without running them: kernels, moved bytes, library calls, bytes kept.

    JAXTYPING_DISABLE=1 python tests/helpers/lowered_steps.py [--json] [--device cpu|cuda] [STEP…]

A program of its own, because torch.compile cannot trace the tests' check of shapes. Each step is captured as
torch.compile captures it, on tensors without contents, at the published width and with few blocks; split into forward
and backward as inductor splits it; and lowered by inductor up to its fused kernels. No code is generated, nothing is
computed. Counted, over forward and backward:

    kernels        fused kernels that would be launched
    kernel_gb      what these read and write
    calls          library calls: matrix products, attention, convolutions
    library_gb     what these read and write
    saved_gb       what the forward pass keeps for the backward one, parameters and inputs left out

Types and fusions on a CPU are not quite a GPU's, but what doubles the traffic there doubles it here. With a CUDA build
of torch, `--device cuda` lowers for an H200 without one: forward passes only, since torch's backward asks for the card.
 `test_budgets.py` holds the limits. Costs about a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fake_cuda import emptied, pretended_card, pretended_h200
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._guards import detect_fake_mode
from torch._inductor import config
from torch._inductor.compile_fx import _recursive_joint_graph_passes, _recursive_post_grad_passes
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import BaseSchedulerNode, NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from deltactl.devices import store_products
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.train.networks import deltaworld
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig

WIDTH, FRAMES, QUERIES = 768, 8, 256


@dataclass
class Asked:
    """What one step asks of its device."""

    kernels: int = 0
    kernel_gb: float = 0.0
    library: Counter[str] = field(default_factory=Counter)
    """Calls by kind."""
    library_gb: float = 0.0
    saved_gb: float = 0.0

    @property
    def calls(self) -> int:
        """Library calls of all kinds."""
        return sum(self.library.values())

    @property
    def attention(self) -> int:
        """Library calls of attention, forward and backward."""
        return sum(count for kind, count in self.library.items() if "attention" in kind)

    def add(self, node: BaseSchedulerNode) -> None:
        """Count a kernel or a call."""
        if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, MultiOutput):
            return
        size = node.get_read_write_buffers_sizes() / 1e9
        if node.is_extern():
            kernel = getattr(node.node, "python_kernel_name", None) or type(node.node).__name__
            self.library[kernel.removesuffix(".default").rsplit(".", 1)[-1]] += 1
            self.library_gb += size
        else:
            self.kernels += 1
            self.kernel_gb += size


class Lowering:
    """A backend of torch.compile that lowers graphs, counts, and returns tensors without contents."""

    def __init__(self, device: str) -> None:
        self.asked = Asked()
        self._device = device
        self._outputs: list[int] = []

    def kept(self, results: int) -> float:
        """Return the gigabytes that the forward graph hands out beside its results."""
        return sum(self._outputs[results:]) / 1e9

    def backend(self) -> Callable[..., Any]:
        """Return it as torch.compile takes it."""
        return aot_autograd(
            fw_compiler=self._forward,
            bw_compiler=self._backward,
            inference_compiler=self._inference,
            partition_fn=self._split,
            decompositions=select_decomp_table(),
        )

    def _forward(self, graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        seen: set[Node] = set()
        for node in _outputs(graph):
            new = isinstance(node, Node) and node.op != "placeholder" and node not in seen
            value = node.meta["val"] if new else None
            seen |= {node} if new else set()
            self._outputs.append(value.numel() * value.element_size() if isinstance(value, Tensor) else 0)
        return self._lower(graph, inputs, inference=False)

    def _backward(self, graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        return self._lower(graph, inputs, inference=False)

    def _inference(self, graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        with self._as_fake(inputs):
            _recursive_joint_graph_passes(graph)
        return self._lower(graph, inputs, inference=True)

    def _lower(self, graph: GraphModule, inputs: Sequence[Any], *, inference: bool) -> Callable[..., Any]:
        values = [node.meta["val"] if isinstance(node, Node) else node for node in _outputs(graph)]
        with self._as_fake(inputs), torch.no_grad():
            _recursive_post_grad_passes(graph, inference)
            lowering = GraphLowering(graph, is_inference=inference)
            with V.set_graph_handler(lowering):
                lowering.run(*inputs)
                lowering.init_wrapper_code()
                lowering._update_scheduler()
                for node in lowering.scheduler.nodes:
                    self.asked.add(node)

        def without_contents(_: list[Any]) -> list[Any]:
            return [
                torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device) if isinstance(v, Tensor) else v
                for v in values
            ]

        without_contents._boxed_call = True  # type: ignore[attr-defined]  # how AOT asks for arguments as one list
        return without_contents

    def _split(self, joint: GraphModule, inputs: Sequence[Any], **settings: Any) -> Any:
        with self._as_fake(inputs):
            _recursive_joint_graph_passes(joint)
        return min_cut_rematerialization_partition(joint, inputs, compiler="inductor", **settings)

    @contextlib.contextmanager
    def _as_fake(self, inputs: Sequence[Any]) -> Iterator[None]:
        """Let inductor work on tensors without contents, for a card that need not be there."""
        card = pretended_h200() if self._device == "cuda" else contextlib.nullcontext()
        with card, V.set_fake_mode(detect_fake_mode(inputs)), V.set_debug_handler(mock.MagicMock()):
            yield


def _outputs(graph: GraphModule) -> Sequence[Any]:
    return next(node for node in graph.graph.nodes if node.op == "output").args[0]


# --- the steps ---


@dataclass(frozen=True)
class Step:
    """A network, its inputs, and which part of its result a loss is made of; None where nothing learns."""

    network: nn.Module
    inputs: Callable[[Callable[..., Tensor]], tuple[Any, ...]]
    """Makes the inputs from a function that makes a tensor of a shape."""
    loss: Callable[[Any], Tensor] | None
    method: str = "forward"


def tokenizer() -> Step:
    """Training on 8 pairs of 256 px, from features."""
    network = DeltaTok(DeltaTokConfig(depth=2)).train()
    return Step(network, lambda new: (new(8, 256, WIDTH), new(8, 256, WIDTH), (16, 16)), lambda rebuilt: rebuilt.sum())


def world(clips: int) -> Step:
    """Training on clips of tokens."""
    network = DeltaWorld(DeltaWorldConfig(depth=1))
    return Step(
        network,
        lambda new: (new(clips, FRAMES, 1, WIDTH), new(clips, FRAMES), new(clips, FRAMES - 1, QUERIES, WIDTH)),
        lambda found: found.loss,
    )


def baseline() -> Step:
    """Training of the discriminative baseline on 2 clips of 256 px, from features."""
    network = DinoWorld(DinoWorldConfig(depth=1))
    inputs = lambda new: (new(2, FRAMES, 256, WIDTH), new(2, FRAMES), (16, 16))  # noqa: E731
    return Step(network, inputs, lambda predicted: predicted.sum())


def encoder() -> Step:
    """The frozen tokenizer on 2 clips of 512 px."""
    network = DeltaTok(DeltaTokConfig(depth=2)).eval().requires_grad_(False)
    store_products(network, torch.bfloat16)
    return Step(network, lambda new: (new(2, FRAMES, 1024, WIDTH), new(1024, WIDTH), (32, 32)), None, "encode_clip")


def backbone() -> Step:
    """The frozen backbone on 8 frames of 512 px."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 12, "num_hidden_layers": 1}
    with tempfile.TemporaryDirectory() as folder:
        DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_register_tokens=4, patch_size=16)).save_pretrained(folder)
        values = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "rescale_factor": 1 / 255}
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(values))
        network = Backbone.load(folder, "cpu", torch.bfloat16)
    network.merge(512, 512)
    return Step(network, lambda new: (new(8, 3, 512, 512).to(torch.uint8),), None)


STEPS: dict[str, Callable[[], Step]] = {
    "tokenizer": tokenizer,
    "world, 32 clips": lambda: world(32),
    "world, 128 clips": lambda: world(128),
    "baseline": baseline,
    "encoder": encoder,
    "backbone": backbone,
}


def ask(step: Step, device: str) -> Asked:
    """Lower a step and return what it asks for."""
    torch._dynamo.reset()
    mode, lowering = FakeTensorMode(allow_non_fake_inputs=True), Lowering(device)
    network = emptied(step.network, mode, device)
    learns = step.loss is not None and device == "cpu"
    with mode:
        inputs = step.inputs(lambda *shape: torch.empty(shape, device=device))
        compiled = torch.compile(getattr(network, step.method), fullgraph=True, backend=lowering.backend())
        with torch.set_grad_enabled(learns), torch.autocast(device, torch.bfloat16, cache_enabled=False):
            found = compiled(*inputs)
        if learns and step.loss is not None:
            step.loss(found).backward()
            results = found if isinstance(found, Tensor) else vars(found)
            lowering.asked.saved_gb = lowering.kept(sum(isinstance(each, Tensor) for each in tree_leaves(results)))
    return lowering.asked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"all of {', '.join(STEPS)} where none is named")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    # Searched in chunks as on a GPU: a CPU's are small.
    deltaworld.SEARCH_ROWS = {**deltaworld.SEARCH_ROWS, "cpu": deltaworld.SEARCH_ROWS["cuda"]}
    card = pretended_card() if options.device == "cuda" else contextlib.nullcontext()
    with config.patch(joint_graph_constant_folding=False), card:
        found = {name: ask(STEPS[name](), options.device) for name in options.steps or STEPS}
    if options.json:
        print(json.dumps({name: {**vars(each), "calls": each.calls} for name, each in found.items()}))
        return
    print(f"{'step':18}{'kernels':>9}{'GB':>9}{'calls':>9}{'GB':>9}{'kept GB':>9}   calls by kind")
    for name, each in found.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in each.library.most_common())
        numbers = f"{each.kernels:9}{each.kernel_gb:9.3f}{each.calls:9}{each.library_gb:9.3f}{each.saved_gb:9.3f}"
        print(f"{name:18}{numbers}   {kinds}")


if __name__ == "__main__":
    main()
