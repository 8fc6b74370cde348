"""AP-10K as pairs of animals with keypoints: of one species, of two species of a family, of two families.

Yu et al., AP-10K: A Benchmark for Animal Pose Estimation in the Wild, NeurIPS 2021; as a benchmark of correspondence in Zhang et
al., Telling Left from Right (GeoAware-SC), CVPR 2024, whose notebook makes the files that are read here. The three annotation
files of the first split are merged, and the first animal of each picture counts. 17 keypoints with a flag: 2 visible, 1 annotated
though hidden, 0 absent. Those flagged 1 count with the place that the file gives; GeoAware-SC multiplies it by a half. Boxes are
left, top, width and height in the file.

Where PairAnnotation/<split> is there, its pairs are taken, by name. They were drawn from folders in the order of a file system,
so they cannot be made again. Otherwise pairs are made by the same rules and without chance, to be compared only with each other:

1. Pictures that the list of crowds names, and animals with fewer than 3 keypoints, are left out.
2. Of the pictures of a species by number, the last 30 are test and the 20 before these val.
3. A pair counts where the sum over the parts of the product of both flags / 2 is at least 3.
4. Of one species: all pairs, the lower number first. Of a family with several species: 900 (val: 400), and of two families: 30
   (val: 20), evenly spaced among all by number, every other one in the opposite direction.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np

from densebench.datasets.animals import Animal, pair_of
from densebench.datasets.dataset import Item, Source, limited
from densebench.datasets.io.names import at, check_name, read_lines
from densebench.datasets.io.pair_files import box_of, numbers, parsing, read_json
from densebench.datasets.keypoints import KeypointPairs, Pair
from densebench.errors import UserError

FOLDER = "ap-10k"
CROWD = "ap-10k_is_crowd.txt"
SPECIES = (
    "alouatta|antelope|argali sheep|beaver|bison|black bear|bobcat|brown bear|buffalo|cat|cheetah|chimpanzee|cow|deer|"
    "dog|elephant|fox|giraffe|gorilla|hamster|hippo|horse|jaguar|king cheetah|leopard|lion|marmot|monkey|moose|mouse|"
    "noisy night monkey|otter|panda|panther|pig|polar bear|rabbit|raccoon|rat|rhino|sheep|skunk|snow leopard|"
    "spider monkey|squirrel|tiger|uakari|weasel|wolf|zebra"
)
PARTS, LEAST = 17, 3
DIGITS = 18  # at most, of the number of a picture
COUNTS = {"test": (30, 900, 30), "val": (20, 400, 20)}
"""Pictures of a species, pairs of a family and pairs of two families."""
Two = tuple[Animal, Animal, str]


@dataclass(frozen=True, kw_only=True)
class Ap10k(KeypointPairs):
    """ap-10k/annotations/ap10k-{train,val,test}-split1.json with ap-10k/data, or after the notebook with ap-10k/JPEGImages.

    Pairs are in ap-10k/PairAnnotation, or are made with ap-10k_is_crowd.txt in ap-10k or beside it.
    """

    name: str = "ap10k"
    title: str = "AP-10K, pairs with keypoints (50 species)"
    classes: tuple[str, ...] = tuple(SPECIES.split("|"))
    splits: tuple[str, ...] = tuple(f"{split}{across}" for split in COUNTS for across in ("", "_cross_species", "_cross_family"))
    train_split: str = "test"
    val_split: str = "test"
    mapping: str = "ap10k-v1"
    licence: str = "CC BY 4.0"

    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://github.com/AlexTheBad/AP-10K",
            gives=(f"{FOLDER}/annotations/ap10k-test-split1.json",),
            by_hand=f"fetch ap-10k.zip from the drive linked there and unpack it in the data root, so that {FOLDER}/data exists",
        ),
        Source(
            url="https://github.com/Junyi42/GeoAware-SC",
            gives=(f"{FOLDER}/PairAnnotation",),
            by_hand=(
                f"run prepare_ap10k.ipynb of this repository on {FOLDER}, or copy the authors' PairAnnotation into it; "
                f"without these, put its data/{CROWD} into {FOLDER}, and pairs are made that compare with no published number"
            ),
        ),
    )

    def list_pairs(self, split: str) -> Iterator[Pair]:
        """Yield the pairs of the authors' files by name or, where there are none, those that are made."""
        animals = self._animals()
        folder = self._authors(split)
        chosen = self._listed(folder, animals) if folder.is_dir() else self._made(split, animals)
        for number, (source, target, category) in enumerate(chosen, 1):
            for animal in (source, target):
                if animal.stated is not None:
                    self.check_stated_size(animal.item, animal.stated, self.root / FOLDER / "annotations")
            ids = "-".join(PurePath(animal.item.name).name for animal in (source, target))
            yield pair_of(f"{number:06}-{ids}", source, target, category)

    def extent(self, split: str, limit: int | None) -> dict[str, Any]:
        """Return what `KeypointPairs.extent` does, and whose pairs they are."""
        return {**super().extent(split, limit), "lists": "the authors'" if self._authors(split).is_dir() else "made"}

    def _authors(self, split: str) -> Path:
        return self.root / FOLDER / "PairAnnotation" / split

    def _listed(self, folder: Path, animals: dict[int, Animal]) -> Iterator[Two]:
        for path in sorted(folder.glob("*.json"), key=lambda path: path.name):
            content = read_json(path, self.remedy)
            with parsing(f"{path} is no pair of AP-10K", "fetch it again"):
                ids = [int(PurePath(content[key]).stem) for key in ("src_json_path", "trg_json_path")]
                if strange := [each for each in ids if each not in animals]:
                    raise ValueError(f"it names the picture {strange[0]}, which the annotations lack")
            yield animals[ids[0]], animals[ids[1]], path.stem.rpartition(":")[2]

    def _made(self, split: str, animals: dict[int, Animal]) -> Iterator[Two]:
        """Yield pairs by the rules above."""
        base, _, across = split.partition("_cross_")
        _, of_family, of_two_families = COUNTS[base]
        species = self._species(base, animals)
        families: dict[str, list[list[Animal]]] = {}
        for group in species.values():
            families.setdefault(group[0].family, []).append(group)
        if across == "species":
            for family in sorted(families):
                couples = itertools.combinations(families[family], 2)
                yield from _spaced([two for one, other in couples for two in _matching(one, other)], of_family, family)
        elif across == "family":
            for one, other in itertools.combinations(sorted(families), 2):
                groups = [list(itertools.chain(*families[family])) for family in (one, other)]
                yield from _spaced(_matching(*groups), of_two_families, "all")
        else:
            for name, group in species.items():
                order = {animal.item: number for number, animal in enumerate(group)}
                matching = (two for two in _matching(group, group) if order[two[0].item] < order[two[1].item])
                yield from ((*two, name) for two in matching)

    def _species(self, split: str, animals: dict[int, Animal]) -> dict[str, list[Animal]]:
        """Return the animals of test or val by number, for each species that has any, by name."""
        places = (self.root / FOLDER / CROWD, self.root / CROWD)
        path = next((place for place in places if place.exists()), places[0])
        crowds = {_number(line, at(path, number)) for number, line in read_lines(path, self.remedy)}
        groups: dict[str, list[Animal]] = {}
        for number, animal in animals.items():
            if number not in crowds and (animal.flags > 0).sum() >= LEAST:
                groups.setdefault(animal.species, []).append(animal)
        test, val = COUNTS["test"][0], COUNTS["val"][0]
        cut = {"test": slice(-test, None), "val": slice(-test - val, -test)}[split]
        return {name: groups[name][cut] for name in sorted(groups) if groups[name][cut]}

    def _animals(self) -> dict[int, Animal]:
        """Return number of a picture -> its first animal, by number."""
        found: dict[int, Animal] = {}
        for part in ("train", "test", "val"):
            path = self.root / FOLDER / "annotations" / f"ap10k-{part}-split1.json"
            content = read_json(path, self.remedy)
            with parsing(f"{path} is no file of AP-10K", "fetch it again"):
                images = {image["id"]: image for image in content["images"]}
                categories = {category["id"]: category for category in content["categories"]}
                for entry in content["annotations"]:
                    number = entry["image_id"]
                    if number not in found:
                        found[number] = self._animal(images[number], categories[entry["category_id"]], entry, path)
        return dict(sorted(found.items()))

    def _animal(self, image: Any, category: Any, entry: Any, path: Path) -> Animal:
        where = f"the animal of picture {image['id']}"
        rows = numbers(entry["keypoints"], where).reshape(-1, 3)
        if len(rows) != PARTS or not np.isin(rows[:, 2], (0, 1, 2)).all():
            raise ValueError(f"{where} has keypoints that are not {PARTS} of x, y and a flag of 0, 1 or 2")
        names = [check_name(category[key], f"{path}, categories,") for key in ("name", "supercategory")]
        file = check_name(image["file_name"], f"{path}, images,")
        folder = self.root / FOLDER / "JPEGImages" / names[1] / names[0]
        item = Item(PurePath(file).stem, (folder if folder.is_dir() else self.root / FOLDER / "data") / file, None)
        left, top, width, height = box_of(entry["bbox"], where)
        box = (left, top, left + width, top + height)
        flags, stated = rows[:, 2].astype(np.int64), (image["width"], image["height"])
        return Animal(item, names[0], names[1], rows[:, :2], flags, box, stated)


def _matching(one: Sequence[Animal], other: Sequence[Animal]) -> list[tuple[Animal, Animal]]:
    """Return the pairs of an animal of each group that share enough keypoints, ordered by both."""
    flags = [np.array([animal.flags for animal in group]).reshape(-1, PARTS) for group in (one, other)]
    return [(one[row], other[column]) for row, column in np.argwhere(flags[0] @ flags[1].T >= 4 * LEAST).tolist()]


def _spaced(pairs: list[tuple[Animal, Animal]], count: int, category: str) -> Iterator[Two]:
    """Yield at most so many pairs, evenly spaced, every other one in the opposite direction."""
    for number, (source, target) in enumerate(limited(pairs, count)):
        yield (target, source, category) if number % 2 else (source, target, category)


def _number(line: str, where: str) -> int:
    if not line.isdecimal() or len(line) > DIGITS:
        raise UserError(f"{where} is {line[:40]!r}, not the number of a picture; fetch the list again")
    return int(line)
