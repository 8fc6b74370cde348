"""Measure a GPU in at most ten minutes: `make gpu`.

Parts run in order of importance. Each prints its rows at once, and a part that fails does not stop the others. Rows are written
to results/gpu/<device>.json, from which docs/gpu.md is filled; on a CPU, which is only a rehearsal, sizes are small and rows are
written to build/gpu/. The exit status is 1 if a part failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]
if importlib.util.find_spec("densebench") is None:  # a Python in which it is not installed: the checkout, laid out as installed
    SITE = tempfile.TemporaryDirectory(prefix="densebench-site-")
    PACKAGE = Path(SITE.name) / "densebench"
    PACKAGE.mkdir()
    for part in (*(ROOT / "densebench").iterdir(), ROOT / "evals", ROOT / "pretrain"):
        (PACKAGE / part.name).symlink_to(part)
    sys.path.insert(0, SITE.name)
    os.environ["PYTHONPATH"] = os.pathsep.join([SITE.name, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])

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
"""The parts in their order: the seconds that must be left for a part to begin, its module and its function."""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--budget", type=float, default=560, help="seconds")
    parser.add_argument("--only", default="", help="parts to run, with commas between them")
    parser.add_argument("--output", type=Path, help="folder of the table")
    parser.add_argument("--small", action="store_true", help="small sizes, as on a CPU: a rehearsal")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device: this machine or this build of torch has none; rehearse with `make gpu DEVICE=cpu`", file=sys.stderr
        )
        return 2
    chosen = [name for name in given.only.split(",") if name]
    if unknown := [name for name in chosen if name not in PARTS]:
        print(f"unknown part {unknown[0]!r}: --only takes {', '.join(PARTS)}", file=sys.stderr)
        return 2
    device = torch.device(given.device, 0) if given.device == "cuda" else torch.device("cpu")
    small = given.small or given.device == "cpu"
    output = given.output or ROOT / ("build/gpu" if small else "results/gpu")
    folder = Path(tempfile.mkdtemp(prefix="densebench-gpu-"))
    bench = Bench(device, small, given.budget, folder, output / f"{slug(device)}.json")
    try:
        bench.save()  # before minutes are spent on a table that cannot be written
        for name, (least, module, function) in PARTS.items():
            if not chosen or name in chosen:
                bench.run(name, 0 if small else least, module, function)
    except OSError as error:  # of the table alone: what fails in a part is a row
        print(f"the table {bench.output} cannot be written ({error.strerror}); give another --output", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; {len(bench.rows)} rows in {bench.output}", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(bench.rows)} rows in {bench.output}")
    return 1 if bench.failed() else 0


if __name__ == "__main__":
    os.environ.setdefault("DENSEBENCH_QUIET", "1")  # so that the table can be read; warnings are printed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
