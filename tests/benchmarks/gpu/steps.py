"""Training steps of every method: milliseconds, images a second, and which share of the device's arithmetic the encoders use.

That share (MFU) counts the operations of student's and teacher's encoders, forward and backward, against the measured rate of one
large product in bf16. Whatever else a step does is not the backbone: views, heads, clustering, search, losses, the optimiser.
"""

from __future__ import annotations

import gc
import traceback
from dataclasses import dataclass, field
from unittest import mock

import torch
from photos import photos
from table import place
from timing import flop, memory, profile, seconds, settle

from densebench import catalog, options
from densebench.datasets.images import Joined
from densebench.datasets.unlabelled import open_images
from densebench.numerics.arithmetic import float32
from densebench.processes import World
from densebench.training.loop import assemble, run
from densebench.training.networks import Network

ORDER = ("dino", "cribo", "croc", "flsl", "neco")  # others of the catalogue follow
PRESETS = ("coco", "imagenet")  # the first that a method has, else its first preset
BATCH = 256
COUNTED = 8  # images of the step whose operations are counted
SMALL = {"arch": "test_vit", "image_size": 64, "local_size": 32, "out_dim": 64, "object_dim": 64, "memory": 16, "objects": 8,
         "k_start": 6, "k_max": 6, "hidden_dim": 32, "bottleneck_dim": 16, "batch_size": 4}  # fmt: skip
EXPECTED = {"dino": 2470, "cribo": 2200, "croc": 3760, "flsl": 5960, "neco": 2000}  # images a second, the most of docs/gpu.md


@dataclass
class Calls:
    """The passes through encoders in a step: which network, the shape of its images, with or without gradients."""

    made: list[tuple[Network, tuple[int, ...], bool]] = field(default_factory=list)

    def noted(self):
        """A context in which passes are noted."""
        encode = Network.encode

        def noting(network, images, **more):
            self.made.append((network, tuple(images.shape), torch.is_grad_enabled()))
            return encode(network, images, **more)

        return mock.patch.object(Network, "encode", noting)

    def repeat(self, device):
        """Run the same passes, with the backward pass of those that have gradients, and nothing else."""
        for network, shape, graded in self.made:
            images = torch.zeros(shape, device=device)
            with torch.set_grad_enabled(graded):
                tokens = network.encode(images)
            if graded:
                (tokens.image.sum() + tokens.patches.sum()).backward()
                network.zero_grad(set_to_none=True)


def steps(bench):
    known = sorted(catalog.entries("methods"), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    cases = [(name, "bf16", None) for name in known]
    for name, precision, compiled in [*cases, (known[0], "bf16", False), (known[0], "fp32", None)]:
        what = f"{name} {precision}{'' if compiled is None else ', not compiled'}"
        if not bench.small and bench.left() < 150:
            bench.add("steps", f"{what}: left out, the time is spent", round(bench.left(), 1), "s")
            return
        try:
            _method(
                bench, what, _assembled(bench, name, precision, compiled), EXPECTED.get(name) if what == f"{name} bf16" else None
            )
        except Exception as error:  # the other methods are measured all the same
            traceback.print_exc()
            bench.add("steps", f"FAILED: {what}: {type(error).__name__}", place(error), note=" ".join(str(error).split())[:160])
        gc.collect()
        if bench.cuda:
            torch.cuda.empty_cache()


def _method(bench, what, training, expected):
    o, batch = training.options, training.options.batch_size
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    done = run(training, training.steps)
    calls = Calls()
    with calls.noted():
        next(done)
    each = seconds(bench, lambda: next(done), bench.size(8, 1), bench.size(4, 1))
    note = f"{o.arch} {o.image_size} px, batch {batch}: {each * 1e3:.1f} ms a step{memory(bench)}"
    bench.add("steps", f"{what}: speed", batch / each, "images/s", expected, note)
    bank = getattr(training.objective, "bank", None)
    if bank is not None:
        bench.add("steps", f"{what}: searches that fell back", float(bank.fallbacks), "queries")
    _encoders(bench, what, o.precision, calls, each)
    seen = profile(bench, lambda: next(done))
    if bench.cuda:
        note = f"of {each * 1e3:.1f} ms; {seen['launches']} launches, {seen['waits']} waits"
        bench.add("steps", f"{what}: the device is busy", seen["busy"], "ms", None, note)
        bench.add("steps", f"{what}: most time", "", note=seen["top"])
    done.close()


def _encoders(bench, what, precision, calls, each):
    """The part of a step that is the encoders, and their share of the device's arithmetic."""
    with float32(tf32=precision != "fp32"):
        alone = seconds(bench, lambda: calls.repeat(bench.device), bench.size(5, 1), 1)
        few = Calls([(network, (min(COUNTED, shape[0]), *shape[1:]), graded) for network, shape, graded in calls.made])
        with torch.compiler.set_stance("force_eager"):  # operations inside a compiled graph are not counted
            operations = sum(
                flop(lambda one=one: Calls([one]).repeat(bench.device)) * shape[0] / one[1][0]
                for one, (_, shape, _) in zip(few.made, calls.made, strict=True)
            )
    settle(bench)
    rest = 100 * max(0.0, 1 - alone / each)
    bench.add("steps", f"{what}: not the backbone", rest, "% of time", None, f"{alone * 1e3:.1f} ms encoders alone")
    if precision in bench.ceilings:
        rate = operations / each / 1e12
        note = f"{operations / 1e12:.2f} TFLOP a step, {rate:.0f} TFLOP/s"
        bench.add("steps", f"{what}: MFU", 100 * rate / bench.ceilings[precision], "%", 40, note)


def _assembled(bench, name, precision, compiled):
    kind = catalog.load("methods", name)
    preset = next((preset for preset in PRESETS if preset in kind.presets), next(iter(kind.presets)))
    batch = min(BATCH, {**kind.presets[preset]}.get("batch_size", BATCH))
    given = {
        "batch_size": batch, "precision": precision, "compile": compiled, "cache": "gpu", "device": bench.device.type,
        "workers": 0, "steps": 100, "log_every": 1000, "bootstrap_after": 0, **(SMALL if bench.small else {}),
    }  # fmt: skip
    given = {key: value for key, value in given.items() if hasattr(kind, key)}
    chosen = options.build(kind, dict(kind.presets[preset]), given)
    one = open_images([str(photos(bench.folder / "photos", bench.size(64, 8)))])
    torch.manual_seed(0)
    training = assemble(chosen, chosen.encoder(), Joined("photos", (one,) * bench.size(8, 1)), 0, World(0, 1, bench.device))
    bank = getattr(training.objective, "bank", None)
    if bank is not None:
        _fill(bank, bench.device)
    return training


def _fill(bank, device):
    """Fill the memory bank of CrIBo, as it is after the first epoch, with random objects of other images."""
    images, objects, width = bank.objects.shape[1:]
    for first in range(0, images, BATCH):
        count = min(BATCH, images - first)
        bank.add(
            torch.randn(2, count, objects, width, device=device),
            torch.rand(count, objects, device=device) < 0.7,  # 45 of 64, as measured on COCO
            torch.arange(-2 - first - count, -2 - first, device=device),
            torch.zeros(count, bank.labels.shape[1], dtype=torch.int16, device=device),
            torch.zeros(count, 2, 5, device=device),
        )
