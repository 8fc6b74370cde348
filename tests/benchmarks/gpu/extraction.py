"""Feature extraction from end to end, JPEG files to features on disk, beside the forward pass alone; the loader of training."""

from __future__ import annotations

import os

import torch
from photos import labelled, photos
from timing import precision, seconds, settle

from densebench import catalog, load_backbone, load_dataset, options
from densebench.datasets.images import Joined
from densebench.datasets.unlabelled import open_images
from densebench.features.extract import extract
from densebench.features.views import View
from densebench.torchvision_ops import make_importable
from densebench.training.batches import Order, Reader, load_batches

ARCH = "vit_small_patch16_224"


def features(bench):
    forward(bench)
    os.environ["DENSEBENCH_CACHE"] = str(bench.folder / "cache")
    backbone = load_backbone(f"random:{bench.size(ARCH, 'test_vit')}")
    data = load_dataset(labelled(bench.folder / "labelled", bench.size(1024, 8)))
    items, view = data.part(data.train_split, None), View(backbone.stride, bench.size(512, 64))
    for kind, expected in (("bf16", 900), ("fp32", 700)):
        for workers in (bench.size(16, 0),):
            each = seconds(
                bench, lambda kind=kind, workers=workers: _extracted(bench, backbone, data, items, view, kind, workers), 1, 0
            )
            what = f"{len(items)} JPEG files to features, {view.size} px, {kind}, {workers} workers"
            bench.add("features", what, len(items) / each, "images/s", expected)


def forward(bench):
    """The forward pass alone, by precision and batch size."""
    make_importable()
    import timm

    size = bench.size(512, 160)
    network = timm.create_model(bench.size(ARCH, "test_vit"), img_size=size, num_classes=0).to(bench.device).eval()
    for kind, setting, dtype, expected in (
        ("fp32", "highest", None, 700),
        ("tf32", "high", None, 2500),
        ("bf16", "highest", torch.bfloat16, 5000),
    ):
        batch = bench.size(128, 4)
        images = torch.randn(batch, 3, size, size, device=bench.device)

        def once(images=images, dtype=dtype):
            with torch.inference_mode(), torch.autocast(bench.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                network.forward_features(images)

        with precision(setting):
            bench.add(
                "features",
                f"forward pass alone, {size} px, {kind}, batch {batch}",
                batch / seconds(bench, once, 3, 1),
                "images/s",
                expected,
            )


def loading(bench):
    one = open_images([str(photos(bench.folder / "photos", bench.size(64, 8)))])
    images = Joined("photos", (one,) * bench.size(400, 2))
    kind = catalog.load("methods", "dino")
    chosen = options.build(kind, dict(kind.presets["coco"]), {})
    for workers in (bench.size(15, 0),):
        order = Order(len(images), bench.size(256, 4), 0)
        batches = load_batches(Reader(images, chosen.views(), 0), order.micro_batches(0, bench.size(60, 3)), workers, bench.cuda)
        for _ in range(bench.size(20, 1)):  # more than were decoded ahead
            batch = next(batches)
        each = seconds(bench, lambda batches=batches: next(batches), bench.size(20, 1), 0)
        bench.add("loader", f"decode and collate for dino, {workers} workers", len(batch.numbers) / each, "images/s", 2700)
        each = seconds(bench, lambda batch=batch: batch.on(bench.device, chosen.views()), 3, 1)
        bench.add("loader", "one batch to the device", each * 1e3, "ms", 8)


def _extracted(bench, backbone, data, items, view, kind, workers):
    extract(backbone, data, items, view, precision=kind, device=bench.device, batch_size=bench.size(64, 4), workers=workers)
    settle(bench)
