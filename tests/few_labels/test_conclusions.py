"""What follows from tallies: the same classes for all, a fair most frequent class, and the images that models learned from."""

from types import SimpleNamespace

import numpy as np
import pytest

from densebench.errors import UserError
from densebench.features.cost import Cost
from densebench.few_labels.conclusions import Scored, comparable_classes, concluded, trained_on
from densebench.few_labels.cross_validation import CrossValidation, Tallies, most_frequent
from densebench.few_labels.groups import Groups
from densebench.few_labels.paired import mean_iou

GROUP = np.array([0, 0, 1])
"""Images 0 and 1 belong together."""


def shows(*truth, names="abcd"):
    """The tallies of images that show so many pixels of each class, of which nothing is right."""
    tally = np.zeros((len(truth), 3, len(names)), int)
    tally[:, 1] = truth
    return Tallies(tuple(names), tally, {})


def test_classes_that_can_be_compared_by_hand():
    """Class a in both groups, b in one, c in none, d in both."""
    found = shows([5, 1, 0, 2], [5, 1, 0, 0], [5, 0, 0, 2])
    assert comparable_classes([found], GROUP) == (("a", "d"), ("b",))
    with pytest.raises(UserError, match="1 of 3 classes"):
        comparable_classes([shows([5, 1, 0], [5, 1, 0], [5, 0, 0], names="abc")], GROUP)


def test_a_class_that_one_backbone_does_not_see_twice_counts_for_none():
    """At a coarser size the one pixel of class d in image 2 is lost: no backbone is compared by it."""
    fine, coarse = shows([5, 5, 0, 2], [5, 0, 0, 0], [5, 5, 0, 1]), shows([2, 2, 0, 1], [2, 0, 0, 0], [2, 2, 0, 0])
    for order in ((fine, coarse), (coarse, fine)):
        assert comparable_classes(order, GROUP) == (("a", "b"), ("d",))


def test_a_class_that_a_protocol_does_not_count_counts_for_none():
    found = comparable_classes(
        [shows([5, 5, 5], [5, 5, 5], [5, 5, 5], names="abx"), shows([5, 5], [5, 5], [5, 5], names="ab")], GROUP
    )
    assert found == (("a", "b"), ("x",))


def concluding(tallies, group, folds, presets=("one",), doubt=""):
    """The choice of tallies by backbone, the same for every preset of one protocol."""
    plans = [SimpleNamespace(protocol="incontext", preset=preset, evaluator=SimpleNamespace(device="cpu")) for preset in presets]
    data = SimpleNamespace(name="d", title="", image_size_hint=32)
    items = [SimpleNamespace(name=chr(97 + i)) for i in range(len(group))]
    costs = {name: Cost(32, 4, 8, 100, 10.0, 1.0, 1.0) for name in tallies}
    validation = CrossValidation(data, items, folds, (8, 4, 2, 1), 1, 0)
    return concluded(plans, validation, Groups(group, doubt=doubt), Scored([dict(tallies) for _ in presets], costs, []), None, "")


def right(images=8, share=0.9, seed=0):
    """Tallies of images of two classes in all of them, and of a third, the largest, in the first alone."""
    truth = np.random.default_rng(seed).integers(20, 60, (images, 3))
    truth[:, 2] = 0
    truth[0, 2] = 5000
    agree = (truth * share).astype(int)
    return Tallies(("a", "b", "c"), np.stack([agree, truth, agree + (truth - agree)[:, [1, 2, 0]]], axis=1), {})


def test_the_most_frequent_class_is_sought_among_all_and_its_mistakes_count_as_everybodys():
    """Class c, left out of the mean, has most pixels: in seven folds its prediction is right nowhere that counts."""
    tallies, folds = right(), np.arange(8)
    found = concluding({"A": tallies}, np.arange(8), folds).comparisons[0]
    expected = most_frequent(tallies.whole, folds)[:, :, :2].sum(0)
    assert found.chance == pytest.approx(float(mean_iou(expected)))
    assert found.chance < float(mean_iou(most_frequent(tallies.whole[:, :, :2], folds).sum(0)))


def test_backbones_with_other_sizes_are_compared_by_the_same_classes():
    small, large = right(seed=0), right(seed=0)
    small.whole[1:, :, 1] = 0  # class b is left in one image
    small.whole[:, :, 2], large.whole[:, :, 2] = ([[9, 9, 9]] * 8,) * 2
    found = concluding({"A": large, "B": small}, np.arange(8), np.arange(8)).comparisons[0]
    assert [set(each.per_class) for each in found.standings] == [{"a", "c"}] * 2


def test_two_presets_of_a_protocol_stay_apart():
    found = concluding({"A": right(), "B": right(share=0.5)}, np.arange(8), np.arange(8), presets=("one", "two"))
    assert [each.protocol for each in found.comparisons] == ["incontext/one", "incontext/two"]
    assert "incontext/one" in str(found) and "incontext/two: behind the best" in str(found)
    assert found.sentence.endswith("; incontext/two agrees.")


def test_what_makes_scores_too_kind_is_among_the_notes():
    doubted, sure = (concluding({"A": right()}, np.arange(8), np.arange(8), doubt=doubt) for doubt in ("all look alike", ""))
    assert set(doubted.notes) - set(sure.notes) == {"all look alike."}


def test_classes_that_no_model_could_learn_are_told():
    tallies, folds = right(), np.array([0, 0, 1, 1, 2, 2, 3, 3])
    tallies.whole[2:, :, 1] = 0  # class b is in both images of fold 0 alone
    notes = concluding({"A": tallies}, np.arange(8), folds).notes
    assert [note for note in notes if "in one fold" in note] == [
        "b: in one fold all images that show it are held out, so no backbone can learn it for that fold."
    ]
    assert not any("in one fold" in note for note in concluding({"A": right()}, np.arange(8), folds).notes)


def test_one_preset_is_not_named():
    assert [each.protocol for each in concluding({"A": right()}, np.arange(8), np.arange(8)).comparisons] == ["incontext"]


@pytest.mark.parametrize(
    ("sizes", "images"),
    [((2, 2, 2, 2, 2), 8), ((5, 1, 1, 1), 4), ((7, 6, 6, 6, 6), 25)],
)
def test_models_learn_from_so_many_images_on_average(sizes, images):
    """Folds of 5, 1, 1 and 1: five images are predicted from 3, three from 7, (15 + 21) / 8 = 4.5 on average."""
    folds = np.repeat(np.arange(len(sizes)), sizes)
    loops = np.mean([(folds != fold).sum() for fold in folds])
    assert trained_on(folds) == images == round(loops)


def test_the_curve_ends_at_that_number():
    found = concluding({"A": right()}, np.arange(8), np.array([0, 0, 0, 0, 0, 1, 2, 3]))
    assert found.curves["A"].sizes == (4,)


def in_pairs():
    """Sixteen images in eight groups of two, each a fold; models of 3, 6 and 14 images have ever more pixels right."""
    whole, *smaller = (right(16, share) for share in (0.8, 0.5, 0.65))
    return Tallies(whole.names, whole.whole, {3: [smaller[0].whole], 6: [smaller[1].whole]}), np.arange(16) // 2


def test_a_curve_is_of_groups_as_if_each_were_one_image():
    tallies, pairs = in_pairs()
    added = {size: [each[0][::2] + each[0][1::2]] for size, each in tallies.smaller.items()}
    alone = Tallies(tallies.names, tallies.whole[::2] + tallies.whole[1::2], added)
    found, expected = concluding({"A": tallies}, pairs, pairs), concluding({"A": alone}, np.arange(8), np.arange(8))
    assert found.curves["A"].sizes == (3, 6, 14)
    assert found.curves["A"].intervals == expected.curves["A"].intervals


def test_more_labels_are_counted_in_images_of_which_a_model_for_use_has_all():
    tallies, pairs = in_pairs()
    curve = concluding({"A": tallies}, pairs, pairs).curves["A"]
    assert [each.more for each in curve.forecasts] == [16, 32]
