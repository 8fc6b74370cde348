"""What MMSegmentation (Apache-2.0) is fed and how it is scored: samples, their order, schedules, the metric."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_maps import COLOURS, MEAN, QUIET, STD, WORLD, blocks, data_of, setup_of
from torch import nn

from densebench.backbones.loading import load_backbone
from densebench.bridges.mmsegmentation import data, segmentor, training, validation
from densebench.errors import UserError
from densebench.numerics import segmentation as metrics
from densebench.processes import World

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mmengine.optim import CosineAnnealingLR, PolyLR
    from mmseg.evaluation import IoUMetric

pytestmark = QUIET


# Schedules


def stepped(settings, rates, skip=0, state=None, first=0):
    """The learning rates at every iteration from `first` on; also the state after `skip` steps."""
    optimiser = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])
    schedulers = training.schedulers(settings, optimiser)
    if state:
        optimiser.load_state_dict(state[0])
        for one, kept in zip(schedulers, state[1], strict=True):
            one.load_state_dict(kept)
    found = []
    for step in range(first, settings.iterations):
        if step == skip:
            kept = copy.deepcopy((optimiser.state_dict(), [one.state_dict() for one in schedulers]))
        found.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        for one in schedulers:
            one.step()
    return np.array(found), kept if skip >= first else None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_polynomial_decay_ends_at_a_share_of_each_groups_rate(share):
    rates, iterations = (1e-3, 0.5, 7.0), 40
    found, _ = stepped(setup_of(iterations=iterations, eta_min=share), rates)
    last = iterations - 1  # MMEngine's decay ends with the last iteration
    for number, rate in enumerate(rates):
        expected = [rate * ((1 - share) * (1 - t / last) ** 0.9 + share) for t in range(iterations)]
        assert found[:, number] == pytest.approx(np.array(expected), rel=1e-6, abs=1e-12)
        parameter = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
        theirs, course = PolyLR(parameter, power=0.9, eta_min=share * rate, begin=0, end=iterations, by_epoch=False), []
        for _ in range(iterations):
            course.append(parameter.param_groups[0]["lr"])
            parameter.step()
            theirs.step()
        assert found[:, number] == pytest.approx(np.array(course), rel=1e-6, abs=1e-12)


def test_cosine_rises_linearly_and_falls_to_nothing():
    rates, iterations, rise = np.array([1e-3, 0.5]), 100, 20
    found, _ = stepped(setup_of(iterations=iterations, schedule="cosine", warmup=rise / iterations), tuple(rates))
    shares = found / rates
    assert shares[:, 0] == pytest.approx(shares[:, 1])
    assert shares[0, 0] < 1e-3 and np.diff(shares[:rise, 0]) == pytest.approx(1 / (rise - 1), rel=1e-3)
    assert shares[rise - 1, 0] == pytest.approx(1) and shares[rise, 0] == pytest.approx(1)
    turn = np.arange(iterations - rise) / (iterations - rise)
    assert shares[rise:, 0] == pytest.approx((1 + np.cos(np.pi * turn)) / 2, abs=1e-6)
    assert 0 <= shares[-1, 0] < 1e-3
    parameter = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = CosineAnnealingLR(parameter, T_max=iterations, eta_min=0, by_epoch=False)
    without, _ = stepped(setup_of(iterations=iterations, schedule="cosine", warmup=0.0), (1.0,))
    for value in without[:, 0]:
        assert value == pytest.approx(parameter.param_groups[0]["lr"], abs=1e-9)
        parameter.step()
        theirs.step()


@pytest.mark.parametrize("given", [{"eta_min": 0.1}, {"schedule": "cosine", "warmup": 0.3}])
@pytest.mark.parametrize("skip", [1, 6, 13])
def test_schedules_go_on_from_their_states(given, skip):
    settings = setup_of(iterations=20, **given)
    whole, state = stepped(settings, (1e-3, 0.5), skip)
    rest, _ = stepped(settings, (1e-3, 0.5), -1, state, skip)
    assert rest == pytest.approx(whole[skip:], rel=1e-12)


# Samples


def taken(sampler, steps, share):
    flat = list(itertools.islice(iter(sampler), steps * share))
    return [flat[share * step : share * step + share] for step in range(steps)]


def test_every_pass_shows_every_image_once_in_an_order_of_its_own():
    count = 7
    flat = list(itertools.chain(*taken(data.Endless(count, 3, 0, WORLD, 0), 14, 3)))
    assert [serial for serial, _ in flat] == list(range(42))
    passes = [tuple(place for _, place in flat[start : start + count]) for start in range(0, 42, count)]
    assert all(sorted(one) == list(range(count)) for one in passes) and len(set(passes)) == len(passes)
    assert flat == list(itertools.chain(*taken(data.Endless(count, 3, 0, WORLD, 0), 14, 3)))
    assert flat != list(itertools.chain(*taken(data.Endless(count, 3, 1, WORLD, 0), 14, 3)))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_share_a_step_and_a_later_start_skips_steps(size):
    alone = taken(data.Endless(7, 4, 0, WORLD, 0), 12, 4)
    worlds = [World(rank, size, torch.device("cpu")) for rank in range(size)]
    shares = [taken(data.Endless(7, 4, 0, world, 0), 12, 4 // size) for world in worlds]
    for step in range(12):
        assert sorted(itertools.chain(*(share[step] for share in shares))) == sorted(alone[step])
    for start, (world, share) in itertools.product((1, 5), zip(worlds, shares, strict=True)):
        assert taken(data.Endless(7, 4, 0, world, start), 12 - start, 4 // size) == share[start:]


def test_a_batch_that_cannot_be_divided_among_processes_is_refused():
    with pytest.raises(UserError, match="4"):
        data.training_loader(data_of({"train0": (32, 32)}), setup_of(train_batch=4), World(0, 3, torch.device("cpu")), 0, 0)


def contents(sample):
    return sample["inputs"].numpy().tobytes(), sample["data_samples"].gt_sem_seg.data.numpy().tobytes()


@pytest.mark.parametrize("photometric", [False, True])
def test_a_sample_is_a_function_of_the_seed_the_number_and_the_place(photometric):
    source, settings = data_of({f"train{n}": (60, 80) for n in range(3)}), setup_of(photometric=photometric)
    keys = [(serial, place) for serial in range(4) for place in range(3)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    samples = data.Training(source, settings)
    first = {key: contents(samples[key]) for key in keys}
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    again = data.Training(source, settings)
    assert {key: contents(again[key]) for key in reversed(keys)} == {key: first[key] for key in keys}
    assert len({value[0] for value in first.values()}) == len(keys)
    other = data.Training(source, setup_of(photometric=photometric, train_seed=1))
    assert sum(contents(other[key]) == first[key] for key in keys) == 0


def whole_neighbourhoods(labels, margin=2):
    """Where a label map is the same all around, and the border is far."""
    large = F.pad(labels.float(), (margin,) * 4, value=-1)
    view = large.unfold(0, 2 * margin + 1, 1).unfold(1, 2 * margin + 1, 1)
    return (view.amax((-1, -2)) == view.amin((-1, -2))) & (labels != 255)


def test_images_and_labels_stay_aligned_through_resizing_cropping_and_flipping():
    samples = data.Training(data_of({"train0": (60, 90), "train1": (80, 50)}), setup_of(crop=48, scale=64))
    preprocessor = segmentor.build(load_backbone("pixels:8"), data_of({}), setup_of(crop=48), (1e-3,)).data_preprocessor
    colours = (torch.from_numpy(COLOURS) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    flips, scales, seen = set(), [], 0
    for serial in range(40):
        sample = samples[serial, serial % 2]
        flips.add(sample["data_samples"].flip)
        scales.append(sample["data_samples"].scale_factor[0] * (60, 50)[serial % 2] / 64)
        batch = preprocessor({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, True)
        labels = batch["data_samples"][0].gt_sem_seg.data[0]
        nearest = (batch["inputs"][0].permute(1, 2, 0)[:, :, None] - colours).square().sum(-1).argmin(-1)
        inside = whole_neighbourhoods(labels)
        assert (nearest == labels)[inside].all()
        seen += int(inside.sum())
    assert flips == {True, False} and seen > 5000
    assert 0.49 < min(scales) < 0.7 and 1.6 < max(scales) < 2.05


@pytest.mark.parametrize("black", [False, True])
def test_the_model_sees_normalised_rgb_and_small_samples_are_padded(black):
    source = data_of({"train0": (30, 36), "val0": (30, 60)}, plain=(200, 100, 30))
    settings = setup_of(crop=64, scale=32, black=black)
    preprocessor = segmentor.build(load_backbone("pixels:8"), source, settings, (1e-3,)).data_preprocessor
    colour = (torch.tensor([200, 100, 30]) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    outside = -torch.tensor(MEAN) / torch.tensor(STD) if black else torch.zeros(3)
    framed = 0
    for serial in range(12):
        sample = data.Training(source, settings)[serial, 0]
        batch = preprocessor({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, True)
        image, labels = batch["inputs"][0], batch["data_samples"][0].gt_sem_seg.data[0]
        assert image.shape == (3, 64, 64) and labels.shape == (64, 64)
        inside = labels != 255
        rows, columns = int(inside.any(1).sum()), int(inside.any(0).sum())
        assert inside[:rows, :columns].all() and inside.sum() == rows * columns
        torch.testing.assert_close(image[:, inside], colour[:, None].expand(3, rows * columns), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(image[:, ~inside], outside[:, None].expand(3, 4096 - rows * columns), atol=1e-4, rtol=1e-4)
        framed += rows < 64 or columns < 64
    assert framed
    sample = data.Scoring(source, settings)[0]
    image = preprocessor({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, False)["inputs"][0]
    torch.testing.assert_close(image, colour[:, None, None].expand(image.shape), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(40, 100), (90, 30), (32, 32), (20, 64)])
def test_scored_images_have_the_short_side_asked_for_and_labels_of_their_own_size(size):
    source = data_of({"val0": (8, 8), "val1": size})
    scored = data.Scoring(source, setup_of(scale=32))
    assert len(scored) == 2
    sample = scored[1]
    expected = [round(side * 32 / min(size)) for side in size]
    assert np.abs(np.array(sample["inputs"].shape[1:]) - expected).max() <= 1 and min(sample["inputs"].shape[1:]) == 32
    assert sample["data_samples"].ori_shape == size
    assert np.array_equal(sample["data_samples"].gt_sem_seg.data[0].numpy(), blocks("val1", *size))


# Metric


@pytest.mark.parametrize("kind", ["random", "regions", "void", "absent"])
def test_mean_iou_is_that_of_mmseg(kind, tmp_path):
    rng, classes = np.random.default_rng(0), 5
    truths = [rng.integers(0, classes, (30, 40)).astype(np.uint8) for _ in range(4)]
    if kind == "regions":
        truths = [blocks(f"{n}", 30, 40) for n in range(4)]
    predictions = []
    for truth in truths:
        noise = rng.integers(0, classes, truth.shape)
        predictions.append(
            np.stack([np.where(rng.random(truth.shape) < share, truth, noise) for share in (0.3, 0.9)]).astype(np.uint8)
        )
    for truth, prediction in zip(truths, predictions, strict=True):
        truth[:4] = 255
        if kind == "void":
            truth[rng.random(truth.shape) < 0.4] = 255
        if kind == "absent":  # class 1 in neither, class 2 predicted alone, class 3 in truth alone
            truth[np.isin(truth, (1, 2))] = 0
            prediction[np.isin(prediction, (1, 3))] = 4
    truths[3][:] = 255  # nothing to score in one image
    for head in range(2):
        ours, theirs = validation.HeadIoU(head, tmp_path), IoUMetric(iou_metrics=["mIoU"])
        theirs.dataset_meta = ours.dataset_meta = {"classes": tuple("abcde")}
        total = torch.zeros(classes, classes, dtype=torch.int64)
        for truth, prediction in zip(truths, predictions, strict=True):
            labels = {"data": torch.from_numpy(truth)[None]}
            ours.process({}, [{"pred_sem_seg": {"data": torch.from_numpy(prediction)}, "gt_sem_seg": labels}])
            theirs.process({}, [{"pred_sem_seg": {"data": torch.from_numpy(prediction[head])[None]}, "gt_sem_seg": labels}])
            for t, p in zip(truth[truth != 255], prediction[head][truth != 255], strict=True):
                total[t, p] += 1
        with contextlib.redirect_stdout(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, expected = ours.evaluate(4), theirs.evaluate(4)
        ious = [total[c, c] / (total[c].sum() + total[:, c].sum() - total[c, c]) for c in range(classes)]
        present = [float(value) for value in ious if not value.isnan()]
        assert len(present) == (4 if kind == "absent" else 5)
        mean = metrics.mean_iou(metrics.iou(metrics.tallies(total)))
        assert float(mean) == pytest.approx(np.mean(present), rel=1e-6)
        assert (
            next(v for k, v in found.items() if "mIoU" in k)
            == expected["mIoU"]
            == pytest.approx(100 * np.mean(present), abs=0.0051)
        )


@pytest.mark.parametrize("iterations", [8, 14, 27, 39, 40, 120])
def test_a_short_warm_up_reaches_the_learning_rate(iterations):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([{"params": [parameter], "lr": 0.1}])
    steps = training.schedulers(setup_of(schedule="cosine", warmup=1500 / 40_000, iterations=iterations), optimiser)
    seen = []
    for _ in range(iterations):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        for scheduler in steps:
            scheduler.step()
    assert max(seen) == pytest.approx(0.1, rel=0.1)
    assert seen[-1] < 0.05
