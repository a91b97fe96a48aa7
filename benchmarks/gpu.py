"""What a GPU does with every stage at the published sizes: is it right, and how fast; the most valuable first.

Run: python benchmarks/gpu.py [SECTION…] [--seconds 600] [--out LINES.jsonl] [--smoke]     (make bench-gpu)

Prints one JSON line for each result, and adds it to the file where one is named: section, figures, card, date, commit
and command. `gpu_table.py` makes the table of docs/benchmarks.md from them. Each section runs in a process of its own,
so that a failure, out of memory among them, ends that section only and says so. Those that begin too late for the time
they are known to take are skipped and say so, too. Weights are random, data are made here, in memory.

    facts       the card, its rates of products, attention and copies: what all figures are compared with
    clip        tokenizer training as `auto` sets it: bf16, fused AdamW, gradients clipped
    ddp         every network compiled inside DistributedDataParallel, buckets as by default; one process
    backbone    frames a second on the device, compiled and not, at 512 px
    featurize   from shards to published groups
    world       tokens from features; training from tokens at the published batch of 32, as a CUDA graph, and at 128
    live        the same step with backbone and tokenizer in the loop, at the published batch
    tokenizer   training from features at 512 px
    tests       what is marked gpu
    dali        JPEGs decoded on the card beside OpenCV: levels, features, rate
    video       the first frames of videos on NVDEC beside the CPU

Training steps are timed as windows of steps with the card waited for at both ends only. Both sides of every ratio train
in bf16 and compiled, as `auto` does; `graphs` tells how many graphs a run compiled.

`--smoke` tries the same code with tiny networks on a CPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gpu_inputs import PUBLISHED, TINY, Inputs
from gpu_sections import ROOT, SECTIONS, Bench, describe


def run_section(run: Callable[[Bench], None], bench: Bench) -> None:
    """Run a section in this process, and say how it ended."""
    try:
        run(bench)
    except BaseException as error:
        bench.fail(describe(error), where=traceback.format_exc()[-600:])
    else:
        bench.end()


def card_name() -> str | None:
    """Return the name of the card, without a context on it, which child processes could not share; None without one."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False).stdout.splitlines()
    return names[0].strip() if names else None


def stamp_of(card: str, arguments: list[str]) -> dict[str, str]:
    """Return what every line says about where it comes from."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    command = " ".join(["benchmarks/gpu.py", *arguments])
    return {
        "card": card,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "command": command,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"all of {', '.join(SECTIONS)} by default")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all sections together")
    parser.add_argument("--out", type=Path, help="file that lines are added to")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section is called {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    begun = time.perf_counter()
    names = [name for name in SECTIONS if not options.sections or name in options.sections]
    card = "none" if options.smoke else card_name()
    if card is None:
        print("no NVIDIA GPU here, by nvidia-smi; --smoke tries the code on a CPU", file=sys.stderr)
        sys.exit(1)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    memory = Path("/dev/shm")
    forked = multiprocessing.get_context("fork")  # what is imported here need not be imported again
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() and not options.smoke else None) as folder:
        os.environ.update(DELTACTL_HOME=f"{folder}/home", HF_HUB_OFFLINE="1", WANDB_MODE="offline")
        scale = TINY if options.smoke else PUBLISHED
        stamp = stamp_of(card, [*(["--smoke"] if options.smoke else []), *options.sections])
        bench = Bench("", Inputs(Path(folder), scale), options.out, stamp)
        for name in names:
            run, expected = SECTIONS[name]
            left = options.seconds - (time.perf_counter() - begun)
            own = replace(bench, section=name, begun=time.perf_counter())
            if left < expected:
                own.say("skipped", skipped=f"{left:.0f} of {options.seconds:.0f} s are left; it takes about {expected}")
                continue
            process = forked.Process(target=run_section, args=(run, own))
            process.start()
            process.join(left)
            if process.is_alive():
                process.kill()
                own.fail(f"stopped after {left:.0f} s, when the time for all sections was over")
            elif process.exitcode:
                own.fail(f"its process ended with code {process.exitcode}")
            process.join()


if __name__ == "__main__":
    main()
