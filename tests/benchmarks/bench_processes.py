"""Protocols in several processes (gloo, a thread each) against one process, from the same images to the same scores.

Each run is a call of `densebench eval` with a cache and a results folder of its own: features are extracted, then scored. One
process runs twice: with one thread, and with as many threads as there are processes, which is what the cores can do without
processes. Scores must be equal, or the ratio means nothing.

    python tests/benchmarks/bench_processes.py [--processes 2] [--protocols incontext,kmeans,linear] [--limit 60] [--repeats 2]
        [--dataset scenes] [--data-root DIR] [--backbone random:vit_tiny_patch16_224] [--weights FILE]

Prints for each protocol and stage the seconds of the fastest of --repeats runs, and the speed-up of processes over one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIONS = {
    "incontext": ["--fractions", "1,4", "--seeds", "2"],
    "kmeans": ["--clusters", "0,50", "--seeds", "2"],
    "linear": ["--l2", "1e-4,1e-2", "--iterations", "50"],
}
STAGES = ("labels", "features", "memory", "search", "fit", "clustering", "scoring", "total")


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"processes": 2, "limit": 60, "repeats": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--protocols", default=",".join(OPTIONS))
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--data-root")
    parser.add_argument("--backbone", default="random:vit_tiny_patch16_224")
    parser.add_argument("--weights")
    return parser.parse_args()


def scored(protocol, processes, threads, arguments):
    """The scores of one run with an empty cache, and the seconds of its stages; "call" is all of it, with the start of Python."""
    words = ["-m", "densebench", "eval", "--protocol", protocol, "--device", "cpu", "--json", "--limit", str(arguments.limit)]
    words += ["--dataset", arguments.dataset, "--backbone", arguments.backbone, *OPTIONS.get(protocol, [])]
    words += ["--gpus", str(processes)] if processes > 1 else []
    for name in ("data_root", "weights"):
        value = getattr(arguments, name)
        words += [f"--{name.replace('_', '-')}", value] if value else []
    with tempfile.TemporaryDirectory() as folder:
        own = {"DENSEBENCH_CACHE": str(Path(folder) / "cache"), "DENSEBENCH_QUIET": "1", "OMP_NUM_THREADS": str(threads)}
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *words, "--results", str(Path(folder) / "results"), "--workers", "0"],
            capture_output=True, text=True, env={**os.environ, **own}, check=False,
        )  # fmt: skip
        call = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{protocol} in {processes} processes failed:\n{done.stderr}")
    record = json.loads(done.stdout.splitlines()[-1])
    return record["scores"], {**record["run"]["seconds"], "call": call}


def fastest(protocol, processes, threads, arguments):
    """The scores, and the seconds of the fastest of several runs, whose scores must be equal."""
    runs = [scored(protocol, processes, threads, arguments) for _ in range(arguments.repeats)]
    if any(scores != runs[0][0] for scores, _ in runs):
        sys.exit(f"{protocol} in {processes} processes has other scores in another run")
    return min(runs, key=lambda run: run[1]["total"])


def values(scores):
    """The values of scores, with those of classes."""
    of_classes = [[value for value in (score.get("per_class") or {}).values() if value is not None] for score in scores]
    return [[score["value"], *each] for score, each in zip(scores, of_classes, strict=True)]


def apart(some, others):
    """The largest difference of two lists of scores, in points."""
    pairs = zip(values(some), values(others), strict=True)
    return max(abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True))


def main():
    arguments = parsed()
    count = arguments.processes
    print(f"{arguments.backbone} on {arguments.dataset}, {arguments.limit} images a split, {os.cpu_count()} cores")
    for protocol in arguments.protocols.split(","):
        one, slow = fastest(protocol, 1, 1, arguments)
        _, threaded = fastest(protocol, 1, count, arguments)
        several, fast = fastest(protocol, count, 1, arguments)
        print(f"\n{protocol:12} {'1 process':>12} {f'{count} threads':>12} {f'{count} processes':>12} {'speed-up':>9}")
        for stage in (stage for stage in (*STAGES, "call") if stage in slow):
            row = [seconds[stage] for seconds in (slow, threaded, fast)]
            print(f"{stage:12} {row[0]:12.2f} {row[1]:12.2f} {row[2]:12.2f} {row[0] / max(row[2], 1e-9):9.2f}")
        difference = apart(one, several)
        print(f"{len(one)} scores; the largest difference of {count} processes from one is {difference:g} points")
        if difference > 1e-6:
            sys.exit("the processes disagree with one: the ratio means nothing")


if __name__ == "__main__":
    main()
