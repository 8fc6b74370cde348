"""Run folders made by hand, as a training leaves them: request, log, pictures, probes."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

RUN = {
    "schema": 1, "method": "cribo", "preset": "tiny", "variant": "official", "init": None, "weights": None, "seed": 0,
    "settings": {"batch_size": 16, "epochs": 4, "steps": None, "image_weight": 1.0, "out_dim": 256},
    "runtime": {"probe": "scenes:8", "visualise": 2},
    "data": {"specs": ["scenes"], "root": None, "limit": None, "name": "scenes", "images": 128, "digest": "0" * 16},
    "command": "densebench pretrain cribo --data scenes",
}  # fmt: skip
LOG = (
    "step,epoch,loss,image,bootstrapping_ratio,lr,images_per_second,probe_miou\n"
    "8,1,9.5,4.5,0.1,0.001,50,\n8,1,,,,,,20.5\n16,2,8.5,4,0.2,0.002,40,\n16,2,,,,,,30.25\n24,3,7.5,3.5,0.4,0.001,40,\n24,3,,,,,,25\n"
)


def made(folder: Path, log: str | None = LOG, run: object = RUN, pictures: tuple[str, ...] = (), finished: bool = False) -> Path:
    """Return a run folder with these files; None leaves a file out. pictures: names of files, each of another colour."""
    folder.mkdir(parents=True, exist_ok=True)
    if run is not None:
        (folder / "run.json").write_text(run if isinstance(run, str) else json.dumps(run), encoding="utf-8")
    if log is not None:
        (folder / "log.csv").write_text(log, encoding="utf-8")
    for number, name in enumerate(pictures):
        (folder / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (40, 20), (number * 60 % 256, 100, 200)).save(folder / "pictures" / name)
    if finished:
        facts = {"format": 1, "finished": True, "arch": "test_vit", "image_size": 96}
        (folder / "checkpoint.json").write_text(json.dumps(facts))
    return folder
