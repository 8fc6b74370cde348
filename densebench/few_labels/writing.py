"""The folder of label maps that were predicted.

    OUTPUT/labels/<name>.png     a paletted PNG of the picture's size: the index of a pixel is the number of its class
    OUTPUT/overlays/<name>.jpg   the picture with the classes in translucent colours, and a legend
    OUTPUT/images/<name>.*       links to the pictures, so that the folder is a labelled one: `densebench data verify OUTPUT`
    OUTPUT/classes.toml          the names of the classes, in the order of their numbers
    OUTPUT/segment.json          the backbone, the protocol with its settings, the labels, the command, pictures that failed

A text chunk of every label map holds the digests of what made it and of its picture: so a run that was killed, or gets more
pictures, labels only those that are left. Where EXIF says that a picture is stored turned, its label map is stored turned alike,
with the same entry of EXIF: both lie pixel on pixel, and both are displayed upright.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from densebench.datasets.dataset import Item
from densebench.datasets.folder import ORIENTATION
from densebench.datasets.pictures import BACK, Pictures
from densebench.errors import UserError
from densebench.few_labels.overlay import overlay
from densebench.files.atomic import remove, replacing, sweep, write_text
from densebench.pictures.palette import Colour

FACTS, MARK = "segment.json", "densebench segment"
MADE = ("labels", "overlays", "images", "classes.toml", FACTS)
QUALITY = 90


@dataclass(frozen=True)
class Output:
    """The folder that label maps are written to.

    identity: the digest of all that decides a label map but the picture. names, palette: of the classes. background: the name of
    that class; "" where there is none. overlays: whether they are drawn.
    """

    folder: Path
    identity: str
    names: Sequence[str]
    palette: Sequence[Colour]
    background: str = ""
    overlays: bool = True

    def path(self, item: Item) -> Path:
        """Return where the label map of a picture is."""
        return self.folder / "labels" / f"{item.name}.png"

    def overlay_path(self, item: Item) -> Path:
        """Return where the overlay of a picture is."""
        return self.folder / "overlays" / f"{item.name}.jpg"

    def open(self, facts: Mapping[str, Any], rerun: bool) -> dict[str, Any]:
        """Start the folder, or resume one of an equal call; with `rerun` all that an earlier call wrote is removed.

        Return what the earlier call learned, by segment.json; {} where there is none. Raises UserError for a folder that holds
        anything else, or label maps by another backbone, other settings or other labels.
        """
        earlier: dict[str, Any] = {}
        if self.folder.exists():
            self._check_ours()
            earlier = self._earlier()
            if rerun:
                for name in MADE[:3] if earlier else ():
                    remove(self.folder / name)
                earlier = {}
            elif earlier and earlier.get("identity") != self.identity:
                raise UserError(
                    f"{self.folder} holds label maps by another backbone, other settings or other labels ({FACTS} says which); "
                    "--rerun replaces them, or give another --output"
                )
            sweep(self.folder)
        learned: dict[str, Any] = earlier.get("learned", {})
        self.note({**facts, "learned": learned})
        write_text(self.folder / "classes.toml", self._classes_toml())
        return learned

    def note(self, facts: Mapping[str, Any]) -> None:
        """Write segment.json."""
        content = {"made_by": MARK, "identity": self.identity, **facts}
        write_text(self.folder / FACTS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _check_ours(self) -> None:
        try:
            others = sorted(
                path.name for path in self.folder.iterdir() if path.name not in MADE and not path.name.startswith(".")
            )
        except OSError as error:
            raise UserError(f"--output {self.folder} cannot be read as a folder ({error.strerror}); give another") from error
        held = [name for name in MADE if (self.folder / name).exists()]
        if others or (held and not self._earlier()):
            raise UserError(f"{self.folder} holds {(others or held)[0]}, which segment did not write; give another --output")

    def _earlier(self) -> dict[str, Any]:
        """Return what segment.json says of the call that made the folder; {} where none did."""
        with suppress(OSError, ValueError, AttributeError):
            content = json.loads((self.folder / FACTS).read_text(encoding="utf-8"))
            if content.get("made_by") == MARK:
                return dict(content)
        return {}

    def _classes_toml(self) -> str:
        lines: dict[str, Any] = {"classes": list(self.names), "images": "images", "labels": "labels", "nested": True}
        lines |= {"background": self.background} if self.background else {}
        return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in lines.items())

    def holds(self, item: Item, digest: str) -> bool:
        """Return whether the label map of a picture is there: made alike, of the same bytes. digest: the picture's."""
        if self.overlays and not self.overlay_path(item).is_file():
            return False
        with suppress(OSError, SyntaxError, ValueError), Image.open(self.path(item), formats=("PNG",)) as image:
            return image.info.get(MARK) == self._mark(digest)
        return False

    def _mark(self, digest: str) -> str:
        return f"{self.identity} {digest}"

    def write(self, pictures: Pictures, item: Item, digest: str, labels: UInt8[np.ndarray, "h w"]) -> None:
        """Write the overlay of a picture, the link to it, and last its label map. labels: of the upright picture."""
        if self.overlays:
            shown = overlay(pictures.image(item), labels, self.names, self.palette)
            with replacing(self.overlay_path(item)) as part:
                shown.save(part, format="JPEG", quality=QUALITY)
        self.link(pictures, item, anew=True)
        turn = pictures.orientation(item)
        stored = Image.fromarray(labels) if turn == 1 else Image.fromarray(labels).transpose(BACK[turn])
        paletted = Image.frombytes("P", stored.size, stored.tobytes())
        paletted.putpalette([channel for colour in self.palette for channel in colour])
        chunks, exif = PngImagePlugin.PngInfo(), Image.Exif()
        chunks.add_text(MARK, self._mark(digest))
        if turn != 1:
            exif[ORIENTATION] = turn
        with replacing(self.path(item)) as part:
            paletted.save(part, format="PNG", pnginfo=chunks, bits=8, **({"exif": exif} if turn != 1 else {}))

    def link(self, pictures: Pictures, item: Item, anew: bool = False) -> None:
        """Make images/<name> lead to the picture: a link to its file, else a PNG, `anew` or where there is none."""
        if item.image is None:
            copy = self.folder / "images" / f"{item.name}.png"
            if anew or not copy.is_file():
                with replacing(copy) as part:
                    pictures.image(item).save(part, format="PNG")
            return
        target, link = Path(os.path.abspath(item.image)), self.folder / "images" / f"{item.name}{item.image.suffix}"  # noqa: PTH100
        if link.is_symlink() and link.readlink() == target:
            return
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        except OSError:  # some systems have no links
            with replacing(link) as part:
                part.write_bytes(target.read_bytes())
