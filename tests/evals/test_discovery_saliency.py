"""The preset `saliency` as a whole: pictures of any size, resized to whole patches, and masks scored in px of the picture."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from discovery_toys import STRIDE, backbone, named, score
from PIL import Image
from scipy import ndimage

from densebench.datasets import load_dataset
from densebench.results.score import decode

SIZES = ((61, 45), (50, 70), (64, 48))


@pytest.fixture
def ecssd(tmp_path, monkeypatch):
    """Three pictures of a bright rectangle on dark noise, whose mask is smooth at its edge."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        pixels, mask = rng.normal(70, 12, (height, width, 3)), np.zeros((height, width), np.uint8)
        left, top = 9 + 3 * number, 11 - number
        pixels[top : top + 22, left : left + 27] += (150, 100, 60)
        mask[top - 1 : top + 23, left - 1 : left + 28] = 1  # every grey above 0 is the object
        mask[top : top + 22, left : left + 27] = 255
        for folder, content in (("img", np.clip(pixels, 0, 255).astype(np.uint8)), ("gt", mask)):
            (tmp_path / "ECSSD" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(tmp_path / "ECSSD" / folder / f"{number}.{'jpg' if folder == 'img' else 'png'}")
    return load_dataset("ecssd", tmp_path)


def naive_mask(image, model):
    """The pixels that TokenCut's code for saliency finds, by the problem as it is written and a loop over pixels."""
    width, height = image.size
    columns, rows = (max(1, round(side / STRIDE)) for side in image.size)
    resized = np.array(image.resize((columns * STRIDE, rows * STRIDE), Image.Resampling.LANCZOS))
    with torch.no_grad():
        grid = model((torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.25)[0]
    tokens = torch.nn.functional.normalize(grid.flatten(1).mT.double(), dim=1).numpy()
    weights = np.where(tokens @ tokens.T > 0.2, 1.0, 1e-5)
    degrees = np.diag(weights.sum(1))
    vector = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 1])[1][:, 0]
    seed = int(np.flatnonzero(abs(vector) > (1 - 1e-7) * abs(vector).max())[0])
    mask = (vector > vector.mean()) == (vector[seed] > vector.mean())
    parts, _ = ndimage.label(mask.reshape(rows, columns))
    found = parts == parts.flat[seed]
    return np.array([[found[y * rows // height, x * columns // width] for x in range(width)] for y in range(height)])


def test_every_number_is_that_of_a_loop_over_pixels(ecssd):
    found, model = named(score("saliency", dataset=ecssd, model=backbone())), backbone()
    assert {metric for metric, *_ in found} == {"accuracy", "max_f", "iou", "edge_density", "degenerate"}
    expected = {"iou": [], "accuracy": [], "max_f": []}
    for item in ecssd.items("test"):
        own, truth = naive_mask(ecssd.image(item), model), ecssd.label(item) > 0
        precision, recall = (own & truth).sum() / own.sum(), (own & truth).sum() / truth.sum()
        expected["iou"].append((own & truth).sum() / (own | truth).sum())
        expected["accuracy"].append((own == truth).mean())
        expected["max_f"].append(1.3 * precision * recall / (0.3 * precision + recall))
    for metric, values in expected.items():
        one = found[metric, "tokencut", 0.2]
        assert decode(one.details["of_pictures"]) == pytest.approx(100 * np.array(values), rel=1e-5)
        assert one.value == pytest.approx(100 * np.mean(values), rel=1e-5)
    assert found["iou", "tokencut", 0.2].value > 60
