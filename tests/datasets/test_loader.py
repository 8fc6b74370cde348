"""Loaders: batches in order, and the UserError of a sample instead of torch's traceback."""

from __future__ import annotations

import pytest

from densebench.datasets.io.loader import Batches, Samples, checked, make_loader
from densebench.errors import UserError


class Squares(Samples):
    """Squares of the keys; 3 cannot be read."""

    def sample(self, key):
        if key == 3:
            raise UserError("the image 3.jpg is missing")
        return key**2

    def __len__(self):
        return 6


def test_batches_follow_the_keys():
    keys = Batches(iter([[5, 1], [2]]))
    assert list(checked(make_loader(Squares(), list, 0, pin=False, batch_sampler=keys))) == [[25, 1], [4]]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_of_a_sample_is_raised_as_it_is_after_the_batches_before(workers):
    batches = checked(make_loader(Squares(), list, workers, pin=False, batch_size=2))
    assert next(batches) == [0, 1]
    with pytest.raises(UserError) as caught:
        next(batches)
    assert str(caught.value) == "the image 3.jpg is missing"


def test_a_batch_with_an_error_is_that_error():
    """Processes that work together look at it first, so that all of them stop."""
    batches = list(make_loader(Squares(), sum, 0, pin=False, batch_size=2))
    assert (batches[0], batches[2]) == (1, 41) and isinstance(batches[1], UserError)


def test_an_error_of_ours_is_not_hidden():
    def broken(_samples):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(make_loader(Squares(), broken, 0, pin=False, batch_size=2))
