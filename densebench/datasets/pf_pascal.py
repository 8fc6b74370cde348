"""PF-PASCAL: pairs of pictures of one of the 20 classes of Pascal VOC, with corresponding keypoints.

Ham et al., Proposal Flow, CVPR 2016 and TPAMI 2018; the lists of pairs are those of SCNet (Han et al., ICCV 2017) as NCNet keeps
them (Rocco et al., NeurIPS 2018): 299 test, 308 val and 2940 train pairs. Only the test list has keypoints in it, without names;
those of val and train are read from the annotations of the pictures, where they are on disk.

All coordinates are in px of the benchmark's own pictures, whose longer side is 300. Where a picture has another size, because
those of Pascal VOC were put in their place, its keypoints are multiplied by its longer side / 300. There are no boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from densebench.datasets.dataset import Item, Source
from densebench.datasets.io.annotations import reading
from densebench.datasets.io.names import at, check_name
from densebench.datasets.io.pair_files import numbers, parsing, read_table
from densebench.datasets.keypoints import KeypointPairs, Pair
from densebench.datasets.voc import CLASSES
from densebench.errors import UserError
from densebench.files.atomic import check_ordinary

SIDE = 300  # px, the longer side of the pictures in which the coordinates are
FOLDER = "PF-dataset-PASCAL"
LISTS = {"test": ("test",), "val": ("val",), "train": ("train", "trn")}
COORDINATES = ("XA", "YA", "XB", "YB")


@dataclass(frozen=True, kw_only=True)
class PfPascal(KeypointPairs):
    """pf-pascal/image_pairs/{test,val,train}_pairs.csv with pf-pascal/PF-dataset-PASCAL/{JPEGImages,Annotations}.

    The folder pf-pascal may be left out; the lists may lie beside or in PF-dataset-PASCAL, and may be called trn_pairs.csv or
    <split>_pairs_pf_pascal.csv.
    """

    name: str = "pf-pascal"
    title: str = "PF-PASCAL, pairs with keypoints (20 classes)"
    classes: tuple[str, ...] = tuple(CLASSES.split())[1:]
    splits: tuple[str, ...] = ("test", "val", "train")
    train_split: str = "test"
    val_split: str = "test"
    mapping: str = "pf-pascal-v1"
    licence: str = "research, pictures under Flickr's terms of use"

    official_counts: ClassVar[dict[str, int]] = {"test": 506}
    official_pairs: ClassVar[dict[str, int]] = {"test": 299, "val": 308, "train": 2940}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://www.di.ens.fr/willow/research/proposalflow/dataset/PF-dataset-PASCAL.zip",
            gives=(f"pf-pascal/{FOLDER}/JPEGImages",),
            into="pf-pascal",
        ),
        Source(
            url="https://github.com/ignacio-rocco/ncnet/tree/master/datasets/pf-pascal/image_pairs",
            gives=("pf-pascal/image_pairs/test_pairs.csv",),
            by_hand="fetch test_pairs.csv from the page above and put it in pf-pascal/image_pairs",
        ),
    )

    @property
    def folder(self) -> Path:
        """The folder in which PF-dataset-PASCAL lies."""
        inner = self.root / "pf-pascal"
        return self.root if (self.root / FOLDER).is_dir() and not (inner / FOLDER).is_dir() else inner

    def state(self) -> Literal["present", "partly", "absent"]:
        """Return whether the pictures and the list of test pairs are there, wherever they may lie."""
        exist = [path.exists() for path in (self.folder / FOLDER / "JPEGImages", self._list("test"))]
        return "present" if all(exist) else "partly" if any(exist) else "absent"

    def list_pairs(self, split: str) -> Iterator[Pair]:
        """Yield the pairs in the order of the list."""
        path = self._list(split)
        listed = COORDINATES if split == "test" else ()
        for number, row in read_table(path, ("source_image", "target_image", "class", *listed), self.remedy):
            where = at(path, number)
            source, target = (self._item(row[column], where) for column in ("source_image", "target_image"))
            category = self._category(row["class"], where)
            with parsing(where[:-1], "fetch it again"):
                both = _listed_points(row) if set(COORDINATES) <= row.keys() else self._annotated_points(category, source, target)
            points = [self._scaled(each, item, where) for each, item in zip(both[:2], (source, target), strict=True)]
            yield Pair(f"{number - 1:04}-{source.name}-{target.name}", source, target, category, points[0], points[1], both[2])

    def verify(self, full: bool = False) -> list[str]:
        """Return what is wrong with the test pairs, and with those of another split where it can be opened at all."""
        opened = tuple(f"{split}:" for split in self.splits if split == "test" or self.has(split))
        return [problem for problem in super().verify(full) if problem.startswith(opened)]

    def _list(self, split: str) -> Path:
        """Return the list of pairs that is there; where none is, its official place."""
        folders = (self.folder / "image_pairs", self.folder, self.folder / FOLDER)
        paths = [folder / f"{name}_pairs{end}.csv" for folder in folders for name in LISTS[split] for end in ("", "_pf_pascal")]
        return next((path for path in paths if path.exists()), paths[0])

    def _item(self, listed: str, where: str) -> Item:
        path = self.folder / check_name(listed, where)
        return Item(path.stem, path, None)

    def _category(self, number: str, where: str) -> str:
        if number not in (known := [str(each) for each in range(1, len(self.classes) + 1)]):
            raise UserError(f"{where} has the class {number!r}, which is none of 1 to {len(known)}; fetch it again")
        return self.classes[int(number) - 1]

    def _scaled(self, points: Float[np.ndarray, "k 2"], item: Item, where: str) -> Float[np.ndarray, "k 2"]:
        """Return points in px of the picture on disk. Raises UserError for points that cannot be those of a picture of 300 px."""
        if points.size and points.max() > SIDE + 1:
            raise UserError(
                f"{where} has a keypoint at {points.max():g} px in {item.name}; its coordinates must be in px of "
                f"pictures whose longer side is {SIDE}, whatever the size of the pictures on disk; fetch the official list"
            )
        side = max(self.image_size(item))
        return points if side == SIDE else points * (side / SIDE)

    def _annotated_points(self, category: str, source: Item, target: Item) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the keypoints that both pictures have, and their numbers, from the annotations of the two pictures."""
        folder = self.folder / FOLDER / "Annotations"
        if not folder.is_dir():
            raise UserError(
                f"of the lists of {self.name} only that of the split test has keypoints, and the folder {folder}, "
                f"which has those of the other splits, is missing; evaluate test or {self.remedy}"
            )
        first, second = (_annotation(folder / category / f"{item.name}.mat", self.remedy) for item in (source, target))
        if len(first) != len(second):
            raise ValueError(f"{source.name} and {target.name} have {len(first)} and {len(second)} keypoints")
        shared = np.flatnonzero(~np.isnan(first).any(axis=1) & ~np.isnan(second).any(axis=1))
        return first[shared], second[shared], shared


def _listed_points(row: dict[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the keypoints of a row and -1 for each, as they have no names. Those that are -1 everywhere only fill the row."""
    columns = [numbers(row[name].split(";"), name) for name in COORDINATES]
    if len({len(column) for column in columns}) > 1:
        counts = " and ".join(f"{len(column)} in {name}" for name, column in zip(COORDINATES, columns, strict=True))
        raise ValueError(f"the numbers of coordinates differ: {counts}")
    source, target = np.stack(columns[:2], axis=1), np.stack(columns[2:], axis=1)
    filled = ~((source == -1).all(axis=1) | (target == -1).all(axis=1))
    return source[filled], target[filled], np.full(int(filled.sum()), -1)


def _annotation(path: Path, remedy: str) -> Float[np.ndarray, "n 2"]:
    """Return all keypoints of a picture from its MATLAB file, nan where it has none. Nothing in the file is executed."""
    from scipy.io import loadmat

    with reading(path, remedy):
        check_ordinary(path)
        try:
            points = np.asarray(loadmat(path, variable_names=["kps"])["kps"], np.float64)
        except Exception as error:  # a damaged file raises almost anything
            raise UserError(f"{path} is no MATLAB file with kps ({type(error).__name__}: {error}); fetch it again") from error
    if points.ndim != 2 or points.shape[1] != 2:
        raise UserError(f"{path} has kps of shape {points.shape}, not n x 2; fetch it again")
    return points
