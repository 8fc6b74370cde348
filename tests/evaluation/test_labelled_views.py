"""Labelled patches of views of training images, and the images on which a setting is chosen."""

from __future__ import annotations

from retrieval_by_loops import CLASSES, DATA, PATCH, SIDE

from densebench.evaluation.labels import LabelSpace
from densebench.evaluation.patch_labels import held_out, read_labelled_views
from densebench.features.views import View
from densebench.numerics.patch_labels import Labelling


def test_every_view_draws_the_patches_of_a_bounded_memory_anew():
    views = [View(PATCH, SIDE, epoch=epoch) for epoch in (0, 1)]  # not augmented: both show the same pixels
    items, labelling = DATA.items("train")[:4], Labelling(PATCH, CLASSES, "soft")
    space = LabelSpace(DATA, "drop", "off")
    labelled = read_labelled_views(space, items, views, labelling, [5] * 8)
    assert [(view.item, view.view) for view in labelled] == [(item, view) for item in items for view in views]
    taken = [tuple(view.patches.tolist()) for view in labelled]
    assert {len(patches) for patches in taken} == {5}
    assert len(set(taken)) == 8
    again = read_labelled_views(space, items, views, labelling, [5] * 8)
    assert [tuple(view.patches.tolist()) for view in again] == taken


def test_a_tenth_of_the_images_is_held_out_and_at_least_one():
    assert [len(held_out(count)) for count in (2, 10, 19, 20, 1464)] == [1, 1, 1, 2, 146]
    assert held_out(20) == held_out(20) != [0, 1]
