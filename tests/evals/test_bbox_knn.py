"""The protocol `bbox-knn`: boxes followed into the crop, votes, the any-patch rule, and the whole against plain loops.

Su et al., FLSL, NeurIPS 2023 (nine patches in the largest box); Wu et al., CVPR 2018 (weighted votes).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import instance, write_coco
from densebench.evals.bbox_knn import NINE, BboxKnn, Boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densebench import options
from densebench.backbones.backbone import Backbone, Facts
from densebench.backbones.weights import weights_digest
from densebench.datasets import Item
from densebench.datasets.boxes import Boxed, Objects
from densebench.errors import UserError
from densebench.evaluation.protocol import Run
from densebench.evaluation.run import evaluate
from densebench.features.extract import extract
from densebench.features.views import CentreCropView
from densebench.files.atomic import digest
from densebench.numerics import bootstrap
from densebench.numerics.votes import NO_VOTE, classes_before
from densebench.torchvision_ops import make_importable

make_importable()

from torchvision.transforms import functional as TF  # noqa: E402


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DENSEBENCH_CACHE", str(folder))
    return folder


def boxed(*rows):
    """Objects from rows of left, top, right, bottom, class, crowd."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Objects(table[:, :4], table[:, 4].astype(int), table[:, 5].astype(bool), np.ones(len(table)))


# The nine points


def test_points_are_the_centres_of_the_cells_row_by_row():
    found = points(torch.tensor([10.0, 20.0, 16.0, 32.0]))
    assert found.tolist() == [[x, y] for y in (22, 26, 30) for x in (11, 13, 15)]


def test_the_largest_box_counts():
    assert largest(boxed([0, 0, 2, 9, 0, 0], [0, 0, 5, 4, 1, 0], [3, 3, 9, 9, 2, 1], [5, 5, 9, 10, 3, 0])) == 1
    assert largest(boxed([0, 0, 2, 9, 0, 1])) is None
    assert largest(boxed()) is None


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        # 1024 x 512 becomes 512 x 256; the crop begins at (144, 16).
        (1024, 512, [[500 / 2 - 144, 100 / 2 - 16], [-144, -16]]),
        # 300 x 600 becomes 256 x 512, its crop begins at (16, 144).
        (300, 600, [[500 * 256 / 300 - 16, 100 * 256 / 300 - 144], [-16, -144]]),
        # 500 x 375: 341.33 is cut to 341, half of 117 goes to the even 58.
        (500, 375, [[500 * 341 / 500 - 58, 100 * 256 / 375 - 16], [-58, -16]]),
        (512, 512, [[250 - 16, 50 - 16], [-16, -16]]),
    ],
)
def test_points_follow_the_image_into_the_crop(width, height, expected):
    where = torch.tensor([[500.0, 100.0], [0.0, 0.0]], dtype=torch.float64)
    found = seen(where, width, height, CentreCropView())
    assert found.dtype == torch.float64
    assert found.flatten().tolist() == pytest.approx(torch.tensor(expected).flatten().tolist(), abs=1e-4)


def test_flsls_code_squeezes_boxes_and_clips_them_to_the_crop():
    """1024 x 512 is squeezed to 256 x 256, and 16 is taken off."""
    boxes = torch.tensor([[500.0, 100, 700, 200], [0, 0, 1024, 512], [960, 0, 1000, 32]], dtype=torch.float64)
    expected = [[500 / 4 - 16, 100 / 2 - 16, 700 / 4 - 16, 200 / 2 - 16], [0, 0, 223.999, 223.999], [224, 0, 223.999, 0]]
    assert clipped(boxes, 1024, 512, CentreCropView()).tolist() == [pytest.approx(row) for row in expected]


def test_the_nine_patches_of_flsls_code():
    """A box as large as a picture of 300 x 400: patches of 16 px in the crop of 224."""
    _, where = nine(boxed([0, 0, 299, 399, 0, 0]), 300, 400, CentreCropView(), "clipped")
    assert patches(where, 16, (14, 14)).tolist() == [30, 34, 39, 86, 90, 95, 156, 160, 165]


def test_flsls_code_takes_the_box_of_which_most_is_left():
    """The first box is larger, but only 64 - 16 px of its height are in the crop; crowds never count."""
    objects = boxed([0, 0, 256, 64, 0, 0], [60, 60, 170, 170, 1, 0], [0, 0, 256, 256, 2, 1])
    assert [nine(objects, 256, 256, CentreCropView(), mapping)[0] for mapping in ("right", "clipped")] == [0, 1]


def test_flsls_code_takes_the_first_of_boxes_that_the_crop_leaves_out():
    objects = boxed([0, 0, 9, 256, 0, 1], [0, 0, 8, 128, 1, 0], [245, 0, 256, 256, 2, 0])
    place, where = nine(objects, 256, 256, CentreCropView(), "clipped")
    assert place == 1 and patches(where, 16, (14, 14)).tolist() == [14] * 3 + [42] * 3 + [70] * 3  # y from 0 to 112


@settings(deadline=None)
@given(st.integers(20, 900), st.integers(3, 300), st.integers(0, 200), st.lists(st.floats(0.3, 0.7), min_size=4, max_size=4))
def test_mappings_agree_on_square_images_in_the_crop(side, size, more, corners):
    view = CentreCropView(size, size + min(more, size // 2))  # of which the crop shows 0.25 to 0.75 at the least
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    box = torch.tensor([left, top, right, bottom], dtype=torch.float64) * side
    followed = seen(points(box), side, side, view)
    torch.testing.assert_close(points(clipped(box[None], side, side, view)[0]), followed, rtol=0, atol=1e-6 * size)


def test_patches_by_hand():
    where = torch.tensor([[0.0, 0.0], [13.9, 14.0], [14.0, 13.9], [41.9, 27.9], [-0.1, -99.0], [500.0, 20.0], [-3.0, 28.0]])
    assert patches(where, 14, (2, 3)).tolist() == [0, 3, 1, 5, 0, 5, 3]


def test_a_box_outside_the_crop_ends_in_its_border():
    view = CentreCropView(32, 32)  # of an image of 96 x 32 the columns 32 to 64
    found = [patches(seen(points(torch.tensor(box)), 96, 32, view), 8, (4, 4)).tolist() for box in
             ([0.0, 0, 24, 32], [70.0, 0, 94, 12], [26.0, 8, 44, 32])]  # fmt: skip
    assert found[0] == [0] * 3 + [8] * 3 + [12] * 3
    assert found[1] == [3] * 6 + [7] * 3  # y 2, 6, 10
    # x 29, 35, 41 and y 12, 20, 28: left of the crop, its first column and its second.
    assert found[2] == [4, 4, 5, 8, 8, 9, 12, 12, 13]


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (256, 256), (333, 250)])
def test_the_view_shows_a_point_where_the_mapping_says(width, height):
    """Red tells x, green tells y: the pixel of the view at a mapped point has the colours of the point."""
    view = CentreCropView(112, 128)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x / width, y / height, np.zeros_like(x)], -1)
    shown = view.image(Image.fromarray((255 * pixels).astype(np.uint8)), "")
    rng = np.random.default_rng(0)
    inside = 0
    for px, py in rng.uniform((0, 0), (width, height), (60, 2)):
        ((u, v),) = seen(torch.tensor([[px, py]]), width, height, view).tolist()
        if 1 <= u < 111 and 1 <= v < 111:
            inside += 1
            red, green, _ = shown[:, int(v), int(u)].tolist()
            assert (red, green) == pytest.approx((px / width, py / height), abs=0.012)
    assert inside > 15


# The view


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (256, 256), (97, 301), (640, 427)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_the_view_is_torchvisions(width, height, resample):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
    found = CentreCropView(224, 256, resample).image(image, "")
    if resample == "bicubic":
        resized = TF.resize(image, 256, interpolation=TF.InterpolationMode.BICUBIC)
        expected = TF.to_tensor(TF.center_crop(resized, 224))
    else:
        resized = TF.resize(TF.to_tensor(image), 256, interpolation=TF.InterpolationMode.BILINEAR, antialias=True)
        expected = TF.center_crop(resized, 224)
    assert found.shape == (3, 224, 224)
    assert torch.allclose(found, expected, atol=1e-6)


def test_views_differ_in_identity_wherever_their_pixels_do():
    views = [CentreCropView(), CentreCropView(192), CentreCropView(224, 224), CentreCropView(224, 256, "bilinear")]
    assert len({json.dumps(view.identity()) for view in views}) == 4
    with pytest.raises(UserError, match="a crop of 257 px does not fit a short side of 256 px; use 257 or more"):
        CentreCropView(257)


# The vote


def naive_place(cosine, classes, truth, k, temperature, count):
    votes = [0.0] * count
    for c, label in list(zip(cosine, classes, strict=True))[:k]:
        votes[label] += math.exp(c / temperature)
    if truth not in classes[:k]:
        return NO_VOTE
    order = sorted(range(count), key=lambda label: (-votes[label], label))
    return order.index(truth)


def test_votes_by_hand():
    cosine = torch.tensor([[0.9, 0.8, 0.8, 0.1]])
    labels = torch.tensor([[2, 0, 0, 1]])
    # At temperature 0.1: e^9 = 8103 for class 2, twice e^8 = 5962 for class 0, e^1 for class 1.
    where = [classes_before(cosine, labels, torch.tensor([c]), (1, 2, 3, 4), 0.1, 4).flatten().tolist() for c in range(4)]
    assert where == [[NO_VOTE, 1, 1, 1], [NO_VOTE, NO_VOTE, NO_VOTE, 2], [0, 0, 0, 0], [NO_VOTE] * 4]
    # At temperature 1 two are more than one.
    assert classes_before(cosine, labels, torch.tensor([0]), (2, 3), 1.0, 4).flatten().tolist() == [1, 0]


def test_equal_classes_stand_in_their_order():
    cosine, labels = torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([[3, 1, 2]])
    assert [int(classes_before(cosine, labels, torch.tensor([c]), (3,), 0.07, 4)) for c in (1, 2, 3)] == [0, 1, 2]


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("count", [3, 12])
def test_places_are_those_of_plain_loops(temperature, count):
    rng = np.random.default_rng(count)
    cosine = np.sort(rng.integers(-8, 9, (40, 15)) / 8)[:, ::-1].copy()  # eighths, so that ties are many
    labels, truth = rng.integers(0, count, (40, 15)), rng.integers(0, count, 40)
    ks = (1, 4, 9, 15)
    found = classes_before(*(torch.from_numpy(a) for a in (cosine, labels, truth)), ks, temperature, count)
    expected = [
        [naive_place(c, n.tolist(), t, k, temperature, count) for c, n, t in zip(cosine, labels, truth, strict=True)] for k in ks
    ]
    assert (found == torch.tensor(expected)).float().mean() > 0.99  # sums of exp may tie in one order and not in another
    cosine, labels, truth = (torch.from_numpy(array) for array in (cosine, labels, truth))
    alone = [classes_before(cosine[:, :k], labels[:, :k], truth, (k,), temperature, count) for k in ks]
    assert torch.equal(found, torch.cat(alone))


def test_the_order_of_k_is_kept_and_no_temperature_overflows():
    rng = np.random.default_rng(0)
    cosine = torch.from_numpy(np.sort(rng.uniform(-1, 1, (20, 9)))[:, ::-1].copy()).float()
    labels, truth = torch.from_numpy(rng.integers(0, 4, (20, 9))), torch.from_numpy(rng.integers(0, 4, 20))
    forth, back = (classes_before(cosine, labels, truth, ks, 0.07, 4) for ks in ((2, 5, 9), (9, 5, 2)))
    assert torch.equal(forth, back.flip(0))
    cold = classes_before(cosine, labels, truth, (9,), 1e-3, 4)[0]
    assert torch.equal(cold == 0, labels[:, 0] == truth)  # the nearest alone decides


# The whole

SIDE, STRIDE, GRID = 32, 8, 4
COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [180, 180, 40]])


@dataclass(frozen=True, kw_only=True)
class Toys(Boxed):
    """Grey noise with boxes in the colours of their classes: the largest decides; some images have none or a crowd alone."""

    name: str = "toys"
    classes: tuple[str, ...] = ("a", "b", "c", "d", "never")
    mapping: str = "toys"
    noise: float = 60.0
    counts: tuple[int, int] = (14, 11)
    bare: bool = False

    def list_items(self, split):
        return (Item(f"{split}-{i}", None, None) for i in range(self.counts[split == "val"]))

    def drawn(self, item):
        rng = np.random.default_rng(int(digest([item.name, self.bare], 8), 16))
        width, height = [(40, 40), (64, 40), (36, 50)][rng.integers(3)]
        pixels = np.full((height, width, 3), 120.0)
        rows = []
        for number in range(0 if self.bare else 3):
            left, top = rng.uniform(0, (width - 20, height - 20))
            w, h = rng.uniform(5, 20, 2) if number else rng.uniform(12, 20, 2)
            label = int(rng.integers(4))
            rows.append([left, top, left + w, top + h, label, number == 2])
        for left, top, right, bottom, label, crowd in reversed(rows):
            if not crowd:
                pixels[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] = COLOURS[label]
        pixels += rng.normal(0, self.noise, pixels.shape) + rng.normal(0, self.noise, 3)
        if item.name.endswith("3"):
            rows = []
        if item.name.endswith("5"):
            rows = rows[2:]
        return np.clip(pixels, 0, 255).astype(np.uint8), boxed(*rows)

    def image(self, item):
        return Image.fromarray(self.drawn(item)[0])

    def image_size(self, item):
        return self.image(item).size

    def objects(self, item):
        return self.drawn(item)[1]

    def annotation(self, item):
        return [item.name, self.bare]

    def image_digest(self, item):
        return digest([item.name, self.noise, self.bare])


class Colours(torch.nn.Module):
    """Mean colours of patches, centred, with some of their contrast."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0]))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        mean = torch.nn.functional.avg_pool2d(images, STRIDE)
        return torch.cat([mean, torch.nn.functional.max_pool2d(images, STRIDE) - mean], 1) * self.weight


def backbone():
    trunk = Colours()
    return Backbone(trunk, Facts("colours", "colours", 6, STRIDE, (0.47,) * 3, (0.25,) * 3), weights_digest(trunk))


DATA = Toys(root=Path())
SMALL = {"image_size": SIDE, "short_side": 36, "neighbours": (1, 3, 7, 20)}


def score(dataset=DATA, preset="flsl", model=None, run=None, **given):
    evaluator = options.build(BboxKnn, BboxKnn.presets[preset], {**SMALL, **given}).resolve(dataset)
    return list(evaluator.run(model or backbone(), dataset, run or Run()))


def named(scores):
    return {(one.axes["k"], one.metric, one.variant): one for one in scores}


def naive_box(dataset, item, mapping, short_side=36):
    """The place of the box that counts, and the box: of the image, or clipped and in px of the crop."""
    width, height = dataset.image_size(item)
    objects, best, margin = dataset.objects(item), None, (short_side - SIDE) / 2
    for place, (row, crowd) in enumerate(zip(objects.boxes.tolist(), objects.crowd, strict=True)):
        if mapping == "clipped":
            row = [value * short_side / (width, height)[axis % 2] - margin for axis, value in enumerate(row)]
            row = [0 if value < 0 else SIDE - 0.001 if value > SIDE else value for value in row]
        area = (row[2] - row[0]) * (row[3] - row[1])
        if not crowd and (best is None or area > best[0]):
            best = (area, place, row)
    return best[1:]


def naive_patches(dataset, item, mapping, short_side=36):
    width, height = dataset.image_size(item)
    left, top, right, bottom = naive_box(dataset, item, mapping)[1]
    found = []
    for i in range(3):
        for j in range(3):
            x, y = left + (right - left) * (2 * j + 1) / 6, top + (bottom - top) * (2 * i + 1) / 6
            if mapping == "right":
                new = (short_side * width // min(width, height), short_side * height // min(width, height))
                x, y = x * new[0] / width - round((new[0] - SIDE) / 2), y * new[1] / height - round((new[1] - SIDE) / 2)
            row, column = (min(max(math.floor(v / STRIDE), 0), GRID - 1) for v in (y, x))
            found.append((row, column))
    return found


def naive_rows(dataset, split, mapping):
    """Features of length one [images, 9, d], and classes, of the images with a box."""
    model, view, rows, classes = backbone(), CentreCropView(SIDE, 36), [], []
    for item in dataset.items(split):
        objects = dataset.objects(item)
        if (~objects.crowd).any():
            with torch.no_grad():
                grid = model(((view.image(dataset.image(item), "") - 0.47) / 0.25)[None])[0]
            own = [grid[:, r, c].double().numpy() for r, c in naive_patches(dataset, item, mapping)]
            rows.append([one / np.sqrt((one**2).sum()) for one in own])
            classes.append(int(objects.classes[naive_box(dataset, item, mapping)[0]]))
    return np.array(rows), classes


@pytest.mark.parametrize("preset", ["flsl", "flsl-code"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_every_number_is_that_of_plain_loops(preset, temperature):
    found = named(score(preset=preset, temperature=temperature))
    mapping = "right" if preset == "flsl" else "clipped"
    memory, labels = naive_rows(DATA, "train", mapping)
    queries, truth = naive_rows(DATA, "val", mapping)
    flat = memory.reshape(-1, memory.shape[-1])
    assert len(found) == 4 * len(SMALL["neighbours"])
    for k in SMALL["neighbours"]:
        right = np.zeros((2, len(truth), NINE))
        for n, own in enumerate(queries):
            for p, query in enumerate(own):
                cosine = flat @ query
                near = np.argsort(-cosine, kind="stable")[:k]
                place = naive_place(cosine[near], [labels[m // NINE] for m in near], truth[n], k, temperature, 5)
                right[:, n, p] = place < 1, place < 5
        for values, metric in zip(right, ("top1", "top5"), strict=True):
            for variant, own in (("patch", values.mean(1)), ("any-patch", values.max(1))):
                one = found[k, metric, variant]
                assert one.value == pytest.approx(100 * own.mean()), (k, metric, variant)
                resampled = 100 * bootstrap.bootstrap_mean(torch.from_numpy(own))
                assert one.bootstrap == pytest.approx(resampled.tolist())
                assert one.ci95 == pytest.approx(bootstrap.interval(resampled))
                for c, name in enumerate(DATA.classes):
                    members = [v for v, t in zip(own, truth, strict=True) if t == c]
                    assert one.per_class[name] == (pytest.approx(100 * np.mean(members)) if members else None)
                # Of 14 images train-3, train-5 and train-13, of 11 val-3 and val-5 have no box that counts.
                assert one.details == {"memory": 99, "images": 9, "without_box": 2, "memory_without_box": 3}


def test_the_toys_tell_variants_and_mappings_apart():
    """What the comparison with plain loops rests on: its data do not make all numbers equal."""
    found, code = named(score()), named(score(preset="flsl-code"))
    for k in (3, 7):
        assert found[k, "top1", "patch"].value < found[k, "top1", "any-patch"].value
    assert any(found[key].value != code[key].value for key in found)


def test_mappings_agree_on_square_images_to_the_last_number(monkeypatch):
    """Where all boxes lie in the crop."""
    real = Toys.drawn

    def square(self, item):
        pixels, objects = real(self, item)
        side = min(pixels.shape[:2])
        return pixels[:side, :side].copy(), replace(objects, boxes=np.clip(objects.boxes, 0.1 * side, 0.9 * side))

    monkeypatch.setattr(Toys, "drawn", square)
    assert [one.json() for one in score()] == [one.json() for one in score(preset="flsl-code")]


def test_features_that_tell_the_class_are_always_right(monkeypatch):
    real = Toys.drawn

    def plain(self, item):  # the whole image in the colour of the class that counts
        pixels, objects = real(self, item)
        place = largest(objects)
        pixels[:] = 120 if place is None else COLOURS[objects.classes[place]]
        return pixels, objects

    monkeypatch.setattr(Toys, "drawn", plain)
    for one in score(neighbours=(1, 9)):
        assert one.value == 100 and one.ci95 == (100, 100)


def test_top_five_holds_top_one_and_no_share_exceeds_all():
    found = named(score())
    for k in SMALL["neighbours"]:
        for variant in ("patch", "any-patch"):
            assert found[k, "top1", variant].value <= found[k, "top5", variant].value <= 100
        for metric in ("top1", "top5"):
            assert found[k, metric, "patch"].value <= found[k, metric, "any-patch"].value
    # With one neighbour there is one class in the vote, so the first five are the first.
    assert found[1, "top1", "patch"].value == found[1, "top5", "patch"].value < 100


def test_every_k_of_one_search_is_what_it_is_alone():
    together = named(score())
    for k in SMALL["neighbours"]:
        for key, one in named(score(neighbours=(k,))).items():
            assert one == together[key]


def test_the_first_five_are_five():
    """Places of the true class for each patch of three images: never among the five, fifth at one patch, first at three."""
    found = torch.full((3, NINE), 5)
    found[0, 4], found[1, 2], found[2, :3] = NO_VOTE, 4, 0
    own = Boxes(DATA.items("val")[:3], torch.tensor([1, 1, 2]), {}, 0)
    scores = {(one.metric, one.variant): one for one in BboxKnn().scores(found, own, DATA, (("k", 7),), {})}
    expected = {("top5", "patch"): 4 / 27, ("top5", "any-patch"): 2 / 3, ("top1", "patch"): 3 / 27, ("top1", "any-patch"): 1 / 3}
    assert {key: one.value for key, one in scores.items()} == {key: pytest.approx(100 * v) for key, v in expected.items()}
    assert scores["top5", "any-patch"].per_class == {"a": None, "b": 50, "c": 100, "d": None, "never": None}


def test_points_that_are_known_are_not_scored_again():
    evaluator = options.build(BboxKnn, {}, SMALL).resolve(DATA)
    assert evaluator.points(DATA) == [(("k", k),) for k in (1, 3, 7, 20)]
    left = score(run=Run(known=frozenset({(("k", 3),), (("k", 20),)})))
    assert {one.axes["k"] for one in left} == {1, 7}
    assert [(one.metric, one.variant) for one in left][3::4] == [("top1", "any-patch")] * 2


@pytest.mark.parametrize("runtime", [{"batch_size": 1}, {"batch_size": 5}, {"device": "cpu"}])
def test_runtime_options_do_not_change_the_number(runtime, cache, monkeypatch):
    before = [one.json() for one in score()]
    monkeypatch.setenv("DENSEBENCH_CACHE", str(cache / "other"))
    assert [one.json() for one in score(**runtime)] == before


def test_searching_few_images_at_once_does_not_change_the_number(monkeypatch):
    before = score()
    monkeypatch.setattr("densebench.evals.bbox_knn.IMAGES", 2)
    assert score() == before


def test_engines():
    pytest.importorskip("faiss")
    before = score()
    assert score(engine="faiss") == before
    found = score(engine="faiss-ivf")
    assert all(one.details["engine"] == "faiss-ivf" and one.details["recall"] > 0.5 for one in found)
    settings = [options.build(BboxKnn, {}, {"engine": engine}).settings(DATA) for engine in ("exact", "faiss", "faiss-ivf")]
    assert settings[0] == settings[1] != settings[2]


def test_lower_precision_is_near():
    pairs = zip(score(), score(precision="bf16"), strict=True)
    assert all(abs(one.value - other.value) <= 25 for one, other in pairs)


def test_only_nine_vectors_an_image_are_kept(cache):
    score()
    vectors = 20 * NINE * 6 * 4
    size = sum(path.stat().st_size for path in (cache / "features").rglob("*.safetensors"))
    assert vectors <= size < vectors + 20 * 200 + 1000


def test_features_of_chosen_patches(cache):
    """They are rows of the whole grid, kept apart by what was chosen, and computed once."""
    model, view, items = backbone(), CentreCropView(SIDE, 36), DATA.items("val")[:3]
    whole = extract(model, DATA, items, view)
    one = {item.name: torch.tensor([5, 0, 15, 5]) for item in items}
    two = {item.name: torch.tensor([n]) for n, item in enumerate(items)}
    seen_before = model.trunk.seen
    for _ in range(2):
        first, second = (extract(model, DATA, items, view, patches=own) for own in (one, two))
        for n, item in enumerate(items):
            assert torch.equal(first[item], whole[item].flatten(0, 1)[[5, 0, 15, 5]])
            assert torch.equal(second[item], whole[item].flatten(0, 1)[[n]])
        assert model.trunk.seen == seen_before + 6
    assert torch.equal(extract(model, DATA, items, view)[items[0]], whole[items[0]])


def test_bootstrap_draws_are_everybodys():
    """Whether an image is right, as an IoU: one pixel that agrees or does not."""
    right = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    tally = torch.stack([right, torch.ones(5), right], 1)[:, :, None].long()
    assert torch.allclose(bootstrap.bootstrap_mean(right), bootstrap.bootstrap_mean_iou(tally))
    assert bootstrap.bootstrap_mean(torch.full((4,), 100.0)).unique().tolist() == [100.0]


# Errors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"neighbours": (5, 100)}, "--neighbours 100: the memory holds 99 patches, 9 of each of 11 images with a box"),
        ({"image_size": 36, "short_side": 40}, "36 px does not fit"),
        ({"image_size": 40}, "a crop of 40 px does not fit a short side of 36 px"),
        ({"eval_split": "train"}, "--eval-split train is the split of the memory too"),
        ({"train_split": "test"}, "unknown split 'test'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_the_work(given, message):
    model = backbone()
    with pytest.raises(UserError, match=message) as error:
        score(model=model, **given)
    assert "\n" not in str(error.value) and model.trunk.seen == 0


def test_data_sets_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="none of the 14 images of toys train has a box"):
        score(Toys(root=Path(), bare=True))
    with pytest.raises(UserError, match="toys has one class, which is always right"):
        score(Toys(root=Path(), classes=("vehicle",)))


def test_features_that_are_not_finite_are_refused():
    model = backbone()
    model.trunk.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        score(model=model)


def test_a_run_on_files_of_coco(tmp_path):
    """Through `evaluate`: record, second run, and the data set of another kind."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        images, annotations = {}, []
        for number in range(count):
            images[number] = rng.integers(0, 90, (48, 64, 3), dtype=np.uint8)
            if number:
                images[number][8:40, 12:60] = COLOURS[number % 2]
                annotations.append(instance(number, 17 + number % 2, (12, 8, 48, 32)))
        write_coco(tmp_path / "data", split, images, annotations)
    asked = {"backbones": ["pixels:8"], "data_root": tmp_path / "data", "results": tmp_path / "results"}
    asked |= {"image_size": "32", "short_side": "32", "neighbours": "1,9"}
    (record,) = evaluate("bbox-knn", datasets=["coco-boxes"], **asked)
    assert record["status"] == "complete" and record["dataset"]["images"] == 3
    headlines = {s["k"]: s["value"] for s in record["scores"] if (s["metric"], s["variant"]) == ("top1", "any-patch")}
    assert headlines == {1: 100, 9: 100}
    assert record["scores"][0]["details"]["without_box"] == 1
    shown = {name for name, value in record["scores"][0]["per_class"].items() if value is not None}
    assert shown == {"cat", "dog"}
    (again,) = evaluate("bbox-knn", datasets=["coco-boxes"], **asked)
    assert again["id"] == record["id"] and again["scores"] == record["scores"]
    (other,) = evaluate("bbox-knn", preset="flsl-code", datasets=["coco-boxes"], **asked)
    assert other["group"] != record["group"]
    with pytest.raises(UserError, match="scenes has label maps; bbox-knn takes boxes: coco-boxes, imagenet-boxes"):
        list(evaluate("bbox-knn", datasets=["scenes"], **asked))
