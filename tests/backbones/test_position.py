"""Position tables: three conventions, by hand, against timm, and that order and prefix survive."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.backbones.position import CONVENTIONS, check_convention, convention_of, resize_position_embedding
from densebench.errors import UserError
from densebench.torchvision_ops import make_importable

make_importable()


def table(native=6, prefix=1, width=5, seed=0):
    return torch.randn(1, prefix + native * native, width, generator=torch.Generator().manual_seed(seed))


def cubic(x, a=-0.75):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def naive(line, size, scale):
    """Bicubic resampling of a line of numbers without antialiasing: Keys' kernel, borders repeated."""
    result = []
    for i in range(size):
        x = (i + 0.5) / scale - 0.5
        base = int(torch.tensor(x).floor())
        near = range(base - 1, base + 3)
        result.append(sum(cubic(x - j) * line[min(max(j, 0), len(line) - 1)] for j in near))
    return torch.tensor(result)


@pytest.mark.parametrize(("convention", "extra"), [("plain", 0.0), ("offset", 0.1)])
@pytest.mark.parametrize("size", [4, 9, 11])
def test_along_one_axis_it_is_the_cubic_by_hand(convention, extra, size):
    line = torch.randn(6, generator=torch.Generator().manual_seed(1))
    rows = line[:, None].expand(6, 6).reshape(1, 36, 1)
    found = resize_position_embedding(rows, 0, (size, 7), convention).view(size, 7)
    scale = (size + extra) / 6
    torch.testing.assert_close(found, naive(line.tolist(), size, scale)[:, None].expand(size, 7), atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2))
def test_antialias_is_timms(height, width, prefix):
    from timm.layers import resample_abs_pos_embed

    own = table(prefix=prefix)
    expected = resample_abs_pos_embed(own, new_size=[height, width], num_prefix_tokens=prefix)
    torch.testing.assert_close(resize_position_embedding(own, prefix, (height, width), "antialias"), expected)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_prefix_and_native_grid_stay(convention):
    own = table(prefix=2)
    assert resize_position_embedding(own, 2, (6, 6), convention) is own
    assert torch.equal(resize_position_embedding(own, 2, (3, 8), convention)[:, :2], own[:, :2])


def test_conventions_differ():
    found = {name: resize_position_embedding(table(), 1, (4, 4), name) for name in CONVENTIONS}
    assert not torch.allclose(found["plain"], found["antialias"], atol=0.05)
    assert not torch.allclose(found["plain"], found["offset"], atol=1e-3)


def test_a_table_that_is_not_square_is_told():
    with pytest.raises(UserError, match="12 patches is not square"):
        resize_position_embedding(torch.zeros(1, 13, 4), 1, (2, 2), "plain")


def test_an_unknown_convention_is_told():
    with pytest.raises(UserError, match="did you mean 'offset'"):
        resize_position_embedding(table(), 1, (4, 4), "ofset")


def test_a_table_without_patches_is_told():
    with pytest.raises(UserError, match="0 patches"):
        resize_position_embedding(table(native=0), 1, (4, 4), "plain")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_rows_come_before_columns(convention):
    columns = torch.arange(6.0)[None, :].expand(6, 6).reshape(1, 36, 1)  # the same in every row
    found = resize_position_embedding(columns, 0, (4, 9), convention).view(4, 9)
    torch.testing.assert_close(found, found[:1].expand(4, 9))
    assert (found[0].diff() > 0).all()


@pytest.mark.parametrize("name", ["ibot", "croc", "cribo", "leopart", "neco"])
def test_the_family_of_dino_shares_its_convention(name):
    assert convention_of(name) == "offset"


def test_origins():
    origins = ("dino", "dinov2", "flsl", "mae", "dinov2-exported", "dinov2-reg", "timm", "?")
    expected = ["offset", "offset", "offset", "plain", "plain", "antialias", "antialias", "antialias"]
    assert [convention_of(name) for name in origins] == expected
    with pytest.raises(UserError, match="did you mean 'plain'"):
        check_convention("plane")
