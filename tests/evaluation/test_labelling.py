"""Label maps of new images: at the scored resolution those that a record counts, and at the image's size what a user gets."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from retrieval_by_loops import DATA, SIDE, Blocks, backbone, empty_cache
from tiers import late

from densebench import options
from densebench.datasets.dataset import Item
from densebench.errors import UserError
from densebench.evals.incontext import InContext
from densebench.evals.incontext.labelling import pixel_shares
from densebench.evals.linear import Linear
from densebench.evaluation.labelling import counted
from densebench.evaluation.protocol import Run

__all__ = ["backbone", "empty_cache"]  # fixtures

FEW = {"neighbours": (5,)}
SETTINGS = {
    "hummingbird": (InContext, "hummingbird", FEW),
    "open-hummingbird": (InContext, "open-hummingbird", FEW),
    "neco": (InContext, "neco", FEW),
    "cribo": (InContext, "cribo", FEW),
    "capi": (InContext, "capi", {"neighbours": (3, 5), "image_size": SIDE}),
    "native": (InContext, "hummingbird", {**FEW, "score_at": "native", "image_size": 2 * SIDE}),
    "lbfgs": (Linear, "lbfgs", {"l2": (1e-3,)}),
    "lbfgs, l2 chosen": (Linear, "lbfgs", {"l2": (1e-1, 1e-3)}),
}


def protocol(name):
    kind, preset, given = SETTINGS[name]
    return options.build(kind, kind.presets[preset], given).resolve(DATA)


@dataclass(frozen=True, kw_only=True)
class Unlabelled(Blocks):
    """The same pictures at another size and without labels."""

    name: str = "unlabelled"
    splits: tuple[str, ...] = ("all",)

    def list_items(self, split):
        return (Item(f"val-{i}", None, None) for i in range(3))

    def image(self, item):
        return super().image(item).resize(self.image_size(item), Image.Resampling.NEAREST)

    def image_size(self, item):
        return {"val-0": (SIDE, SIDE), "val-1": (3 * SIDE, SIDE), "val-2": (5, 7)}[item.name]

    def image_digest(self, item):
        return super().image_digest(item) + str(self.image_size(item))

    def label(self, item):
        raise AssertionError("no label of a new image is read")


@pytest.mark.parametrize("name", late(SETTINGS, "hummingbird", "cribo", "capi", "native", "lbfgs"))
def test_label_maps_at_the_scored_resolution_are_those_of_the_record(backbone, name):
    evaluator = protocol(name)
    recorded = list(evaluator.run(backbone, DATA, Run(progress_key=f"record {name}")))
    learned = evaluator.learn(backbone, DATA, DATA.items("train"))
    val = DATA.items("val")
    counts = counted(learned, val)
    names = [item.name for item in val]
    found = counts.scores(names, 0, learned.names, evaluator.absent, (("fraction", 1),), learned.details)
    for score in recorded:
        same = next(each for each in found if (each.metric, each.variant) == (score.metric, score.variant))
        assert (same.value, same.ci95, same.per_class) == (score.value, score.ci95, score.per_class)
        assert {key: score.details[key] for key in learned.details} == learned.details


@dataclass(frozen=True, kw_only=True)
class Guarded(Blocks):
    """The blocks of which two training images may not be looked at."""

    def image_digest(self, item):
        assert item.name not in HELD, "features of an image that is held out were sought"
        return super().image_digest(item)

    def label(self, item):
        assert item.name not in HELD, "a label that is held out was read"
        return super().label(item)


HELD = ("train-2", "train-7")


@pytest.mark.parametrize("name", ["hummingbird", "capi", "lbfgs, l2 chosen"])
def test_nothing_but_the_training_images_is_learned_from(backbone, name):
    """Neither features, statistics, settings that are chosen nor labels come from images that are held out."""
    data = Guarded(root=DATA.root)
    train = [item for item in data.items("train") if item.name not in HELD]
    learned = protocol(name).learn(backbone, data, train)
    assert learned.details["images"] == len(train)


@pytest.mark.parametrize("name", ["hummingbird", "cribo", "capi", "lbfgs"])
def test_a_label_map_has_the_size_of_its_picture_and_no_void(backbone, name):
    images = Unlabelled(root=DATA.root)
    maps = dict(protocol(name).learn(backbone, DATA, DATA.items("train")).label_maps(images, images.items("all")))
    assert {item.name: tuple(labels.shape[::-1]) for item, labels in maps.items()} == {
        item.name: images.image_size(item) for item in images.items("all")
    }
    assert all(labels.dtype == torch.uint8 and int(labels.max()) < len(DATA.classes) for labels in maps.values())


@pytest.mark.parametrize("name", ["hummingbird", "lbfgs"])
def test_at_the_views_own_size_both_label_maps_agree(backbone, name):
    learned, val = protocol(name).learn(backbone, DATA, DATA.items("train")), DATA.items("val")
    assert learned.view.shape(SIDE, SIDE) == (SIDE, SIDE)
    for (item, whole), (_, scored) in zip(learned.label_maps(DATA, val), learned.label_maps(DATA, val, "scored"), strict=True):
        assert torch.equal(whole, scored), item.name


def test_pixels_that_vote_are_averaged_and_upsampled_without_void(backbone):
    """By loops: the share of neighbours that show a class at a pixel of the view, then larger, then the best class."""
    learned, images = protocol("capi").learn(backbone, DATA, DATA.items("train")), Unlabelled(root=DATA.root)
    item = images.items("all")[1]
    ((_, found),) = learned.label_maps(images, [item])
    voter, grid = learned.voter, learned.features(images, [item])[item]
    index = voter.search.search(voter.queries([grid]), learned.neighbours).index[0]
    rows, columns = grid.shape[:2]
    side = learned.view.stride
    shares = torch.zeros(len(DATA.classes), rows * side, columns * side)
    for patch, neighbours in enumerate(index.tolist()):
        i, j = divmod(patch, columns)
        for key in neighbours:
            for pixel, label in enumerate(voter.labels[key].tolist()):
                if label < len(DATA.classes):
                    shares[label, i * side + pixel // side, j * side + pixel % side] += 1 / len(neighbours)
    large = F.interpolate(shares[None], tuple(found.shape), mode="bilinear", align_corners=False)[0]
    best = large.max(0).values
    assert torch.allclose(large.gather(0, found.long()[None])[0], best, atol=1e-5)


def test_void_takes_its_share_of_the_votes_by_hand():
    """Two pixels: at the first both neighbours show class 1, at the second one shows class 0 and the other void."""
    pixels = torch.tensor([[1, 0], [1, 255], [0, 0]], dtype=torch.uint8)
    assert pixel_shares(torch.tensor([[0, 1]]), pixels, 2).tolist() == [[[0, 0.5]], [[1, 0]]]


def test_the_features_of_the_caller_are_used(backbone):
    images = Unlabelled(root=DATA.root)
    learned, items = protocol("lbfgs").learn(backbone, DATA, DATA.items("train")), images.items("all")
    features = learned.features(images, items)
    first = {item.name: labels for item, labels in learned.label_maps(images, items)}
    second = {item.name: labels for item, labels in learned.label_maps(images, items, features=features)}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_too_few_labelled_patches_are_refused(backbone):
    with pytest.raises(UserError, match="--neighbours 500.*holds 16 patches"):
        InContext(augment_epochs=0, neighbours=(500,)).learn(backbone, DATA, DATA.items("train")[1:2])
