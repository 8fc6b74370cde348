"""Pictures for looks, made up: blocks of colour, folders of them, and a square that moves through frames."""

from __future__ import annotations

import numpy as np
from PIL import Image

from densebench.looking.opening import InMemory

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 40), (40, 220, 220), (128, 128, 128))


def picture(number=0, width=96, height=64, noise=8):
    """A picture of one colour with a block of another at its own place, and a little noise."""
    rng = np.random.default_rng(number)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = COLOURS[number % len(COLOURS)]
    top, left = height // 8 * (1 + number % 4), width // 8 * (1 + number % 5)
    pixels[top : top + height // 3, left : left + width // 3] = COLOURS[(number + 2) % len(COLOURS)]
    return Image.fromarray((pixels + rng.integers(0, max(1, noise), pixels.shape)).clip(0, 255).astype(np.uint8))


def in_memory(count=4, **options):
    return InMemory(tuple(picture(number, **options) for number in range(count)))


def folder_of(path, count=4, suffix=".png", **options):
    """Write pictures 0.png, 1.png, ... to a folder; their names differ in more than a number."""
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number, **options).save(path / f"{'abcdefghijkl'[number % 12]}{number}{suffix}")
    return path


def film(path, frames=8, width=96, height=64):
    """Write frames 00000.png, ... in which a red square moves to the right on blue noise."""
    path.mkdir(parents=True, exist_ok=True)
    ground = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    ground[..., 2] += 120
    for number in range(frames):
        pixels = ground.copy()
        left = 8 + number * 4
        pixels[24:48, left : left + 24] = (230, 40, 30)
        Image.fromarray(pixels.astype(np.uint8)).save(path / f"{number:05d}.png")
    return path
