"""Cross-validation: models see other images than those they predict, and every image is counted once for every set of models."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from retrieval_by_loops import CLASSES, DATA

from densebench.console import progress
from densebench.errors import UserError
from densebench.few_labels.cross_validation import CrossValidation, labels_in_memory, most_frequent, smaller_trainings, trainings

ITEMS = DATA.items("train")
FOLDS = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4])


class Repeating:
    """A protocol that labels every pixel with the number of images learned from, modulo the classes, and remembers it."""

    def __init__(self, least=0):
        self.least, self.seen = least, []

    def learn(self, backbone, dataset, train):
        if len(train) < self.least:
            raise UserError("too few")
        return Learned(self, [item.name for item in train])


class Learned:
    def __init__(self, protocol, train):
        self.protocol, self.train = protocol, train
        self.space, self.names = SimpleNamespace(dataset=DATA), DATA.classes

    def features(self, images, items):
        return None

    def label_maps(self, images, items, at):
        for item in items:
            self.protocol.seen.append((tuple(self.train), item.name))
            yield item, torch.full((32, 32), len(self.train) % CLASSES, dtype=torch.uint8)

    def truth(self, item):
        return torch.from_numpy(DATA.label(item))


def tallied(protocol, with_curve=True, folds=FOLDS, shares=(4, 2, 1), repetitions=2):
    validation = CrossValidation(DATA, ITEMS, folds, shares, repetitions, seed=0)
    with progress("models", 1) as bar:
        found = validation.tallies(protocol, None, with_curve, bar)
    assert protocol.least or bar.done == validation.models(with_curve)
    return found


def test_no_model_has_seen_what_it_predicts():
    protocol = Repeating()
    tallied(protocol)
    fold = {item.name: number for item, number in zip(ITEMS, FOLDS, strict=True)}
    assert len(protocol.seen) == 10 * (1 + 2 * 2)
    assert all(fold[held] not in {fold[name] for name in train} for train, held in protocol.seen)


def test_counts_are_those_of_each_image_by_loops():
    """Eight training images, and eight modulo four is class 0: all of class 0 agrees, and every labelled pixel is predicted 0."""
    found = tallied(Repeating(), with_curve=False)
    for item, tally in zip(ITEMS, found.whole, strict=True):
        label = DATA.label(item)
        assert tally[1].tolist() == [int((label == c).sum()) for c in range(CLASSES)]
        assert tally[0].tolist() == [int((label == 0).sum()), 0, 0, 0]
        assert tally[2].tolist() == [int((label != 255).sum()), 0, 0, 0]
    assert found.smaller == {}


def test_smaller_sets_have_the_sizes_that_were_asked_for():
    found = tallied(Repeating())
    assert {size: len(rows) for size, rows in found.smaller.items()} == {2: 2, 4: 2}
    assert found.smaller[2][0][:, 2, 2].all() and not found.smaller[2][0][:, 2, 0].any()  # two images: class 2 everywhere


def test_a_size_that_is_too_small_for_the_protocol_is_left_out():
    assert list(tallied(Repeating(least=3)).smaller) == [4]


def test_a_protocol_that_cannot_learn_at_all_fails():
    with pytest.raises(UserError, match="too few"):
        tallied(Repeating(least=9))


def test_subsets_of_a_repetition_are_nested_and_repetitions_differ():
    small, large = smaller_trainings(trainings(FOLDS), (4, 2, 1), 3, seed=0)
    for few, many in zip(small, large, strict=True):
        assert all(set(a) < set(b) for a, b in zip(few.images, many.images, strict=True))
    assert len({tuple(each.images[0]) for each in large}) > 1


def test_subsets_are_of_the_folds_own_training_images():
    whole = trainings(FOLDS)
    for each in smaller_trainings(whole, (2,), 2, seed=1)[0]:
        assert all(set(few) <= set(all_) for few, all_ in zip(each.images, whole.images, strict=True))


def test_unequal_folds_have_subsets_of_one_size():
    whole = trainings(np.array([0, 0, 0, 0, 1, 2]))
    assert (whole.size, [len(images) for images in whole.images]) == (2, [2, 5, 5])
    assert smaller_trainings(whole, (2, 1), 1, seed=0) == []


def test_the_most_frequent_class_by_hand():
    """In fold 0 the other image has most of class 1, in fold 1 most of class 0; nothing is learned from the image itself."""
    tally = np.zeros((2, 3, 2), int)
    tally[:, 1] = [[8, 2], [4, 6]]
    found = most_frequent(tally, np.array([0, 1]))
    assert found.tolist() == [[[0, 2], [8, 2], [0, 10]], [[4, 0], [4, 6], [10, 0]]]


def test_label_maps_are_read_once_and_the_data_set_is_as_before():
    read = []

    class Counting(type(DATA)):
        def label(self, item):
            read.append(item.name)
            return super().label(item)

    data, item = Counting(root=DATA.root), ITEMS[1]
    with labels_in_memory(data):
        first = data.label(item)
        first[:] = 77  # whoever changes a label map changes no other
        assert (data.label(item) == DATA.label(item)).all()
    assert read == [item.name]
    data.label(item)
    assert len(read) == 2


def test_label_maps_beyond_the_limit_are_read_again():
    with labels_in_memory(DATA, most=32 * 32):
        assert all((DATA.label(item) == type(DATA).label(DATA, item)).all() for item in ITEMS for _ in range(2))
