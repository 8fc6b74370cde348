"""Training of detectors: a killed run ends with the same weights, two processes do the work of one, what is seen is learned."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_runs import ALONE, data_of, trained, weights
from drawn_objects import Drawn, options_of, small_vit

from densebench.backbones.loading import load_backbone
from densebench.bridges.torchvision import training
from densebench.bridges.torchvision.data import settling_batches
from densebench.bridges.torchvision.detector import build
from densebench.bridges.torchvision.inference import detect, read_detections
from densebench.bridges.torchvision.masks import decode
from densebench.bridges.torchvision.options import Data
from densebench.bridges.torchvision.training import settle, train
from densebench.datasets.dataset import Item
from densebench.errors import UserError
from densebench.evals.detection.average_precision import CocoPrecision, Scored
from densebench.files.states import saved_states


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(training, "LEAST", 1)


def test_a_killed_run_ends_with_the_same_weights_bit_for_bit(tmp_path, often, monkeypatch):
    data, options = data_of(tmp_path), {"width": 8, "iterations": 5, "drop_path": 0.3, "augmentation": "detr", "regions": 8}
    options["patch"] = 16  # has a batch norm
    whole, curve = trained(data, tmp_path / "whole", **options)
    step = training.Trainer.step

    def killed(self, iteration, batches):
        if iteration == 3:
            raise KeyboardInterrupt
        step(self, iteration, batches)

    monkeypatch.setattr(training.Trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path / "killed", **options)
    monkeypatch.setattr(training.Trainer, "step", step)
    assert [path.stem for path in saved_states(tmp_path / "killed")] == ["step-00000002", "step-00000003"]
    again, resumed = trained(data, tmp_path / "killed", **options)
    assert curve == resumed and [iteration for iteration, _ in curve] == [1, 2, 3, 4, 5]
    first, second = weights(whole), weights(again)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other, _ = trained(data, tmp_path / "other", **{**options, "train_seed": 1})
    assert not torch.equal(weights(other)["rpn.head.head.cls_logits.weight"], first["rpn.head.head.cls_logits.weight"])
    finished, _ = trained(data, tmp_path / "whole", **options)  # nothing is left to do
    assert all(torch.equal(first[name], value) for name, value in weights(finished).items())


def test_every_parameter_that_is_used_learns(tmp_path):
    data, options = data_of(tmp_path), options_of(width=8, iterations=3, regions=8, warmup=0)
    detector = build(small_vit(dim=16), 2, options)
    before = weights(detector)
    train(detector, data, options, tmp_path / "run", ALONE)
    still = {name for name, _ in detector.named_parameters() if torch.equal(before[name], weights(detector)[name])}
    assert still == {f"backbone.layers.trunk.model.norm.{kind}" for kind in ("weight", "bias")}
    assert not torch.equal(before["backbone.levels.0.0.weight"], weights(detector)["backbone.levels.0.0.weight"])


@pytest.mark.parametrize("at_once", [1, 2])
def test_statistics_of_batch_norms_are_means_over_the_same_passes(tmp_path, at_once):
    """The deconvolution's outputs of three samples (four where two go together), by hand, with the last weights."""
    data, options = data_of(tmp_path), {"width": 8, "iterations": 3, "regions": 8, "drop_path": 0.3, "at_once": at_once}
    detector, _ = trained(data, tmp_path / "run", patch=16, **options)
    assert detector.training and detector.backbone.training
    first, norm = detector.backbone.levels[0][:2]
    means, variances = [], []
    detector.eval()
    for batch in settling_batches(data, options_of(**options), 0):
        images, _ = detector.transform([image for _, image, _ in batch])
        with torch.no_grad():
            values = first(detector.backbone.layers(images.tensors)[0]).double()
        means.append(values.mean((0, 2, 3)))
        variances.append(values.transpose(0, 1).flatten(1).var(1))
    assert len(means) == norm.num_batches_tracked == {1: 3, 2: 2}[at_once] and norm.momentum == 0.1
    torch.testing.assert_close(norm.running_mean.double(), torch.stack(means).mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var.double(), torch.stack(variances).mean(0), atol=1e-5, rtol=1e-4)
    assert norm.running_mean.abs().max() > 1e-3


def test_a_broken_image_is_named_when_batch_norms_settle(tmp_path):
    dataset = Broken(root=tmp_path)
    data = Data(dataset, dataset.part("train", None), [])
    with pytest.raises(UserError, match="the image train-1 is broken"):
        settle(build(small_vit(16, dim=16), 2, options_of(width=8)), data, options_of(width=8), ALONE)


def test_batch_norms_of_the_backbone_stay_as_they_are(tmp_path):
    detector = build(load_backbone("random:resnet10t"), 2, options_of(width=8))
    before = weights(detector)
    settle(detector, data_of(tmp_path), options_of(width=8), ALONE)
    assert all(torch.equal(before[name], value) for name, value in weights(detector).items())


def test_the_schedule_reaches_the_optimiser(tmp_path, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def noted(self, *arguments, **more):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    trained(
        data_of(tmp_path),
        tmp_path / "run",
        width=8,
        iterations=4,
        train_batch=1,
        regions=8,
        learning_rate=1e-3,
        layer_decay=0.5,
        steps=(0.5,),
    )
    assert [max(rates) for rates in seen] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert [min(rates) for rates in seen] == pytest.approx([rate * 0.5**4 for rate in (1e-3, 1e-3, 1e-4, 1e-4)])


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(UserError, match=r"the loss of iteration \d+ is not a finite number; lower --learning-rate 1e\+20"):
        trained(
            data_of(tmp_path),
            tmp_path / "run",
            width=8,
            iterations=6,
            train_batch=1,
            regions=8,
            learning_rate=1e20,
            warmup=0,
            clip=0.0,
        )


def test_what_cannot_be_trained(tmp_path):
    with pytest.raises(UserError, match="--precision fp16 .* takes a GPU"):
        trained(data_of(tmp_path), tmp_path / "run", precision="fp16")


class Broken(Drawn):
    def image(self, item):
        if item.name == "train-1":
            raise UserError(f"the image {item.name} is broken")
        return super().image(item)


def test_a_broken_image_ends_the_run_with_its_name(tmp_path):
    dataset = Broken(root=tmp_path)
    data = Data(dataset, dataset.part("train", None), [Item("train-1", None, None)])
    with pytest.raises(UserError, match="the image train-1 is broken"):
        trained(data, tmp_path / "run", width=8, iterations=4, regions=8)
    detector = build(small_vit(dim=16), 2, options_of(width=8))
    with pytest.raises(UserError, match="the image train-1 is broken"):
        detect(detector, data, options_of(width=8), tmp_path / "look", ALONE)


def test_training_in_half_precision(tmp_path):
    detector, curve = trained(data_of(tmp_path), tmp_path / "run", width=8, iterations=2, regions=8, precision="bf16")
    assert np.isfinite(curve[-1][1])
    assert {value.dtype for name, value in detector.named_parameters()} == {torch.float32}


def test_detection_goes_on_where_a_kill_left_it(tmp_path):
    data, options = data_of(tmp_path), options_of(width=8)
    detector = build(small_vit(dim=16), 2, options)
    detect(detector, data, options, tmp_path / "whole", ALONE)
    whole = (tmp_path / "whole" / "found-000.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 3
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "found-000.jsonl").write_text(lines[0] + lines[1][:40])
    (folder / "found-001.jsonl").write_text(lines[2])  # another process was done with it
    detect(detector, data, options, folder, ALONE)
    assert (folder / "found-000.jsonl").read_text() == lines[0] + lines[1]
    one, two = ({own.image: own for own in read_detections(tmp_path / name)} for name in ("whole", "killed"))
    assert one.keys() == two.keys() and all(np.array_equal(one[name].boxes, two[name].boxes) for name in one)
    assert all(len(own.masks) == len(own.boxes) == len(own.scores) <= 10 for own in one.values())
    assert all((np.diff(own.scores) <= 0).all() and own.classes.min(initial=0) >= 0 for own in one.values())


class LowerRight(torch.nn.Module):
    """Finds the lower right quarter of whatever it is shown."""

    def forward(self, images):
        (image,) = images
        self.size = height, width = image.shape[1:]
        boxes = torch.tensor([[width / 2, height / 2, width, height]])
        return [{"boxes": boxes, "scores": torch.ones(1), "labels": torch.ones(1).long(), "masks": torch.ones(1, 1, 28, 28)}]


@pytest.mark.parametrize(("short", "long", "size"), [(40, 133, (40, 48)), (80, 133, (80, 96)), (200, 230, (192, 230))])
def test_what_is_found_is_brought_to_the_size_of_the_image(tmp_path, short, long, size):
    detector = LowerRight()
    detect(detector, data_of(tmp_path, count=1), options_of(short_side=short, long_side=long), tmp_path / "look", ALONE)
    (own,) = read_detections(tmp_path / "look")
    assert detector.size == size
    np.testing.assert_allclose(own.boxes, [[48, 40, 96, 80]], rtol=1e-6)
    mask = decode([{"size": [80, 96], "counts": own.masks[0]}], 80, 96, own.image)[0]
    assert mask[40:, 48:].all() and mask.sum() == 40 * 48


def test_the_loss_falls(tmp_path, often):
    _, curve = trained(data_of(tmp_path, count=1), tmp_path / "run", width=8, iterations=12, train_batch=1, warmup=0, regions=8)
    assert np.mean([loss for _, loss in curve[-3:]]) < 0.9 * np.mean([loss for _, loss in curve[:3]])


@pytest.mark.slow
def test_a_detector_overfits_what_it_sees(tmp_path):
    data, options = data_of(tmp_path, count=2), options_of(iterations=70)
    detector = build(small_vit(), 2, options)
    curve = train(detector, data, options, tmp_path / "run", ALONE)
    assert curve[-1][1] < 0.5 * curve[0][1]
    detect(detector, data, options, tmp_path / "run", ALONE)
    metrics = [CocoPrecision(data.dataset.classes, masks) for masks in (False, True)]
    for detections in read_detections(tmp_path / "run"):
        for metric in metrics:
            metric.add(Scored(data.dataset.objects(Item(detections.image, None, None)), detections, 80, 96))
    for metric in metrics:
        assert metric.values()["ap50"][0] > 85
        assert metric.values()["ap"][0] > 40


WORK = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from drawn_objects import Drawn, options_of, small_vit
from densebench.bridges.torchvision.detector import build
from densebench.bridges.torchvision.inference import detect
from densebench.bridges.torchvision.options import Data
from densebench.bridges.torchvision.training import train
from densebench.processes import joined

dataset = Drawn(root=Path("."), same=True)
items = dataset.part("train", None)
data, options = Data(dataset, items, items), options_of(width=8, iterations=2, train_batch=4, regions=8, learning_rate=1e-3)
with joined(torch.device("cpu")) as world:
    detector = build(small_vit(16, dim=16), 2, options)  # has a batch norm
    curve = train(detector, data, options, Path({folder!r}), world)
    detect(detector, data, options, Path({folder!r}), world)
    torch.save((detector.state_dict(), curve), Path({folder!r}) / f"weights-{{world.rank}}-of-{{world.size}}.pt")
"""


@pytest.mark.slow
def test_two_processes_do_the_work_of_one(tmp_path):
    """The same samples in the same passes: the weights are one process's, but for the order of sums."""
    for size in (1, 2):
        code = WORK.format(tests=str(Path(__file__).parent), folder=str(tmp_path / f"of-{size}"))
        start = (
            [sys.executable]
            if size == 1
            else [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
        )
        script = tmp_path / f"work-{size}.py"
        script.write_text(code)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run([*start, str(script)], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
    alone, curve = torch.load(tmp_path / "of-1" / "weights-0-of-1.pt", weights_only=True)
    both = [torch.load(tmp_path / "of-2" / f"weights-{rank}-of-2.pt", weights_only=True) for rank in (0, 1)]
    assert curve[-1][1] == pytest.approx(both[0][1][-1][1], rel=1e-4)
    assert sum("running" in name for name in alone) == 2
    for name, value in alone.items():
        assert torch.equal(both[0][0][name], both[1][0][name]), name
        if value.is_floating_point():
            torch.testing.assert_close(both[0][0][name], value, atol=3e-4, rtol=1e-3)
    assert sorted(own.image for own in read_detections(tmp_path / "of-2")) == ["train-0", "train-1", "train-2"]
    assert len(list((tmp_path / "of-2").glob("found-*.jsonl"))) == 2
