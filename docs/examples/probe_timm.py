"""The epochs of timm's train.py, with a probe of the averaged weights; the two lines to add there are marked with ###."""

from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

import densebench


def train_one_epoch(model: Any, batches: Any, optimizer: Any, model_ema: Any) -> None:
    model.train()
    for images, labels in batches:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model_ema.update(model)


def main(num_epochs: int = 6, folder: str = "probed", **options: Any) -> densebench.Probe:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64, num_classes=10)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    lr_scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=num_epochs)
    model_ema = ModelEmaV3(model, decay=0.9)
    batches = [(torch.randn(8, 3, 64, 64), torch.randint(10, (8,))) for _ in range(4)]  # your loader

    probe = densebench.Probe("scenes", "incontext", every=2, limit=32, folder=folder, **options)  ###
    for epoch in range(num_epochs):
        train_one_epoch(model, batches, optimizer, model_ema)
        score = probe(model_ema, epoch)  ###
        if score is not None:
            print(f"epoch {epoch}: {score:.2f} % mIoU")
        lr_scheduler.step(epoch + 1)
    return probe


if __name__ == "__main__":
    main()
