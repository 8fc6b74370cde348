"""Ranks: who is separably better, by the paired bootstrap difference."""

from __future__ import annotations

import numpy as np
import pandas as pd

from densebench.results.ranking import best_of, lead, ranks


def test_a_paired_difference_separates_what_intervals_do_not():
    rng = np.random.default_rng(0)
    shared = rng.normal(50, 3, 1000)
    first, second = shared + rng.normal(1, 0.1, 1000), shared
    assert np.quantile(first, 0.025) < np.quantile(second, 0.975)  # the intervals overlap
    assert (lead(first, second), lead(second, first)) == (1, -1)
    assert ranks([51.0, 50.0], [first, second], "higher") == [1, 2]


def test_separable_means_that_the_central_95_percent_lie_on_one_side():
    differences = np.ones(1000)
    differences[:20] = -1  # 2 % of the draws: less than the 2.5 % below the interval
    assert (lead(differences, np.zeros(1000)), lead(-differences, np.zeros(1000))) == (1, -1)
    differences[:30] = -1
    assert lead(differences, np.zeros(1000)) == lead(-differences, np.zeros(1000)) == 0


def test_independent_noise_shares_a_rank():
    rng = np.random.default_rng(0)
    first, second = rng.normal(51, 3, 1000), rng.normal(50, 3, 1000)
    assert lead(first, second) == 0
    assert ranks([50.0, 51.0, 10.0], [second, first, rng.normal(10, 1, 1000)], "higher") == [1, 1, 3]


def test_a_rank_counts_who_is_separably_better():
    """The first and the second are not separable, the second and the third are: comparing with the first alone, which is not
    separable from the third either, would give them one rank."""
    steps = np.linspace(-3, 3, 1000)
    values = [10.0, 9.0, 8.0]
    replicates = [10 + steps, 9 + 0 * steps, 8 + 0 * steps]
    assert [lead(replicates[i], replicates[j]) for i, j in ((0, 1), (1, 2), (0, 2))] == [0, 1, 0]
    assert ranks(values, replicates, "higher") == [1, 1, 2]


def test_without_replicates_only_equal_values_share():
    assert ranks([5.0, 7.0, 7.0, 6.9], [None] * 4, "higher") == [4, 1, 1, 3]


def test_replicates_without_a_number_are_no_replicates():
    nothing = np.full(10, np.nan)
    assert lead(nothing, nothing) is None
    assert ranks([1.0, 2.0], [nothing, nothing], "higher") == [2, 1]


def test_ranks_of_many_are_those_of_each_pair():
    rng = np.random.default_rng(0)
    values = rng.normal(50, 2, 12)
    replicates = [value + rng.normal(0, 1, 200 if i % 3 else 100) for i, value in enumerate(values)]
    replicates[4], replicates[7] = None, np.where(rng.random(200) < 0.1, np.nan, replicates[7])
    for direction, sign in (("higher", 1), ("lower", -1)):
        gains = [
            [values[i] - values[j] if (by := lead(replicates[i], replicates[j])) is None else by for j in range(12)]
            for i in range(12)
        ]
        expected = [1 + sum(sign * gains[i][j] < 0 for j in range(12) if j != i) for i in range(12)]
        assert ranks(list(values), replicates, direction) == expected


def test_the_best_of_a_column_beats_something():
    values = pd.DataFrame({"one": [3.0, np.nan], "zeros": [0.01, 0.02], "low": [1.0, 2.0], "tie": [5.0, 5.0]})
    assert best_of(values, "higher", 1).to_numpy().tolist() == [[False] * 4, [False, False, True, False]]
    assert best_of(values, "lower", 1).low.tolist() == [True, False]
    assert best_of(values, "higher", 2).zeros.tolist() == [False, True]
