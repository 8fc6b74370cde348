"""Colour operations, blur and rendering: against torchvision, Pillow and by hand."""

from __future__ import annotations

import colorsys
import itertools
import math

import numpy as np
import pytest
import torch
from drawn_colours import OPERATIONS, ORDERS, crowd, draws_of, images, random, row
from PIL import Image, ImageOps

from densebench.torchvision_ops import make_importable
from densebench.training.augmentation import (
    blur,
    brightness,
    contrast,
    hue,
    recolour,
    saturation,
)

make_importable()
from torchvision.transforms import functional as TF  # noqa: E402


def column(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


@pytest.mark.parametrize(("operation", "theirs", "factors"), OPERATIONS)
def test_colour_operations_are_torchvisions(operation, theirs, factors):
    """Within 0.01 of 255 of torchvision on floats (whose weight of red is 0.2989), each image with its own strength."""
    x = images(len(factors))
    found = operation(x.clone(), column(*factors))
    wanted = torch.stack([theirs(image, factor) for image, factor in zip(x, factors, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.01 / 255)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize(("operation", "theirs", "factors"), OPERATIONS[:3])
def test_colour_operations_are_pillows_but_for_its_rounding(operation, theirs, factors):
    """Within 1.2 of 255 of Pillow on bytes: it truncates, and its contrast rounds the mean. Its hue has 256 steps: see below."""
    bytes_ = (images(1)[0] * 255).to(torch.uint8)
    for factor in factors:
        found = operation(bytes_[None].float() / 255, column(factor))[0]
        wanted = TF.pil_to_tensor(theirs(TF.to_pil_image(bytes_), factor)).float()
        assert (found * 255 - wanted).abs().max() < 1.2


def test_hue_turns_the_circle_of_hsv():
    x = images(1)
    for turn in (-0.1, 0.05, 0.1):
        found = hue(x.clone(), column(turn))
        for i, j in itertools.product(range(10), range(12)):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
            wanted = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
            assert found[0, :, i, j].tolist() == pytest.approx(wanted, abs=1e-4)
    torch.testing.assert_close(hue(hue(x.clone(), column(0.1)), column(-0.1)), x, rtol=0, atol=1e-4)


def test_colour_operations_by_hand():
    x = torch.tensor([[0.2, 0.6], [0.4, 0.8], [0.1, 0.5]]).view(1, 3, 1, 2)
    torch.testing.assert_close(brightness(x.clone(), column(1.4)).clamp(0, 1), (1.4 * x).clamp(0, 1))
    first, second = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.1, 0.299 * 0.6 + 0.587 * 0.8 + 0.114 * 0.5
    mean = (first + second) / 2
    torch.testing.assert_close(contrast(x.clone(), column(0.6)), 0.6 * x + 0.4 * mean)
    greys = torch.tensor([first, second]).view(1, 1, 1, 2)
    torch.testing.assert_close(saturation(x.clone(), column(0.8)), 0.8 * x + 0.2 * greys)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(hue(red.clone(), column(1 / 12))[0, :, 0, 0], torch.tensor([1.0, 0.5, 0.0]))


def convolved(image, sigma):
    """A direct Gaussian of 13 x 13 pixels, edges extended, in double precision."""
    taps = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-6, 7)]
    taps = np.outer(taps, taps) / sum(taps) ** 2
    padded = np.pad(image.double().numpy(), ((0, 0), (6, 6), (6, 6)), mode="edge")
    out = np.zeros(image.shape)
    for i, j in np.ndindex(13, 13):
        out += taps[i, j] * padded[:, i : i + image.shape[1], j : j + image.shape[2]]
    return out


def test_blur_is_a_direct_gaussian():
    sigmas = (0.1, 0.5, 1.0, 2.0)
    x = images(4)
    found = blur(x.clone(), column(*sigmas))
    for image, sigma, blurred in zip(x, sigmas, found, strict=True):
        np.testing.assert_allclose(blurred, convolved(image, sigma), atol=1e-5)
    torch.testing.assert_close(found[0], x[0], rtol=0, atol=1e-6)  # a tenth of a pixel is nothing


def test_blur_of_an_image_smaller_than_the_filter_and_of_a_flat_one():
    x = random(1, 3, 3, 2)
    np.testing.assert_allclose(blur(x.clone(), column(2.0))[0], convolved(x[0], 2.0), atol=1e-5)
    flat = torch.full((1, 3, 9, 9), 0.7)
    torch.testing.assert_close(blur(flat.clone(), column(1.3)), flat)


def test_grey_is_in_every_channel():
    x = images(2)
    found = x.clone()
    recolour(found, draws_of(row(grey=1), row()))
    wanted = 0.299 * x[0, 0] + 0.587 * x[0, 1] + 0.114 * x[0, 2]
    torch.testing.assert_close(found[0], wanted.expand(3, -1, -1))
    assert torch.equal(found[1], x[1])


def test_solarise_inverts_the_upper_half_of_the_bytes():
    """128 is inverted, 127 is not, as Pillow does."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wanted = np.asarray(ImageOps.solarize(Image.fromarray(ramp), 128))
    x = torch.from_numpy(ramp).float().div(255).expand(2, 3, 16, 16).clone()
    recolour(x, draws_of(row(solarise=1), row()))
    for channel in x[0]:
        np.testing.assert_allclose(channel * 255, wanted, atol=1e-4)
    np.testing.assert_allclose(x[1, 0] * 255, ramp, atol=1e-4)


def one_by_one(image, numbers):
    """One image through torchvision's operations, in the order that its draws name, and then grey, blur, solarise."""
    strengths, order = numbers[6:10], [int(number) for number in numbers[10:14]]
    if numbers[5]:
        for operation in order:
            image = OPERATIONS[operation][1](image, strengths[operation])
    if numbers[14]:
        image = TF.rgb_to_grayscale(image, 3)
    if numbers[15]:
        image = torch.from_numpy(convolved(image, numbers[15])).float()
    if numbers[16]:
        image = torch.where(image >= 0.501, 1 - image, image)
    return image


def test_each_image_meets_its_own_operations_in_its_own_order():
    """Within 0.1 of 255 of torchvision, one image at a time. Hue magnifies the difference of a weight of grey."""
    x, rows = crowd()
    found = x.clone()
    assert recolour(found, draws_of(*rows)) is None
    for image, numbers, done in zip(x, rows, found, strict=True):
        wanted = one_by_one(image, numbers)
        differs = (done - wanted).abs()
        if numbers[16]:  # where a value is at the threshold, either side is right
            differs = differs.where((wanted - 0.5).abs() > 0.005, 0)
        assert differs.max() < 0.1 / 255


def test_the_order_matters():
    x = images(1).expand(24, -1, -1, -1).clone()
    recolour(x, draws_of(*(row(jitter=1, strengths=(1.4, 0.6, 1.2, 0.1), order=order) for order in ORDERS)))
    assert min((x[i] - x[j]).abs().max() for i, j in itertools.combinations(range(24), 2)) > 1e-3


def test_batch_mates_do_not_matter():
    x, rows = crowd()
    together = x.clone()
    recolour(together, draws_of(*rows))
    for i in range(24):
        alone = x[i : i + 1].clone()
        recolour(alone, draws_of(rows[i]))
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = x[order].clone()
    recolour(shuffled, draws_of(*(rows[i] for i in order)))
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-5)


def test_nothing_drawn_nothing_done():
    x = images(3)
    found = x.clone()
    recolour(found, draws_of(*[row(strengths=(0.6, 1.4, 0.8, 0.1))] * 3))  # strengths without the jitter's flag
    assert torch.equal(found, x)
