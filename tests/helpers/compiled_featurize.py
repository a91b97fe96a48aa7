"""Featurize and tokenize compiled, and print as JSON how they differ from the plain ones, or what their graph holds.

    JAXTYPING_DISABLE=1 python tests/helpers/compiled_featurize.py graph
    JAXTYPING_DISABLE=1 python tests/helpers/compiled_featurize.py aot_eager|inductor FOLDER

A program of its own, because the tests' check of shapes in signatures is a wrapper that torch.compile cannot trace.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from functorch.compile import make_boxed_func
from small_training import BACKBONE, SIZE, make_shards
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.compute import Computer
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.finish import read_group_file
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.tokenization.run import run as tokenize

TOKENIZER = Path(__file__).parents[1] / "golden" / "deltatok.bin"


def graph() -> dict[str, Any]:
    """Count the operations of the graph that featurize would hand to the compiler on a GPU, in bfloat16."""
    found: list[Counter[str]] = []

    def count(traced: torch.fx.GraphModule, _: Any) -> Any:
        found.append(Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_function"))
        conversions = [node for node in traced.graph.nodes if "_to_copy" in str(node.target)]
        found[-1]["weights converted"] = sum(
            node.args[0].op == "placeholder" and node.args[0].meta["val"].ndim == 2
            and node.args[0].meta["val"].dtype == torch.float32
            for node in conversions
        )  # fmt: skip
        return make_boxed_func(traced.forward)

    computer = Computer(Backbone.load(BACKBONE, "cpu", torch.bfloat16), FrameSize.of(SIZE), 2, False)
    computer.backbone.merge(SIZE, SIZE)
    run = torch.compile(computer._features, backend=aot_autograd(fw_compiler=count), dynamic=False)
    with torch.inference_mode():
        run(torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8))
    (operations,) = found
    return {"layers": computer.backbone.facts.depth, "operations": operations}


def whole(backend: str, folder: Path) -> dict[str, Any]:
    """Run both stages compiled beside the plain ones; in bfloat16 the first one alone."""
    if backend != "inductor":
        real = torch.compile
        torch.compile = lambda function, *, dynamic, options: real(function, dynamic=dynamic, backend=backend)
    shards = make_shards(folder / "shards", units=1, clips=5)
    facts: dict[str, Any] = {}
    for precision in ("float32", "bfloat16"):
        made: dict[bool, list[torch.Tensor]] = {False: [], True: []}
        for compiled, results in made.items():
            out = folder / f"{precision}-{compiled}"
            common: Any = {"device": "cpu", "workers": 0, "compile": compiled, "precision": precision}
            common |= {"backbone": str(BACKBONE), "size": SIZE, "batch_size": 6}
            featurize(FeaturizeConfig(shards=shards, out=str(out), **common))
            features = FeatureStore.open(str(out))
            results.append(features.read_clips(range(len(features))).float())
            how = read_group_file(features.root, 0, "000000").provenance
            facts[out.name] = {"compiled": how["compiled"], "black": features.black.double().sum().item()}
            if precision == "float32":
                tokens = f"{out}-tokens"
                tokenize(TokenizeConfig(data=shards, out=tokens, tokenizer=str(TOKENIZER), **common))
                store = TokenStore.open(tokens)
                results.append(store.read_clips(range(len(store))).float())
                how = read_group_file(store.root, 0, "000000").provenance
                facts[out.name]["tokenizer"] = how["tokenizer"].get("compiled", False)
        facts[precision] = [
            torch.nn.functional.cosine_similarity(a, b, dim=-1).min().item()
            for a, b in zip(*made.values(), strict=True)
        ]
    return {**facts, "breaks": sum(counters["graph_break"].values()), "graphs": counters["stats"]["unique_graphs"]}


if __name__ == "__main__":
    print(json.dumps(graph() if sys.argv[1] == "graph" else whole(sys.argv[1], Path(sys.argv[2]))))
