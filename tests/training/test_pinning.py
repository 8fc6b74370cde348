"""Page-locked memory: every loader whose batches go to a GPU asks for it, no other does, and its batches can be locked."""

from __future__ import annotations

import pytest
import torch
from drawn_maps import data_of
from drawn_maps import setup_of as segmentation
from drawn_objects import Drawn
from drawn_objects import options_of as detection
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from densebench.backbones.loading import load_backbone
from densebench.bridges.mmsegmentation import data as maps
from densebench.bridges.torchvision import data as boxes
from densebench.bridges.torchvision.options import Data
from densebench.datasets import load_dataset
from densebench.evals.linear import probes as linear_probes
from densebench.evals.vos import frames as vos_frames
from densebench.evaluation.labels import LabelSpace
from densebench.features import extract as features
from densebench.features.views import View
from densebench.processes import World


class Asked(Exception):
    """Instead of batches: whether a loader was to pin them, and the first one."""


@pytest.fixture(autouse=True)
def loaders(monkeypatch):
    def spy(*arguments, pin_memory=False, **more):
        raise Asked(pin_memory, next(iter(DataLoader(*arguments, **more))))

    monkeypatch.setattr("densebench.datasets.io.loader.Loader", spy)
    monkeypatch.setattr(linear_probes, "resolve_device", torch.device)


def extracting(device, _):
    dataset = load_dataset("scenes")
    features.extract(load_backbone("pixels:16"), dataset, dataset.part("val", 2), View(16, 32), device=device, batch_size=2)


def probing(device, _):
    dataset, view = load_dataset("scenes"), View(16, 32)
    options = linear_probes.LinearProbes(device=device, batch_size=2, workers=0, mask_size=32)
    source = linear_probes.Source(options, load_backbone("pixels:16"), LabelSpace(dataset, "drop", "drop"), view, [], [], None)
    next(source.load([(item, view) for item in dataset.part("train", 2)]))


def tracking(device, folder):
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / "480p" / "ant").mkdir(parents=True)
        Image.new("RGB" if kind == "JPEGImages" else "L", (32, 32)).save(folder / kind / "480p" / "ant" / "00000.png")
    videos = load_dataset(f"frames:{folder}")
    items = videos.part(next(iter(videos.splits)), None)
    next(vos_frames.steps(videos, [items], (32, 32), "bicubic", 0, pin=device == "cuda"))


def training_a_detector(device, folder):
    data = Data(dataset := Drawn(root=folder), dataset.part("train", None), [])
    next(boxes.training_batches(data, detection(), World(0, 1, torch.device(device)), 0, 0))


def training_a_segmentor(device, _):
    maps.training_loader(data_of({"train0": (32, 32)}), segmentation(train_batch=2), World(0, 1, torch.device(device)), 0, 0)


def scoring_a_segmentor(device, _):
    maps.scoring_loader(data_of({"train0": (32, 32), "val0": (32, 32)}), segmentation(), World(0, 1, torch.device(device)), 0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("work", [extracting, probing, tracking, training_a_detector, training_a_segmentor, scoring_a_segmentor])
def test_what_goes_to_a_gpu_is_page_locked(work, device, tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    with pytest.raises(Asked) as asked:
        work(device, tmp_path)
    pin, batch = asked.value.args
    assert pin == (device == "cuda")
    pin_memory(batch)
    assert pinned
