"""Small runs of linear probes, heads and `vos`, each carried out by the processes that torchrun started; a script for tests.

    python tests/probes_together.py FOLDER CASE...

Every rank writes to FOLDER/CASE-RANK.json the scores that it ends with, and its work: the images that it passed through the
backbone, and the chunks of rows that it made.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

OPTIONS = {
    "lbfgs by rows": ("linear", "lbfgs", {"l2": (1e-4, 1e-1), "iterations": 40}),
    "lbfgs by fits": ("linear", "lbfgs", {"l2": (1e-4, 1e-1), "iterations": 20, "fractions": (1, 2, 5), "seeds": 3}),
    "neco": ("linear", "neco", {"seeds": 2, "fractions": (1, 3), "subsets": "uniform"}),
    "leopart": ("linear", "leopart", {"learning_rates": (0.01, 0.1)}),
    "croc": ("linear", "croc", {"augment": "none"}),
    "mmseg": ("linear", "mmseg", {"learning_rates": (0.1, 0.01), "quirks": True}),
    "dinov3": ("linear", "dinov3", {"learning_rates": (0.1,)}),
    "segmenter": ("segmenter", "mmseg", {"learning_rates": (1e-3,)}),
    "vos dino": ("vos", "dino", {"short_side": 64, "radius": 3, "context": 3}),
    "vos dinov3": ("vos", "dinov3", {"short_side": 64, "radius": 3, "context": 2, "precision": "bf16"}),
}
SGD = {"image_size": 32, "mask_size": 20, "epochs": 3, "train_batch": 4}
WINDOWS = {"crop_size": 32, "stride": 24, "iterations": 6, "train_batch": 6, "validations": 2}


def parts_of(case: str, folder: Path) -> tuple[Any, Any, Any]:
    """Return the protocol, the backbone and the data set of a case."""
    from retrieval_by_loops import DATA, PATCH

    from densebench.backbones.loading import load_backbone
    from densebench.evaluation.plan import planned

    protocol, preset, given = OPTIONS[case]
    more = SGD if preset in ("neco", "leopart", "croc") else WINDOWS if case in ("mmseg", "dinov3", "segmenter") else {}
    data = f"frames:{folder / 'videos'}" if protocol == "vos" else "scenes" if more is WINDOWS else DATA
    spec = "random:test_vit" if more is WINDOWS else f"pixels:{PATCH}"
    given = {"workers": 0, "device": "cpu", **more, **given}
    plan = planned(load_backbone(spec), protocol, data, preset=preset, dry_run=True, **given)
    [requested], [dataset] = plan.backbones, plan.datasets
    return plan.evaluator.resolve(dataset), requested.load(), dataset


def carry_out(case: str, folder: Path, world: Any) -> None:
    """Run a case, and write the scores of this rank and the work that it did."""
    from densebench.backbones.backbone import Backbone
    from densebench.evals.linear import logistic
    from densebench.evaluation.protocol import Run
    from densebench.numerics import sgd_layers

    logistic.CHUNK, sgd_layers.CHUNK = 20 if case == "lbfgs by rows" else 2**16, 2**12  # several parts of little data
    evaluator, backbone, dataset = parts_of(case, folder)
    work = {"images": 0, "chunks": 0}
    forward, chunk = Backbone.forward, logistic.Probe.chunk

    def counted(self: Any, batch: torch.Tensor) -> torch.Tensor:
        work["images"] += len(batch)
        return forward(self, batch)

    def chunk_counted(self: Any, *given: Any) -> Any:
        work["chunks"] += 1
        return chunk(self, *given)

    Backbone.forward, logistic.Probe.chunk = counted, chunk_counted  # type: ignore[method-assign]
    limit = None if case in ("vos dino", "vos dinov3") or "random" not in backbone.spec else 5
    scores = list(evaluator.run(backbone, dataset, Run(limit, progress_key=f"{case}-{world.size}".replace(" ", "-"))))
    Backbone.forward, logistic.Probe.chunk = forward, chunk  # type: ignore[method-assign]
    found = {"scores": [dataclasses.asdict(score) for score in scores], **work}
    (folder / f"{case}-{world.rank}.json").write_text(json.dumps(found, sort_keys=True))


def main() -> None:
    from densebench.evaluation.undisturbed import plain
    from densebench.processes import joined

    folder, *cases = sys.argv[1:]
    with joined(torch.device("cpu")) as world, plain():
        for case in cases:
            torch.manual_seed(0)
            carry_out(case, Path(folder), world)


def outcomes(folder: Path, size: int, cases: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Run cases in `size` processes with a cache of their own; return by case what each rank wrote."""
    folder.mkdir(exist_ok=True)
    start = [sys.executable, "-W", "ignore"]
    start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"] if size > 1 else []
    own = {**os.environ, "DENSEBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "DENSEBENCH_QUIET": "1"}
    done = subprocess.run([*start, __file__, str(folder), *cases], capture_output=True, text=True, check=False, env=own)
    assert done.returncode == 0, done.stderr
    return {case: [json.loads((folder / f"{case}-{rank}.json").read_text()) for rank in range(size)] for case in cases}


if __name__ == "__main__":
    main()
