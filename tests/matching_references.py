"""Semantic correspondence as the public codes compute it, picture by picture, for the made-up pairs of `toy_pairs`.

Each function returns of each pair the errors as shares of the threshold's length, in the way of the code that it restates:
Probe3D (evaluate_spair_correspondence.py), SD-DINO (pck_spair_pascal.py), GeoAware-SC (pck_train.py) and INSID3
(models/insid3.py). Only what decides a number is restated, in the units of those codes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from toy_pairs import backbone

STRIDE = 8
NET = backbone()
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (NET.mean, NET.std))


def normalised(picture):
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    return (pixels - MEAN) / STD


def features(picture, pad=0):
    """Features [d h w] of a picture, zeros around the normalised one."""
    with torch.inference_mode():
        return NET(F.pad(normalised(picture), (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))[None])[0]


def probe3d(dataset, pair, size):
    def square(item):
        image = np.array(dataset.image(item))
        side = max(image.shape[:2])
        padded = np.pad(image, ((0, side - image.shape[0]), (0, side - image.shape[1]), (0, 0)), constant_values=255)
        return Image.fromarray(padded).resize((size, size), Image.Resampling.BICUBIC), side

    pad = -size % STRIDE
    (source, source_side), (target, target_side) = square(pair.source), square(pair.target)
    feats = [F.normalize(features(image, pad), dim=0) for image in (source, target)]
    kps = []
    for points, side in ((pair.source_points, source_side), (pair.target_points, target_side)):
        whole = torch.tensor(points).int()
        whole[:] = whole * size / side  # into an integer tensor
        kps.append(whole.float() / size)
    read = F.grid_sample(feats[0][None], (kps[0] * 2 - 1)[None, None], mode="bilinear", align_corners=True)[0, :, 0].T
    heat = torch.einsum("kf,fhw->khw", read, feats[1])
    index = heat.flatten(1).argmax(1)
    predicted = torch.stack([index % heat.shape[2], index // heat.shape[2]], 1).float() / feats[1].shape[-1]
    left, top, right, bottom = pair.target_box
    scale = max(right - left, bottom - top) / max(dataset.image_size(pair.target))
    return ((predicted - kps[1]).norm(dim=1) / scale).tolist()


def letterboxed(image, size):
    canvas = np.zeros((size, size, 3), np.uint8)
    width, height = image.size
    if height <= width:
        image = image.resize((size, int(np.around(size * height / width))), Image.Resampling.LANCZOS)
        w, h = image.size
        canvas[(w - h) // 2 : (w + h) // 2] = np.asarray(image)
    else:
        image = image.resize((int(np.around(size * width / height)), size), Image.Resampling.LANCZOS)
        w, h = image.size
        canvas[:, (h - w) // 2 : (h + w) // 2] = np.asarray(image)
    return Image.fromarray(canvas)


def padded_points(points, width, height, size):
    points, scale = torch.tensor(points).float(), size / max(width, height)
    points = points * scale
    if height < width:
        points[:, 1] += int((size - int(np.around(size * height / width))) / 2)
    elif width < height:
        points[:, 0] += int((size - int(np.around(size * width / height))) / 2)
    return points, scale


def sd_dino(dataset, pair, size, geoaware=False):
    cells = size // STRIDE
    both = []
    for item, points in ((pair.source, pair.source_points), (pair.target, pair.target_points)):
        rows = F.normalize(features(letterboxed(dataset.image(item), size)).flatten(1).T, dim=1)
        both.append((rows, *padded_points(points, *dataset.image_size(item), size)))
    (source, source_points, _), (target, truth, scale) = both
    x, y = ((cells / size * source_points[:, axis].numpy()).astype(np.int32) for axis in (0, 1))
    similarity = source[cells * y + x] @ target.T
    if geoaware:
        found = soft_in_window(similarity.view(-1, cells, cells), 5, 0.02)
        predicted = found * STRIDE + STRIDE // 2
    else:
        index = similarity.argmax(1)
        predicted = torch.stack([index % cells, index // cells], 1) * STRIDE + STRIDE // 2 - 0.5
    left, top, right, bottom = pair.target_box
    return ((predicted - truth).norm(dim=1) / (max(right - left, bottom - top) * scale)).tolist()


def soft_in_window(similarity, window, beta):
    found = []
    for each in similarity:
        peak = int(each.argmax())
        mask = torch.zeros_like(each)
        for dy in range(-window, window + 1):
            for dx in range(-window, window + 1):
                row, column = (divmod(peak, each.shape[1])[axis] + step for axis, step in ((0, dy), (1, dx)))
                mask[min(max(row, 0), each.shape[0] - 1), min(max(column, 0), each.shape[1] - 1)] = 1
        weights = torch.softmax((each * mask).flatten() / beta, 0).view_as(each)
        sides = [torch.arange(side).float() for side in each.shape]
        found.append([float((weights.sum(0) * sides[1]).sum()), float((weights.sum(1) * sides[0]).sum())])
    return torch.tensor(found)


def insid3(dataset, pair, size):
    maps = [
        F.normalize(features(dataset.image(item).resize((size, size), Image.Resampling.BILINEAR)), dim=0)
        for item in (pair.source, pair.target)
    ]
    _, h, w = maps[0].shape
    (source_width, source_height), (width, height) = (dataset.image_size(item) for item in (pair.source, pair.target))
    scaled = torch.tensor(pair.source_points).float() * torch.tensor([w / source_width, h / source_height])
    cells = scaled.round().long()
    read = maps[0][:, cells[:, 1].clamp(0, h - 1), cells[:, 0].clamp(0, w - 1)].T
    errors = []
    for similarity, truth in zip((read @ maps[1].flatten(1)).view(-1, h, w), pair.target_points, strict=True):
        y, x = divmod(int(similarity.argmax()), w)
        total = sx = sy = 0.0
        for row in range(h):
            for column in range(w):
                kernel = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * 7**2))
                weight = math.exp((float(similarity[row, column]) * kernel - float(similarity[y, x])) / 0.04)
                total, sx, sy = total + weight, sx + weight * column, sy + weight * row
        left, top, right, bottom = pair.target_box
        predicted = sx / total * width / w, sy / total * height / h
        errors.append(math.dist(predicted, truth) / max(right - left, bottom - top))
    return errors


def clean(dataset, pair, size):
    """Patch centres on both sides, at native aspect; the filled border cannot be matched."""
    grids = []
    for item in (pair.source, pair.target):
        width, height = dataset.image_size(item)
        w, h = (round(size * side / max(width, height)) for side in (width, height))
        pixels = torch.from_numpy(np.array(dataset.image(item))).permute(2, 0, 1).float() / 255
        small = F.interpolate(pixels[None], (h, w), mode="bilinear", antialias=True)[0]
        filled = F.pad((small - MEAN) / STD, (0, -w % STRIDE, 0, -h % STRIDE))
        with torch.inference_mode():
            grid = F.normalize(NET(filled[None])[0], dim=0)
        inside = [
            sum((cell + 0.5) * STRIDE < side for cell in range(count))
            for count, side in zip(grid.shape[:0:-1], (w, h), strict=True)
        ]
        grids.append((grid[:, : inside[1], : inside[0]], (w / width, h / height)))
    (source, scales), (target, target_scales) = grids
    errors = []
    for point, truth in zip(pair.source_points, pair.target_points, strict=True):
        x, y = (value * scale / STRIDE - 0.5 for value, scale in zip(point, scales, strict=True))
        x, y = min(max(x, 0), source.shape[2] - 1), min(max(y, 0), source.shape[1] - 1)
        read = torch.zeros(source.shape[0])
        for row in range(source.shape[1]):
            for column in range(source.shape[2]):
                read += max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row)) * source[:, row, column]
        index = int(torch.einsum("d,dhw->hw", read, target).argmax())
        row, column = divmod(index, target.shape[2])
        found = [(cell + 0.5) * STRIDE / scale for cell, scale in zip((column, row), target_scales, strict=True)]
        left, top, right, bottom = pair.target_box
        errors.append(math.dist(found, truth) / max(right - left, bottom - top))
    return errors


REFERENCES = {
    "clean": clean, "probe3d": probe3d, "sd-dino": sd_dino, "insid3": insid3,
    "geoaware": lambda dataset, pair, size: sd_dino(dataset, pair, size, geoaware=True),
}  # fmt: skip
