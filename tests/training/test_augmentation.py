"""Views: rendered as Pillow does, and drawn with the distributions that their specs say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from drawn_colours import OPERATIONS, ORDERS, crowd, draws_of, row
from PIL import Image
from scipy import stats

from densebench.numerics.crops import Pictures
from densebench.torchvision_ops import make_importable
from densebench.training import augmentation
from densebench.training.augmentation import (
    AugmentParams,
    ViewSpec,
    recolour,
    render,
)

make_importable()
from torchvision.transforms import RandomResizedCrop  # noqa: E402
from torchvision.transforms import functional as TF  # noqa: E402


def pictures(images):
    return Pictures.of([image.permute(1, 2, 0).numpy() for image in images])


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def smooth(height, width, phase=0.0):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([127 + 90 * np.sin(x / 17 + c + phase) * np.cos(y / 13) for c in range(3)], 2).astype(np.uint8)


def test_a_view_is_pillows_pipeline():
    """Crop, mirror, jitter (no hue), grey, solarise and normalise, against bytes.

    Within 2 of 255 on average and 4 at most: Pillow's jitter truncates to bytes thrice. Without jitter 0.4 and 1.2.
    """
    view, x, rows, wanted = ViewSpec(24, (0.25, 1.0)), [], [], []
    for i, order in enumerate(ORDERS):
        image, box, strengths = smooth(60, 80, i), (5 + i, 3, 30, 44), (0.7 + i / 40, 1.3 - i / 40, 0.9, 0)
        rows.append(row(box, i % 2, int(i % 3 > 0), strengths, order, int(i % 5 == 0), 0, int(i % 7 == 0)))
        x.append(torch.from_numpy(image).permute(2, 0, 1))
        top, left, height, width = box
        done = TF.resized_crop(Image.fromarray(image), top, left, height, width, [24, 24], TF.InterpolationMode.BICUBIC)
        done = TF.hflip(done) if i % 2 else done
        for operation in order if i % 3 else ():
            done = OPERATIONS[operation][1](done, strengths[operation]) if operation < 3 else done
        done = TF.to_grayscale(done, 3) if i % 5 == 0 else done
        done = TF.solarize(done, 128) if i % 7 == 0 else done
        wanted.append(TF.normalize(TF.to_tensor(done), MEAN, STD))
    found = render(pictures(x), torch.zeros(24, 2), draws_of(*rows), view, MEAN, STD)
    assert found.shape == (24, 3, 24, 24)
    assert found.dtype == torch.float32
    scale = torch.tensor(STD).view(3, 1, 1) * 255
    for i in range(24):
        difference = ((found[i] - wanted[i]) * scale).abs()
        assert difference.mean() < (2 if i % 3 else 0.4)
        assert difference.max() < (4 if i % 3 else 1.2)


def test_parts_of_images_render_like_the_whole():
    """What lies around the part is never seen."""
    whole = torch.from_numpy(np.stack([smooth(60, 80, i) for i in range(3)])).permute(0, 3, 1, 2)
    boxes = [(10, 20, 30, 40), (0, 0, 60, 80), (33, 41, 20, 15)]
    draws = draws_of(*(row(box, i % 2, 1, (1.2, 0.8, 1.1, 0.05), ORDERS[5 + i], 0, 1.0) for i, box in enumerate(boxes)))
    view = ViewSpec(16, (0.25, 1.0))
    wanted = render(pictures(whole), torch.zeros(3, 2), draws, view, MEAN, STD)
    offsets = torch.tensor([[8.0, 15.0], [0.0, 0.0], [33.0, 41.0]])
    parts = torch.randint(0, 256, (3, 3, 70, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, (top, left) in enumerate(offsets.int().tolist()):
        bottom, right = boxes[i][0] + boxes[i][2], boxes[i][1] + boxes[i][3]
        parts[i, :, : bottom - top, : right - left] = whole[i, :, top:bottom, left:right]
    table = draws.table.clone()
    torch.testing.assert_close(render(pictures(parts), offsets, draws, view, MEAN, STD), wanted, rtol=0, atol=1e-4)
    assert torch.equal(draws.table, table)
    for i in range(3):
        alone = render(pictures(whole[i : i + 1]), torch.zeros(1, 2), AugmentParams(table[i : i + 1]), view, MEAN, STD)
        torch.testing.assert_close(alone[0], wanted[i], rtol=0, atol=1e-4)


def test_the_recipes_kernel_is_used():
    image = torch.randint(0, 256, (1, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = [
        render(
            pictures(image),
            torch.zeros(1, 2),
            draws_of(row((0, 0, 40, 40))),
            ViewSpec(24, (1.0, 1.0), kernel=kernel),
            (0.0, 0.0, 0.0),
            (1.0, 1.0, 1.0),
        )
        for kernel in ("bicubic", "bilinear")
    ]
    for views, kernel in zip(found, (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR), strict=True):
        wanted = np.asarray(Image.fromarray(image[0, 0].float().numpy()).resize((24, 24), kernel)).clip(0, 255)
        np.testing.assert_allclose(views[0, 0] * 255, wanted, atol=1e-3)


def drawn(recipe, count=2000, width=640, height=480, seed=0):
    generator = np.random.default_rng(seed)
    rows = np.stack([recipe.draw(width, height, generator) for _ in range(count)])
    assert rows.shape == (count, 17)
    assert rows.dtype == np.float32
    return rows


def near(flags, probability):
    """Within 4.5 standard errors."""
    return abs(flags.mean() - probability) <= 4.5 * math.sqrt(probability * (1 - probability) / len(flags))


@pytest.mark.parametrize(
    "chances",
    [
        (0.5, 0.8, 0.2, 1.0, 0.0),
        (0.5, 0.8, 0.2, 0.1, 0.2),
        (0.5, 0.8, 0.2, 0.5, 0.0),
        (0.0, 0.0, 0.0, 0.0, 1.0),
        (1.0, 1.0, 1.0, 0.3, 0.7),
    ],
)
def test_flags_are_drawn_with_their_probabilities_and_apart(chances):
    flip, jitter, grey, blurs, solarise = chances
    recipe = ViewSpec(224, (0.25, 1.0), flip=flip, jitter=jitter, grey=grey, blur=blurs, solarise=solarise)
    rows = drawn(recipe)
    flags = [rows[:, 4] > 0, rows[:, 5] > 0, rows[:, 14] > 0, rows[:, 15] > 0, rows[:, 16] > 0]
    for flag, chance in zip(flags, chances, strict=True):
        assert near(flag, chance)
    for (a, p), (b, q) in itertools.combinations(zip(flags, chances, strict=True), 2):
        assert near(a & b, p * q)
    draws = AugmentParams(torch.from_numpy(rows))
    assert draws.flips.tolist() == flags[0].tolist()
    for number, flag in zip((14, 15, 16), flags[2:], strict=True):
        assert draws.where(number).tolist() == np.flatnonzero(flag).tolist()
    met = torch.cat([draws.jittered(position, 2) for position in range(4)])
    assert sorted(met.tolist()) == np.flatnonzero(flags[1]).tolist()


def test_strengths_and_sigmas_are_uniform_in_their_ranges():
    rows = drawn(ViewSpec(224, (0.25, 1.0), blur=1.0))
    for number, (low, high) in {6: (0.6, 1.4), 7: (0.6, 1.4), 8: (0.8, 1.2), 9: (-0.1, 0.1), 15: (0.1, 2.0)}.items():
        assert rows[:, number].min() >= low - 1e-6
        assert rows[:, number].max() <= high + 1e-6
        assert stats.kstest(rows[:, number], stats.uniform(low, high - low).cdf).pvalue > 1e-3
    for a, b in itertools.combinations((6, 7, 8, 9, 15), 2):
        assert abs(np.corrcoef(rows[:, a], rows[:, b])[0, 1]) < 0.1
    custom = drawn(ViewSpec(8, (0.25, 1.0), strengths=(0.8, 0.3, 0.0, 0.2), blur=1.0, sigma=(0.5, 0.6)), 300)
    assert custom[:, 6].min() < 0.3
    assert np.abs(custom[:, 7] - 1).max() <= 0.3001
    assert (custom[:, 8] == 1).all()
    assert 0.15 < np.abs(custom[:, 9]).max() <= 0.2001
    assert custom[:, 15].min() >= 0.4999
    assert custom[:, 15].max() <= 0.6001


def test_every_order_is_as_likely():
    orders = drawn(ViewSpec(224, (0.25, 1.0)), 4800)[:, 10:14].astype(int)
    counts = [sum(tuple(order) == wanted for order in orders.tolist()) for wanted in ORDERS]
    assert sum(counts) == 4800
    assert stats.chisquare(counts).pvalue > 1e-3


def test_boxes_of_small_crops_have_uniform_areas_ratios_and_places():
    side = 2000
    top, left, height, width = drawn(ViewSpec(96, (0.05, 0.4)), 2000, side, side)[:, :4].T.astype(np.float64)
    share, ratio = height * width / side**2, np.log(width / height)
    assert stats.kstest(share, stats.uniform(0.05, 0.35).cdf).pvalue > 1e-3
    assert stats.kstest(ratio, stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3)).cdf).pvalue > 1e-3
    assert stats.kstest(top / (side - height), stats.uniform.cdf).pvalue > 1e-3
    assert stats.kstest(left / (side - width), stats.uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 500), (200, 700)])
def test_boxes_are_drawn_as_torchvision_draws_them(width, height):
    """Two samples of one distribution, attempts that do not fit and the fallback included; whole pixels, inside the image."""
    boxes = drawn(ViewSpec(224, (0.25, 1.0)), 1500, width, height)[:, :4]
    assert (boxes == boxes.round()).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, [0.25, 1.0], [3 / 4, 4 / 3]) for _ in range(1500)])
    for number in range(4):
        assert stats.ks_2samp(boxes[:, number], theirs[:, number]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(10, 1000, (493, 0, 13, 10)), (1000, 10, (0, 493, 10, 13)), (100, 100, (0, 0, 100, 100)), (1, 1, (0, 0, 1, 1))],
)
def test_where_no_box_fits_the_middle_is_taken(width, height, box):
    recipe = ViewSpec(8, (0.99999, 1.0))
    generator = np.random.default_rng(3)
    for _ in range(5):
        assert tuple(recipe.draw(width, height, generator)[:4]) == box


def test_a_draw_depends_on_its_generator_alone():
    recipe = ViewSpec(32, (0.25, 1.0), solarise=0.2)
    before = np.random.get_state(), torch.random.get_rng_state()
    first = drawn(recipe, 20, seed=5)
    assert np.array_equal(np.random.get_state()[1], before[0][1])
    assert np.random.get_state()[2] == before[0][2]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    drawn(recipe, 3, seed=6)
    assert np.array_equal(drawn(recipe, 20, seed=5), first)
    assert not np.array_equal(drawn(recipe, 20, seed=6), first)


def test_rendering_draws_nothing():
    x, rows = crowd()
    before = torch.random.get_rng_state()
    recolour(x, draws_of(*rows))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert augmentation.TAPS == 13
