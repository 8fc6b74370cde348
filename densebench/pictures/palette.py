"""Colours of classes, for pictures only."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]


def voc_palette(count: int) -> list[Colour]:
    """Return the colour map of the VOC development kit: three bits of an id at a time fill R, G and B from the top bit down."""
    colours = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((channels[0], channels[1], channels[2]))
    return colours


def distinct_palette(count: int) -> list[Colour]:
    """Return colours that stay distinct for any count: hues step by the golden ratio, lightness and saturation alternate."""
    colours = []
    for index in range(count):
        lightness, saturation = (0.45, 0.65, 0.3)[index % 3], (0.9, 0.6)[index // 3 % 2]
        red, green, blue = colorsys.hls_to_rgb(index * 0.6180339887498949 % 1.0, lightness, saturation)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours
