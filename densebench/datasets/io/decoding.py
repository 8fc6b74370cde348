"""Image and label files to arrays, with errors that name the file.

Three decoders read JPEG files. `pillow` and `turbo` (simplejpeg, an optional package) give the same pixels, bit for bit: both are
libjpeg-turbo. turbo is up to a third faster for pictures of 640 x 480 px; before it is used, two small pictures are compared.
`reduced` decodes large pictures that are wanted small at 1/2, 1/4 or 1/8 of their size (`read_reduced`), by simplejpeg where it
is installed, otherwise by Pillow.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from densebench.errors import UserError
from densebench.extras import is_installed, require
from densebench.files.atomic import check_ordinary

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What is opened, whatever a file's name says: Pillow knows forty more formats, and one of them starts a program."""
EXACT = ("pillow", "turbo")
"""Decoders that give the same pixels."""
DECODERS = (*EXACT, "reduced")
SCALES = (8, 4, 2)
"""By what libjpeg can divide the sides of a picture: it decodes only the frequencies that the smaller picture can show."""
_used = {"decoder": "pillow", "jpeg": "pillow"}
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value


@contextmanager
def opened(source: Path | IO[bytes], what: str, verb: str = "decoded", remedy: str = "fetch it again") -> Iterator[Image.Image]:
    """Open a picture in one of FORMATS. `what` names it in messages, such as "the image a.jpg".

    Raises UserError for a file that is missing, not an ordinary file, of another format or damaged, even from within the block.
    """
    try:
        if isinstance(source, Path):
            check_ordinary(source)
        with Image.open(source, formats=FORMATS) as image:
            yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{what} is missing; fetch it again or take it out of the list") from error
    except UnidentifiedImageError as error:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UserError(f"{what} cannot be {verb} (it is no {known}, or damaged); convert it, or {remedy}") from error
    except (Exception, Image.DecompressionBombWarning) as error:  # decoders raise almost anything for a damaged file
        raise UserError(f"{what} cannot be {verb} ({' '.join(str(error).split()) or type(error).__name__}); {remedy}") from error


def use_decoder(name: str) -> None:
    """Set the decoder of JPEG files, one of DECODERS, for this process and for those that a loader starts.

    Raises UserError where turbo is not installed, or gives other pixels than Pillow.
    """
    by_turbo = name == "turbo" or (name == "reduced" and is_installed("simplejpeg"))
    if by_turbo:
        _check_turbo(name)
    _used.update(decoder=name, jpeg="turbo" if by_turbo else "pillow")


def used_decoder() -> str:
    """Return the decoder that `use_decoder` has set."""
    return _used["decoder"]


@functools.cache
def _check_turbo(name: str) -> None:
    """Raise UserError where simplejpeg cannot be imported, or gives other pixels than Pillow for two small pictures."""
    require("simplejpeg", f"--decoder {name}")
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    for shape in ((61, 75), (64, 48)):
        stream = io.BytesIO()
        coarse.resize(shape).save(stream, "JPEG", quality=80)
        with Image.open(stream) as image:
            found = _by_turbo(image)
            if found is None or found.tobytes() != image.convert("RGB").tobytes():
                raise UserError(f"--decoder {name}: simplejpeg decodes other pixels than Pillow here; use --decoder pillow")


def _by_turbo(image: Image.Image, scale: int = 1) -> Image.Image | None:
    """Return an opened picture decoded by simplejpeg, its sides divided by one of SCALES and rounded up, or by 1.

    Returns None for what Pillow must decode: files that are not JPEG, do not store colours as YCbCr, or are damaged.
    """
    stream: Any = getattr(image, "fp", None)
    if stream is None or image.format != "JPEG" or image.mode != "RGB" or image.info.get("adobe_transform", 1) != 1:
        return None
    simplejpeg = require("simplejpeg", "--decoder turbo")
    stream.seek(0)
    try:
        smaller = {"min_width": -(-image.width // scale), "min_height": -(-image.height // scale)} if scale > 1 else {}
        return Image.fromarray(simplejpeg.decode_jpeg(stream.read(), "RGB", **smaller))
    except ValueError:  # Pillow may still read it, or says what is wrong with it
        return None


def read_image(path: Path) -> Image.Image:
    """Decode a whole image as RGB, as `rgb` does.

    Raises UserError where the file is missing, broken, or holds floating-point values.
    """
    what = f"the image {path}"
    with opened(path, what) as image:
        return rgb(image, what)


def read_reduced(path: Path, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """Decode an image file, and return what `reduced` returns. Raises UserError as `read_image` does."""
    what = f"the image {path}"
    with opened(path, what) as image:
        return reduced(image, what, side)


def reduced(image: Image.Image, what: str, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return a picture as `rgb` does, and its full width and height.

    Where the decoder `reduced` is used, a JPEG whose short side is at least 2 `side` px is decoded at 1/2, 1/4 or 1/8 of its
    size: at the smallest of these whose short side is at least `side` px. Width and height are rounded up.
    """
    size = image.size
    reducible = used_decoder() == "reduced" and image.format == "JPEG"
    return rgb(image, what, next((scale for scale in SCALES if reducible and min(size) >= scale * side), 1)), size


def rgb(image: Image.Image, what: str, scale: int = 1) -> Image.Image:
    """Return a picture as 8-bit RGB: the first one of its file, as it is stored (an orientation in its EXIF is not applied).

    One channel of 16 bits is divided by 257 and rounded, one of 12 by 4095 / 255; of colours of 16 bits Pillow keeps the upper
    byte. One channel becomes three equal ones, a palette is looked up, transparency is dropped without blending, CMYK and
    YCbCr are converted by Pillow. scale: what the sides of a JPEG are divided by, one of SCALES. Raises UserError for
    floating-point values and whole numbers of 32 bits: their white is unknown.
    """
    if _used["jpeg"] == "turbo" and (decoded := _by_turbo(image, scale)) is not None:
        return decoded
    if scale > 1:
        image.draft(image.mode, (image.width // scale, image.height // scale))
    if image.mode == "F":
        raise UserError(f"{what} holds floating-point values; save it as 8 or 16 bits")
    if image.mode == "I" and image.format != "PNG":  # before version 11, Pillow had this mode for PNGs of 16 bits too
        raise UserError(f"{what} holds whole numbers of 32 bits or signed ones; save it as 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(_bytes(image))
    image.info.pop("transparency", None)  # it would not change any colour, only make Pillow warn
    return image.convert("RGB")


def _bytes(image: Image.Image) -> UInt8[np.ndarray, "h w"]:
    """Return one channel of 12 or 16 bits as 8 bits, scaled so that the full range stays the full range."""
    tags = getattr(image, "tag_v2", {})
    top = (1 << tags.get(BITS, (16,))[0]) - 1
    values = np.asarray(image).astype(np.uint32)
    values = top - values if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else values
    return ((values * 255 + top // 2) // top).astype(np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height of an image, from its header alone."""
    with opened(path, f"the image {path}", "opened") as image:
        return image.size


def read_mask(path: Path, mode: str = "P") -> np.ndarray:
    """Decode a label file without converting its values.

    `mode` "P" means one id a pixel: a palette's indices or grey values, uint8 [h, w]. `mode` "RGB" gives uint8 [h, w, 3].
    Raises UserError where the file is missing, broken or of another kind.
    """
    wanted = {"P": ("P", "L", "1"), "RGB": ("RGB",)}[mode]
    with opened(path, f"the label map {path}") as mask:
        if mask.mode not in wanted:
            kind = {"P": "one id a pixel (8-bit palette or grey, ids up to 255)", "RGB": "RGB"}[mode]
            raise UserError(f"the label map {path} has mode {mask.mode}, not {kind}; convert it")
        return np.array(mask).astype(np.uint8)
