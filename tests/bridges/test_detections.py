"""What is written of a detector's output: classes of the data set, boxes at the image's original size."""

from __future__ import annotations

import torch
from detector_runs import ALONE, data_of
from drawn_objects import options_of

from densebench.bridges.torchvision.inference import detect, read_detections


class Whole(torch.nn.Module):
    """Finds two objects of the first two classes, torchvision's labels 1 and 2, each the whole image."""

    def forward(self, images):
        height, width = images[0].shape[1:]
        boxes = torch.tensor([[0.0, 0.0, width, height]] * 2)
        return [{"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.1])}]


def test_classes_count_from_0_and_boxes_are_those_of_the_original_image(tmp_path):
    data = data_of(tmp_path)
    sizes = {item.name: data.dataset.image_size(item) for item in data.val}
    found = list(read_detections(detect(Whole(), data, options_of(short_side=48, long_side=80), tmp_path / "run", ALONE)))
    assert [detections.image for detections in found] == list(sizes)
    for detections in found:
        assert detections.classes.tolist() == [0, 1]
        torch.testing.assert_close(
            torch.tensor(detections.boxes[0]), torch.tensor([0.0, 0.0, *sizes[detections.image]]).double(), check_dtype=False
        )
