"""Memory of batches: every loader says how much a batch takes, and asks for page-locked memory where it goes to a GPU."""

from __future__ import annotations

import io
import pickle

import numpy as np
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
from densebench.datasets.io.shared_memory import Transport
from densebench.evals.linear import batches
from densebench.evals.linear.probes import LinearProbes
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
        more |= {"num_workers": 0, "prefetch_factor": None}
        raise Asked(pin_memory, next(iter(DataLoader(*arguments, **more))))

    monkeypatch.setattr("densebench.datasets.io.loader.Loader", spy)
    monkeypatch.setattr(batches, "resolve_device", torch.device)


def extracting(device, _):
    dataset = load_dataset("scenes")
    features.extract(load_backbone("pixels:16"), dataset, dataset.part("val", 2), View(16, 32), device=device, batch_size=2)


def probing(device, _):
    dataset, view = load_dataset("scenes"), View(16, 32)
    options = LinearProbes(device=device, batch_size=2, workers=0, mask_size=32)
    source = batches.Source(options, load_backbone("pixels:16"), LabelSpace(dataset, "drop", "drop"), view, [], [], None)
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


def settling_a_detector(device, folder):
    data = Data(dataset := Drawn(root=folder), dataset.part("train", None), [])
    next(boxes.settling_batches(data, detection(), 0, device == "cuda"))


def scoring_with_a_detector(device, folder):
    data = Data(dataset := Drawn(root=folder), [], dataset.part("val", None))
    next(boxes.scoring_images(data, detection(), [0], 0, device == "cuda"))


def training_a_segmentor(device, _):
    maps.training_loader(data_of({"train0": (32, 32)}), segmentation(train_batch=2), World(0, 1, torch.device(device)), 0, 0)


def scoring_a_segmentor(device, _):
    maps.scoring_loader(data_of({"train0": (32, 32), "val0": (32, 32)}), segmentation(), World(0, 1, torch.device(device)), 0)


OF_DETECTORS = [training_a_detector, settling_a_detector, scoring_with_a_detector]
WORK = [extracting, probing, tracking, *OF_DETECTORS, training_a_segmentor, scoring_a_segmentor]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("work", WORK)
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


class Weighed(pickle.Pickler):
    """Adds up the bytes of all tensors and arrays in a value."""

    def __init__(self, value):
        super().__init__(io.BytesIO())
        self.bytes = 0
        self.dump(value)

    def reducer_override(self, value):
        if isinstance(value, torch.Tensor | np.ndarray):
            self.bytes += value.nbytes
            return bytes, ()
        return NotImplemented


@pytest.mark.parametrize("work", WORK)
def test_a_loader_knows_how_much_memory_a_batch_takes(work, tmp_path, monkeypatch):
    """So that the batches that wait in the shared memory are bounded."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("densebench.datasets.io.loader.usable", lambda *_: (2, False))
    monkeypatch.setattr("densebench.datasets.io.loader.worker_context", lambda *_: None)
    told = []
    monkeypatch.setattr("densebench.datasets.io.loader.transport", lambda size, *_: told.append(size) or Transport(2))
    with pytest.raises(Asked) as asked:
        work("cpu", tmp_path)
    [size], (_, batch) = told, asked.value.args
    assert Weighed(batch).bytes <= size + 2000 < 6 * Weighed(batch).bytes
