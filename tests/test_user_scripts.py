"""The scripts of the page on three users, run as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from densebench.datasets import load_dataset

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
pytestmark = pytest.mark.slow


def run(script, *arguments, folder) -> str:
    """Return what a script prints on stdout; it must succeed."""
    environment = {**os.environ, "DENSEBENCH_CACHE": str(folder / "cache"), "MPLBACKEND": "agg"}
    command = [sys.executable, EXAMPLES / script, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_own_vit_is_followed_while_it_learns_and_stands_in_a_table(tmp_path):
    printed = run("own_vit.py", folder=tmp_path)
    values = [float(value) for value in re.findall(r"^step \d+: ([\d.]+) % mIoU$", printed, re.MULTILINE)]
    assert len(values) == 4 and max(values[1:]) > values[0] + 5
    assert re.search(r"^masked ViT on scenes \(64 images\), incontext/hummingbird v1", printed, re.MULTILINE)
    assert len(re.findall(r"^\| \d \| (?:masked ViT|pixels:16|random:test_vit) \|", printed, re.MULTILINE)) == 3


def test_own_photographs_compare_two_backbones(tmp_path):
    scenes = load_dataset("scenes")
    for folder in ("images", "masks"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
    for number, item in enumerate(scenes.items("val")[:16]):
        scenes.image(item).save(tmp_path / "photos" / "images" / f"{number}.jpg")
        if number < 12:  # the others have none
            Image.fromarray(scenes.label(item)).save(tmp_path / "photos" / "masks" / f"{number}.png")
    printed = run("own_photos.py", "photos?val=0.5", "a ViT=random:test_vit=", "pixels=pixels:16=", folder=tmp_path)
    assert printed.startswith("classes: class 0, class 1")
    assert "a ViT on " in printed and "pixels on " in printed
    assert (tmp_path / "photographs.png").stat().st_size > 1000
