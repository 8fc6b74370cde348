"""Images without labels: the interface of what pretraining reads, and sets that are made of other sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from PIL import Image

from densebench.files.atomic import digest


class Images(ABC):
    """A sequence of images, each of which can be decoded by its number, in any process."""

    name: str
    code: str = ""
    """The digest of the user's own code that reads them; "" where it is built in."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def title(self, index: int) -> str:
        """Return what an image is called in a message: its path."""

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """Decode one image as RGB. Raises UserError, which names the image, where it cannot be decoded."""

    def reduced(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode one image as RGB, and return it with its full width and height. Raises UserError as `open` does.

        The image is smaller where the decoder `reduced` is used; its short side is then still at least `side` px.
        """
        image = self.open(index)
        return image, image.size

    def pixels(self, index: int) -> np.ndarray:
        """Decode one image: uint8 [h, w, 3]."""
        return np.asarray(self.open(index))

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of an image, from its header where it has one. Raises UserError as `open` does."""
        return self.open(index).size

    def nbytes(self, index: int) -> int:
        """Return the size in bytes of what `pixels` returns, from the image's header. Raises UserError as `open` does."""
        width, height = self.size(index)
        return 3 * width * height

    def digest(self) -> str:
        """Return the identity of the set: its images' names, in order."""
        return digest([len(self), *(self.title(index) for index in range(len(self)))], 16)


@dataclass(frozen=True)
class Joined(Images):
    """Several sets, one after the other."""

    name: str
    parts: tuple[Images, ...]

    @property
    def code(self) -> str:  # type: ignore[override]
        """The digests of the parts' code."""
        return " ".join(part.code for part in self.parts if part.code)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def _find(self, index: int) -> tuple[Images, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)

    def title(self, index: int) -> str:
        """Return the set's name and the image's."""
        part, index = self._find(index)
        return f"{part.name}/{part.title(index)}"

    def open(self, index: int) -> Image.Image:
        """Decode one image of the part that holds it."""
        part, index = self._find(index)
        return part.open(index)

    def reduced(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode one image of the part that holds it, reduced as the part reduces it."""
        part, index = self._find(index)
        return part.reduced(index, side)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height that the part gives."""
        part, index = self._find(index)
        return part.size(index)


@dataclass(frozen=True)
class First(Images):
    """Evenly spaced images of a set (`--limit`), by their indices in it."""

    whole: Images
    numbers: tuple[int, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The whole set's name."""
        return self.whole.name

    @property
    def code(self) -> str:  # type: ignore[override]
        """The digest of the whole set's code."""
        return self.whole.code

    def __len__(self) -> int:
        return len(self.numbers)

    def title(self, index: int) -> str:
        """Return the title in the whole set."""
        return self.whole.title(self.numbers[index])

    def open(self, index: int) -> Image.Image:
        """Decode one image of the whole set."""
        return self.whole.open(self.numbers[index])

    def reduced(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode one image of the whole set, reduced as the set reduces it."""
        return self.whole.reduced(self.numbers[index], side)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height that the whole set gives."""
        return self.whole.size(self.numbers[index])
