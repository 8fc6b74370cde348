"""The sentence, for every case."""

import pytest

from densebench.few_labels.comparison import Comparison, Difference, Standing
from densebench.few_labels.recommendation import recommendation

SURE = Difference(20.0, 15.0, 25.0)


def best(name="A", value=41.2):
    return Standing(name, value, value - 3, value + 3, {})


def other(name, behind, low, high, more=0):
    return Standing(name, 41.2 - behind, 30.0, 45.0, {}, Difference(behind, low, high), more)


def sentence(*others, speeds=None, chance=SURE, more=(), failed=(), first=None):
    comparison = Comparison("incontext", "hummingbird", (first or best(), *others), 21.2, chance, 90)
    return recommendation([comparison, *more], speeds or {}, failed)


def test_the_sentence_of_the_manual():
    near = other("B", 0.7, -0.4, 1.9, 40)
    assert sentence(near, speeds={"A": 10, "B": 20.0}) == (
        "Take A (41.2 mIoU); B is not separable from it (-0.4 to 1.9 mIoU) and is twice as fast; about 40 more labelled images "
        "would separate them if the difference stays as it is."
    )


def test_an_interval_that_ends_at_0_does_not_separate():
    assert "; B is not separable from it (0.0 to 1.4 mIoU)" in sentence(other("B", 0.7, 0.0, 1.4, 1))


def test_one_that_is_no_better_and_slower():
    text = sentence(other("B", 0.7, -0.4, 1.9, 40), speeds={"A": 40, "B": 10.0})
    assert "; B is not separable from it (-0.4 to 1.9 mIoU) and takes 4 times as long; about 40" in text


def test_one_backbone_alone():
    assert sentence() == "A reaches 41.2 mIoU (38.2 to 44.2); there is no other backbone to compare it with."


def test_two_that_are_separable():
    assert sentence(other("B", 3.1, 1.2, 5.0)) == "Take A (41.2 mIoU): B is 3.1 mIoU below (1.2 to 5.0)."


def test_the_best_of_many_that_are_separable():
    text = sentence(other("B", 3.1, 1.2, 5.0), other("C", 9.0, 7.0, 11.0), speeds={"A": 10, "B": 11, "C": 12})
    assert text == "Take A (41.2 mIoU): it is separably better than every other; the next, B, is 3.1 mIoU below (1.2 to 5.0)."


def test_a_next_one_that_is_four_times_as_fast():
    text = sentence(other("B", 3.1, 1.2, 5.0), speeds={"A": 10, "B": 40})
    assert text == "Take A (41.2 mIoU): B is 3.1 mIoU below (1.2 to 5.0), but 4 times as fast."


def test_the_speed_of_one_that_is_far_behind_is_not_worth_a_word():
    """The best is 20 above the most frequent class, B keeps 14 of that."""
    assert "as fast" not in sentence(other("B", 6.0, 4.0, 8.0), speeds={"A": 10, "B": 400})
    assert "as fast" in sentence(other("B", 4.9, 3.0, 6.0), speeds={"A": 10, "B": 400})


def test_a_third_one_that_is_much_faster():
    text = sentence(other("B", 3.1, 1.2, 5.0), other("C", 4.0, 2.0, 6.0), speeds={"A": 10, "B": 10, "C": 33})
    assert text.endswith(
        "the next, B, is 3.1 mIoU below (1.2 to 5.0), and C is 3.3 times as fast but 4.0 mIoU below (2.0 to 6.0)."
    )


def test_what_many_labels_would_not_separate_counts_as_equal():
    text = sentence(other("B", 0.1, -2.0, 2.2, None))
    assert text.endswith("even 90 more labelled images would not separate them, so decide by something else, such as speed.")
    assert "as fast" not in text


def test_one_more_label_is_singular():
    assert "about 1 more labelled image would separate them" in sentence(other("B", 1.0, -0.1, 2.2, 1))


def test_several_that_are_not_separable():
    near = [other("B", 0.7, -0.4, 1.9, 40), other("C", 0.9, -0.2, 2.0, 30)]
    assert sentence(*near, other("D", 9.0, 7.0, 11.0), speeds={"A": 10, "B": 5, "C": 15, "D": 90}) == (
        "Take A (41.2 mIoU); not separable from it are B (-0.4 to 1.9 mIoU) and C (-0.2 to 2.0 mIoU), of which C is 1.5 times as "
        "fast; about 40 more labelled images would separate A and B if the difference stays as it is."
    )


def test_the_fastest_of_many_is_named():
    near = [other(name, 0.5 + i / 10, -1.0, 2.0, 50) for i, name in enumerate("BCDE")]
    text = sentence(*near, speeds={**dict.fromkeys("ABCD", 10.0), "E": 120.0})
    assert "B (-1.0 to 2.0 mIoU), C (-1.0 to 2.0 mIoU), E (-1.0 to 2.0 mIoU) and 1 more, of which E is 12 times as fast" in text


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (0.3, ""),
        (1.2, ""),
        (1.25, "1.2 times"),
        (1.5, "1.5 times"),
        (1.8, "twice"),
        (2.2, "twice"),
        (2.5, "2.5 times"),
        (3.1, "3 times"),
    ],
)
def test_speeds_in_words(factor, words):
    text = sentence(other("B", 0.7, -0.4, 1.9, 40), speeds={"A": 10.0, "B": 10.0 * factor})
    assert (f" and is {words} as fast" in text) if words else "as fast" not in text
    assert (" and takes 3.3 times as long" in text) == (factor == 0.3)


def test_all_equal_goes_by_speed():
    same = other("B", 0.0, 0.0, 0.0, None)
    assert sentence(same, speeds={"A": 1, "B": 3}) == "Take B, the fastest: A and B are equal on these images (41.2 mIoU)."
    assert sentence(same) == "Take any: A and B are equal on these images (41.2 mIoU)."


def test_no_better_than_the_most_frequent_class():
    text = sentence(other("B", 0.7, -0.4, 1.9, 40), chance=Difference(1.0, -0.5, 2.5))
    assert text == (
        "Take none of them yet: the best, A, reaches 41.2 mIoU, which is not separably better than the 21.2 of predicting the "
        "most frequent class everywhere."
    )


NO_BETTER = Difference(1.0, -0.5, 2.5)


def by_linear(first, second, over_chance=SURE):
    return Comparison("linear", "lbfgs", (first, second), 20.0, over_chance, 90)


@pytest.mark.parametrize(
    ("opinion", "words"),
    [
        (by_linear(best(), other("B", 5.0, 3.0, 7.0)), "; linear agrees."),
        (by_linear(best("B", 44.0), other("A", 1.1, 0.3, 2.1)), "; linear puts B first, 1.1 mIoU ahead (0.3 to 2.1)."),
        (by_linear(best("B", 44.0), other("A", 1.1, -0.3, 2.1)), "; linear puts B first, but not separably (-0.3 to 2.1 mIoU)."),
    ],
)
def test_another_protocol_is_heard(opinion, words):
    assert sentence(other("B", 3.1, 1.2, 5.0), more=[opinion]).endswith(words)


@pytest.mark.parametrize(
    ("opinion", "words"),
    [
        (by_linear(best(), other("B", 5.0, 3.0, 7.0)), "class everywhere; by linear, A is separably better, with 41.2."),
        (by_linear(best("B", 44.0), other("A", 5.0, 3.0, 7.0)), "class everywhere; by linear, B is separably better, with 44.0."),
        (by_linear(best("B", 44.0), other("A", 5.0, 3.0, 7.0), NO_BETTER), "class everywhere; linear agrees."),
    ],
)
def test_what_another_protocol_says_where_none_is_taken(opinion, words):
    assert sentence(other("B", 0.7, -0.4, 1.9, 40), chance=NO_BETTER, more=[opinion]).endswith(words)


def test_another_protocol_by_which_none_is_better_than_the_most_frequent_class_does_not_agree():
    opinion = by_linear(best(), other("B", 5.0, 3.0, 7.0), NO_BETTER)
    text = sentence(other("B", 3.1, 1.2, 5.0), more=[opinion])
    assert text.endswith("; by linear none is separably better than predicting the most frequent class.")


@pytest.mark.parametrize(
    ("opinion", "words"),
    [
        (by_linear(best(), other("B", 0.0, 0.0, 0.0)), "; linear agrees."),
        (by_linear(best(), other("B", 5.0, 3.0, 7.0)), "; linear puts A first, 5.0 mIoU ahead (3.0 to 7.0)."),
        (by_linear(best("B", 44.0), other("A", 5.0, 3.0, 7.0)), "; linear puts B first, 5.0 mIoU ahead (3.0 to 7.0)."),
        (
            by_linear(best("B", 44.0), other("A", 5.0, -3.0, 13.0)),
            "; linear puts B first, but not separably (-3.0 to 13.0 mIoU).",
        ),
    ],
)
@pytest.mark.parametrize("speeds", [{}, {"A": 1.0, "B": 3.0}, {"A": 3.0, "B": 1.0}])
def test_what_another_protocol_says_of_backbones_that_are_equal(opinion, words, speeds):
    assert sentence(other("B", 0.0, 0.0, 0.0, None), speeds=speeds, more=[opinion]).endswith(words)


def test_another_protocol_by_which_all_are_equal():
    opinion = by_linear(best(), other("B", 0.0, 0.0, 0.0))
    assert sentence(other("B", 3.1, 1.2, 5.0), more=[opinion]).endswith("; by linear all are equal.")


@pytest.mark.parametrize(
    ("low", "words"),
    [(1.2, "; linear puts A first too, but not separably (-0.2 to 6.6 mIoU)."), (-1.2, "; linear agrees.")],
)
def test_another_protocol_that_is_less_sure_says_so(low, words):
    opinion = by_linear(best(), other("B", 3.2, -0.2, 6.6, 9))
    assert sentence(other("B", 3.1, low, 5.0, 9), more=[opinion]).endswith(words)


def test_those_that_failed_are_named():
    assert sentence(other("B", 3.1, 1.2, 5.0), failed=["C"]).endswith("; C failed and is not compared.")
    assert sentence(other("B", 3.1, 1.2, 5.0), failed=["C", "D"]).endswith("; C and D failed and are not compared.")


def test_zero_has_no_sign():
    assert "(0.0 to 1.9 mIoU)" in sentence(other("B", 0.7, -0.01, 1.9, 2))
