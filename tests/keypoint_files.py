"""Made-up files of data sets of pairs with keypoints, each in its official layout, and the guess that needs no features."""

from __future__ import annotations

import json

import numpy as np
from dataset_files import save_image, save_text

PF_HEAD = "source_image,target_image,class,XA,YA,XB,YB"
PARTS = {"animal-pose": 20, "ap10k": 17}


def said(error):
    """Return an error for people: one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def hits(dataset, split, alpha):
    """Count the keypoints for which the target's own place of the source's keypoint is right: <= alpha x the longer side."""
    count = 0
    for pair in dataset.pairs(split):
        (ws, hs), (wt, ht) = dataset.image_size(pair.source), dataset.image_size(pair.target)
        left, top, right, bottom = pair.target_box or (0, 0, wt, ht)
        guess = pair.source_points * [wt / ws, ht / hs]
        count += (np.hypot(*(guess - pair.target_points).T) <= alpha * max(right - left, bottom - top)).sum()
    return int(count)


def pf_row(source="a", target="b", number=8, points=("1;2", "3;4", "5;6", "7;8")):
    """One row of PF-PASCAL's list of test pairs."""
    paths = [f"PF-dataset-PASCAL/JPEGImages/{name}.jpg" for name in (source, target)]
    return ",".join([*paths, str(number), *points])


def write_pf_pascal(folder, rows, place="image_pairs/test_pairs.csv", sizes=(("a", (300, 200)), ("b", (150, 300)))):
    """Write a list of test pairs and the pictures, `sizes` being width and height."""
    save_text(folder / place, "\n".join([PF_HEAD, *rows]) + "\n")
    for name, (width, height) in sizes:
        save_image(folder / "PF-dataset-PASCAL" / "JPEGImages" / f"{name}.jpg", height, width)


def spair_pair(source="2008_1", target="2009_2", category="cat", **changed):
    """One pair of SPair-71k, as its file has it."""
    return {
        "filename": f"000001-{source}-{target}:{category}", "src_imname": f"{source}.jpg", "trg_imname": f"{target}.jpg",
        "src_imsize": [60, 40, 3], "trg_imsize": [30, 50, 3], "src_bndbox": [1, 2, 50, 30], "trg_bndbox": [3, 4, 20, 45],
        "category": category, "src_kps": [[5, 6], [7, 8]], "trg_kps": [[9, 10], [11, 12]], "kps_ids": ["3", "12"],
        "mirror": 0, "viewpoint_variation": 2, "scale_variation": 1, "truncation": 3, "occlusion": 0, **changed,
    }  # fmt: skip


def write_spair(root, split="test", layout=True, **pairs):
    """Write pairs, by name, and their pictures. Returns the names: a number, the two pictures and the class."""
    folder = root / "SPair-71k"
    names = []
    for content in pairs.values():
        names.append(content["filename"])
        save_text(folder / "PairAnnotation" / split / f"{names[-1]}.json", json.dumps(content))
        for side in ("src", "trg"):
            width, height = (60, 40) if side == "src" else (30, 50)
            save_image(folder / "JPEGImages" / content["category"] / str(content[f"{side}_imname"]), height, width)
    if layout:
        save_text(folder / "Layout" / "large" / f"{split}.txt", "".join(f"{name}\n" for name in reversed(names)))
    return sorted(names)


def animal(image, category=1, flags=None, data="animal-pose", **changed):
    """One annotated animal: part i lies at (image + i, i)."""
    flags = [1] * PARTS[data] if flags is None else flags
    rows = [[image + part, part, flag] for part, flag in enumerate(flags)]
    keypoints = rows if data == "animal-pose" else [value for row in rows for value in row]
    return {"image_id": image, "category_id": category, "bbox": [2, 3, 32, 23], "keypoints": keypoints, **changed}


def write_animal_pose(root, animals, pairs=None):
    """Write keypoints.json, the pictures, 40 x 30 px, and pairs.csv where pairs are given."""
    folder = root / "animal-pose"
    numbers = sorted({each["image_id"] for each in animals})
    names = ["dog", "cat", "sheep", "horse", "cow"]
    content = {
        "images": {str(number): f"{number}.jpg" for number in numbers},
        "annotations": animals,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    save_text(folder / "keypoints.json", json.dumps(content))
    for number in numbers:
        save_image(folder / "images" / f"{number}.jpg", 30, 40)
    if pairs is not None:
        save_text(folder / "pairs.csv", "source,target,class,shared_keypoints\n" + "".join(f"{row}\n" for row in pairs))


def write_ap10k(root, animals, species=(("cat", "Felidae"), ("lion", "Felidae"), ("dog", "Canidae")), crowd=""):
    """Write the three annotation files, the animals dealt out to them in turn, the pictures and the list of crowds."""
    folder = root / "ap-10k"
    categories = [{"id": number, "name": name, "supercategory": family} for number, (name, family) in enumerate(species, 1)]
    for part, name in enumerate(("train", "val", "test")):
        chosen = [each for each in animals if each["image_id"] % 3 == part]
        images = [
            {"id": number, "file_name": f"{number:012}.jpg", "width": 40, "height": 30}
            for number in sorted({each["image_id"] for each in chosen})
        ]
        content = {"images": images, "annotations": chosen, "categories": categories}
        save_text(folder / "annotations" / f"ap10k-{name}-split1.json", json.dumps(content))
        for image in images:
            save_image(folder / "data" / image["file_name"], 30, 40)
    if crowd is not None:
        save_text(folder / "ap-10k_is_crowd.txt", crowd)
