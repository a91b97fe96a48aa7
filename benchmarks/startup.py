"""What commands cost before they compute: processor time over that of importing torch, in one run.

Run: python benchmarks/startup.py [--rounds 3] [-- WORDS OF A COMMAND]

Each command is given an input that is not there, so that it loads what it works with and ends; beside it stand the
libraries alone that some of them cannot do without: Lightning, which `train` runs on, and transformers' DINOv3, which a
backbone needs. Two rows are whole evaluations of five clips with the tests' tiny networks, whose features are cached:
one with charts, one without. All take turns, and the least of the rounds counts. A command given behind `--` is
measured as well, as it is; the first round fills what it caches.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
GOLDEN = TESTS / "golden"
DELTACTL = ("-m", "deltactl")
CACHED = (
    "eval", "--dataset", "vspw", "--root", str(TESTS / "trees" / "VSPW"), "--backbone", str(GOLDEN / "backbone"),
    "--size", "64", "--tokenizer", str(GOLDEN / "deltatok.bin"), "--world", str(GOLDEN / "deltaworld.bin"),
    "--head", str(GOLDEN / "head_vspw.bin"), "--samples", "2", "--device", "cpu", "--pictures", "0", "--yes",
)  # fmt: skip
CASES = {
    "import torch": ("-c", "import torch"),
    "import lightning.pytorch": ("-c", "import lightning.pytorch"),
    "import DINOv3 of transformers": ("-c", "import transformers.models.dinov3_vit.modeling_dinov3_vit"),
    "deltactl --help": (*DELTACTL, "--help"),
    "deltactl ingest": (*DELTACTL, "ingest", "nowhere"),
    "deltactl featurize": (*DELTACTL, "featurize", "nowhere"),
    "deltactl tokenize": (*DELTACTL, "tokenize", "nowhere", "--tokenizer", "nowhere"),
    "deltactl train tokenizer": (*DELTACTL, "train", "tokenizer", "nowhere"),
    "deltactl eval": (*DELTACTL, "eval", "--dataset", "vspw", "--root", ".", "--backbone", "nowhere"),
    "deltactl predict": (*DELTACTL, "predict", "nowhere.mp4", "--tokenizer", "nowhere", "--world", "nowhere"),
    "deltactl verify": (*DELTACTL, "verify", "nowhere"),
    "deltactl eval, cached": (*DELTACTL, *CACHED),
    "deltactl eval, cached, no charts": (*DELTACTL, *CACHED, "--no-extras"),
}


def measured(words: tuple[str, ...], folder: str) -> tuple[float, float]:
    """Return processor and clock seconds of a process of Python with these words, and of its processes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {"DELTACTL_HOME": folder, **os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, check=False)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("words", nargs="*", help="a command to measure as well; paths in it must be absolute")
    options = parser.parse_args()
    cases = dict(CASES)
    if options.words:
        cases[f"deltactl {options.words[0]}, as given"] = (*DELTACTL, *options.words)
    with tempfile.TemporaryDirectory() as folder:
        measured((*DELTACTL, *CACHED), folder)  # fills the cache
        rounds = [{name: measured(words, folder) for name, words in cases.items()} for _ in range(options.rounds)]
    least = {name: tuple(min(each[name][part] for each in rounds) for part in range(2)) for name in cases}
    torch = least["import torch"]
    print(f"{'':32}  processor    over torch  clock")
    for name, (processor, clock) in least.items():
        print(f"{name:32}  {processor:7.2f} s  {processor / torch[0]:7.2f} ×  {clock:7.2f} s")


if __name__ == "__main__":
    main()
