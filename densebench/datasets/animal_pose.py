"""Animal-Pose: pictures of dogs, cats, sheep, horses and cows with 20 named keypoints, as pairs of two animals of one class.

Cao et al., Cross-Domain Adaptation for Animal Pose Estimation, ICCV 2019. The data set has no pairs. Where a list pairs.csv lies
beside its files, its pairs are taken in its order. Where there is none, they are made, the same on every machine:

1. A picture counts that has exactly one annotated animal.
2. The pictures of a class are put into the order of the SHA-256 of "0 <file name>", on a circle.
3. Each picture in turn is the source, and the next one on the circle the target; then the one after next, and so on.
4. A pair counts that shares at least 3 visible keypoints; no two pictures are paired twice. The first 200 of a class are taken.

Keypoints are whole px from 0, as the files have them. Boxes are xmin, ymin, xmax, ymax, not as COCO has them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from densebench.datasets.animals import Animal, pair_of, shared_parts
from densebench.datasets.dataset import Item, Source
from densebench.datasets.io.names import at, check_name
from densebench.datasets.io.pair_files import box_of, numbers, parsing, read_json, read_table
from densebench.datasets.keypoints import KeypointPairs, Pair
from densebench.errors import UserError

FOLDER = "animal-pose"
PARTS = 20
LEAST, MOST = 3, 200
"""How many keypoints a made pair shares at least, and how many pairs of a class are made at most."""


@dataclass(frozen=True, kw_only=True)
class AnimalPose(KeypointPairs):
    """animal-pose/{keypoints.json,images} as published, with or without a list pairs.csv beside them."""

    name: str = "animal-pose"
    title: str = "Animal-Pose, pairs with keypoints (5 classes)"
    classes: tuple[str, ...] = ("dog", "cat", "sheep", "horse", "cow")
    splits: tuple[str, ...] = ("all",)
    train_split: str = "all"
    val_split: str = "all"
    mapping: str = "animal-pose-v1"
    licence: str = "none stated; pictures of Pascal VOC and others"

    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://github.com/noahcao/animal-pose-dataset",
            gives=(f"{FOLDER}/keypoints.json", f"{FOLDER}/images"),
            by_hand=f"fetch keypoints.json and the folder images of Part I from the drive linked there and put them in {FOLDER}",
        ),
    )

    def list_pairs(self, split: str) -> Iterator[Pair]:
        """Yield the pairs of pairs.csv in its order or, where there is none, those that are made."""
        animals = self._animals()
        listed = self.root / FOLDER / "pairs.csv"
        chosen = self._listed(listed, animals) if listed.exists() else self._made(animals)
        for number, (source, target) in enumerate(chosen, 1):
            yield pair_of(f"{number:04}-{source.item.name}-{target.item.name}", source, target, source.species)

    def _listed(self, path: Path, animals: dict[str, Animal]) -> Iterator[tuple[Animal, Animal]]:
        """Yield the animals of each row. Raises UserError where the list and the keypoints say different things."""
        for number, row in read_table(path, ("source", "target", "class"), "fetch it again"):
            where = at(path, number)
            for column in ("source", "target"):
                if row[column] not in animals:
                    raise UserError(
                        f"{where} names {row[column]!r}, in which keypoints.json has not one animal; fetch both again"
                    )
            source, target = animals[row["source"]], animals[row["target"]]
            if {source.species, target.species} != {row["class"]}:
                found = f"a {source.species} and a {target.species}"
                raise UserError(f"{where} has the class {row['class']!r}, keypoints.json {found}; fetch both again")
            shared = str(len(shared_parts(source, target)))
            if row.get("shared_keypoints", shared) != shared:
                raise UserError(
                    f"{where} has {row['shared_keypoints']!r} shared keypoints, keypoints.json {shared}; fetch both again"
                )
            yield source, target

    def _made(self, animals: dict[str, Animal]) -> Iterator[tuple[Animal, Animal]]:
        for category in self.classes:
            circle = sorted((each for each in animals.values() if each.species == category), key=_place)
            steps = ((first, step) for step in range(1, len(circle) // 2 + 1) for first in range(len(circle)))
            taken: set[frozenset[int]] = set()
            for first, step in steps:
                second = (first + step) % len(circle)
                source, target, both = circle[first], circle[second], frozenset((first, second))
                if len(taken) < MOST and both not in taken and len(shared_parts(source, target)) >= LEAST:
                    taken.add(both)
                    yield source, target

    def _animals(self) -> dict[str, Animal]:
        """Return file name -> the animal of every picture that has one."""
        path = self.root / FOLDER / "keypoints.json"
        content = read_json(path, self.remedy)
        with parsing(f"{path} is no file of Animal-Pose", "fetch it again"):
            categories = {entry["id"]: entry["name"] for entry in content["categories"]}
            if strange := sorted(set(map(str, categories.values())) - set(self.classes)):
                raise ValueError(f"it has the category {strange[0]!r}, which is none of {', '.join(self.classes)}")
            names = {int(key): check_name(name, f"{path}, images,") for key, name in content["images"].items()}
            found: dict[str, list[Animal]] = {}
            for entry in content["annotations"]:
                animal = self._animal(names[entry["image_id"]], categories[entry["category_id"]], entry)
                found.setdefault(names[entry["image_id"]], []).append(animal)
        return {name: animals[0] for name, animals in found.items() if len(animals) == 1}

    def _animal(self, name: str, category: str, entry: Any) -> Animal:
        where = f"an animal of {name}"
        rows = np.array([numbers(row, where) for row in entry["keypoints"]])
        if rows.shape != (PARTS, 3):
            raise ValueError(f"{where} has keypoints of shape {rows.shape}, not {PARTS} of x, y, visible")
        if strange := set(rows[:, 2].tolist()) - {0, 1}:
            raise ValueError(f"{where} has a keypoint of visibility {strange.pop():g}, not 0 or 1")
        path = self.root / FOLDER / "images" / name
        box = box_of(entry["bbox"], where)
        return Animal(Item(path.stem, path, None), category, "", rows[:, :2], rows[:, 2].astype(np.int64), box)


def _place(animal: Animal) -> bytes:
    assert animal.item.image is not None
    return hashlib.sha256(f"0 {animal.item.image.name}".encode()).digest()
