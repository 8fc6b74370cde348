"""Colours of classes."""

from __future__ import annotations

from densebench.pictures.palette import distinct_palette, voc_palette


def test_palettes():
    colours = voc_palette(21)
    assert [colours[i] for i in (0, 1, 2, 3, 8, 15, 20)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (64, 0, 0), (192, 128, 128), (0, 64, 128),
    ]  # fmt: skip
    assert voc_palette(256)[255] == (224, 224, 192)
    assert len(set(distinct_palette(171))) == 171
    assert distinct_palette(171)[:11] == distinct_palette(11)
