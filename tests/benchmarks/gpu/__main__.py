"""What a GPU gives, in at most ten minutes: `make gpu`.

Parts run in the order of their importance, each prints its rows as they come, and one that fails does not end the others. Rows go
to results/gpu/<device>.json, where docs/gpu.md takes its tables from; on a CPU, which only rehearses, sizes are small and rows go
to build/gpu/. The exit status is 1 where a part failed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]

import torch  # noqa: E402
from table import Bench, slug  # noqa: E402

PARTS = {
    "machine": (5, "machine", "machine"),
    "right": (60, "right", "right"),
    "steps": (60, "steps", "steps"),
    "search": (40, "searching", "searching"),
    "features": (40, "extraction", "features"),
    "loader": (30, "extraction", "loading"),
    "kmeans": (20, "clustering", "clustering"),
    "counting": (5, "clustering", "counting"),
}
"""The parts in their order: the least seconds that must be left for one to begin, its module and its function."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--budget", type=float, default=560, help="seconds")
    parser.add_argument("--only", default="", help="parts to run, with commas between them")
    parser.add_argument("--output", type=Path, help="folder of the table")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device: this machine or this build of torch has none; rehearse with `make gpu DEVICE=cpu`", file=sys.stderr
        )
        return 2
    device = torch.device(given.device, 0) if given.device == "cuda" else torch.device("cpu")
    output = given.output or ROOT / ("results/gpu" if given.device == "cuda" else "build/gpu")
    folder = Path(tempfile.mkdtemp(prefix="densebench-gpu-"))
    try:
        bench = Bench(device, given.device == "cpu", given.budget, folder, output / f"{slug(device)}.json")
        for name, (least, module, function) in PARTS.items():
            if not given.only or name in given.only.split(","):
                bench.run(name, least if given.device == "cuda" else 0, module, function)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(bench.rows)} rows in {bench.output}")
    return 1 if bench.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
