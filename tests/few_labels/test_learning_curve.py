"""Learning curves: exact power laws are recovered, and what cannot be told is not told."""

import numpy as np
import pytest

from densebench.few_labels.learning_curve import POWERS, Law, continued, fitted, of_repetitions

SIZES = [3, 6, 12, 24]


def curve(values, noise=0.2, sizes=SIZES, groups=30, labelled=30, shared=1.0):
    """The curve through values whose resamples vary by `shared` together and by `noise` each."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, shared, 400)
    drawn = [value + common + rng.normal(0, noise, 400) for value in values]
    return continued(sizes, list(values), drawn, groups, labelled)


@pytest.mark.parametrize("power", [0.1, 0.5, POWERS[-1]])
@pytest.mark.parametrize("sizes", [SIZES, [2, 4, 8]])
def test_an_exact_power_law_is_recovered(power, sizes):
    law = fitted(np.array(sizes), Law(60.0, 40.0, power).at(np.array(sizes)))
    assert (law.limit, law.loss, law.power) == pytest.approx((60, 40, power), abs=1e-6)


def test_a_law_by_hand():
    """60 - 40 / sqrt(16) = 50."""
    assert float(Law(60, 40, 0.5).at(16)) == 50


def test_a_law_does_not_promise_more_than_everything():
    """A straight line over the logarithm of the images would cross 100 %: the law bends below it."""
    sizes = np.array([2, 4, 8, 16])
    law = fitted(sizes, np.array([50.0, 60.0, 70.0, 80.0]))
    assert law.limit <= 100 and float(law.at(10**9)) <= 100


def test_falling_values_give_a_flat_law():
    law = fitted(np.array(SIZES), np.array([40.0, 39.0, 37.0, 36.0]))
    assert law.loss == 0 and float(law.at(1000)) == pytest.approx(38)


def test_more_labels_bring_what_the_law_says():
    law = Law(60, 40, 0.5)
    found = curve(law.at(np.array(SIZES)), noise=0.05)
    assert [forecast.more for forecast in found.forecasts] == [30, 60]
    for forecast, images in zip(found.forecasts, (60, 90), strict=True):
        assert forecast.gain == pytest.approx(float(law.at(images) - law.at(30)), abs=1e-6)
        assert forecast.low < forecast.gain < forecast.high
    assert found.why == ""


def test_the_band_is_wider_where_scores_are_less_sure_and_further_away():
    law = Law(60, 40, 0.5).at(np.array(SIZES))
    sure, unsure = curve(law, noise=0.05), curve(law, noise=0.5)
    widths = [[forecast.high - forecast.low for forecast in each.forecasts] for each in (sure, unsure)]
    assert widths[0][0] < widths[1][0] and widths[1][0] < widths[1][1]


def test_the_band_is_wider_where_the_law_misses_scores():
    law = Law(60, 40, 0.5).at(np.array(SIZES))
    exact, jagged = curve(law, noise=0.3), curve(law + np.array([0.4, -0.4, 0.4, -0.4]), noise=0.3)
    assert jagged.forecasts[0].high - jagged.forecasts[0].low > 1.2 * (exact.forecasts[0].high - exact.forecasts[0].low)


def test_nothing_is_said_beyond_four_times_the_images_that_were_trained_on():
    """Two folds of 30 images train on 15: 60 images are four times as many, 90 are not looked at."""
    found = curve(Law(60, 40, 0.5).at(np.array([2, 4, 8, 15])), noise=0.05, sizes=[2, 4, 8, 15])
    assert [forecast.more for forecast in found.forecasts] == [30]
    found = curve(Law(60, 40, 0.5).at(np.array([2, 4, 7])), noise=0.05, sizes=[2, 4, 7])
    assert (
        found.why == "twice as many labels would be over 4 times the 7 training images, too far to extrapolate"
        and not found.forecasts
    )


@pytest.mark.parametrize(
    ("values", "noise", "why"),
    [
        ([40.0, 40.1, 40.0, 40.1], 0.3, "the score with 24 training images is not separably higher than with 3"),
        ([30.0, 45.0, 41.0, 42.0], 0.2, "the score falls from 6 to 12 training images"),
        ([30.0, 30.2, 30.3, 45.0], 0.2, "no power law fits the scores"),
    ],
)
def test_what_cannot_be_told_is_not_told(values, noise, why):
    found = curve(values, noise)
    assert found.why == why and found.forecasts == () and found.law is None
    assert found.values == tuple(values)


def test_two_sizes_are_too_few():
    found = curve([30.0, 40.0], sizes=[3, 6])
    assert found.why == "6 training images allow only 2 sizes, too few to fit a power law" and not found.forecasts


def test_one_repetition_is_drawn_as_itself():
    values = np.random.default_rng(0).normal(size=(1, 50))
    assert (of_repetitions(values) == values[0]).all()


def test_repetitions_that_differ_widen_the_replicates_around_their_mean():
    """Four repetitions at 0, 2, 4, 6: means of four draws with replacement have the mean 3 and the variance 5 / 4."""
    drawn = of_repetitions(np.repeat([[0.0], [2.0], [4.0], [6.0]], 20_000, axis=1))
    assert drawn.mean() == pytest.approx(3, abs=0.05) and drawn.var() == pytest.approx(1.25, abs=0.05)
