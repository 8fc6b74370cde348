"""Pictures to arrays: what becomes of 16 bits, floats, palettes and alpha, and what is not opened at all."""

from __future__ import annotations

import io
import os
import socket
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from densebench.datasets.io.decoding import image_size, read_image, read_mask
from densebench.datasets.unlabelled import open_images
from densebench.errors import UserError

EVERY = np.arange(65536, dtype=np.uint16).reshape(256, 256)
WIDENED = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257  # 8 bits, written with 16


def png(values, colour=0):
    """The bytes of a PNG of 16 bits: grey [h, w], or of the channels that `colour` names (4: grey and alpha, 2: RGB, 6: RGBA)."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values, bits=16, photometric=1, sample_format=1, order="<"):
    """The bytes of an uncompressed TIFF of one channel whose strip is `values`."""
    height, width = values.shape
    strip = values.tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(strip)}
    entries = sorted((tags | {339: sample_format}).items())
    table = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    start = struct.pack(f"{order}I", 8 + len(strip))
    return mark + start + strip + struct.pack(f"{order}H", len(entries)) + table + bytes(4)


def written(path, content):
    path.write_bytes(content)
    return path


def grey(path):
    """The one channel of a picture whose three are equal."""
    pixels = np.asarray(read_image(path))
    assert pixels.dtype == np.uint8 and (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


# Numbers


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png(EVERY), id="png"),
        pytest.param(tiff(EVERY), id="tiff"),
        pytest.param(tiff(EVERY.astype(">u2"), order=">"), id="big-endian"),
        pytest.param(tiff(65535 - EVERY, photometric=0), id="white-is-zero"),
    ],
)
def test_one_channel_of_16_bits_is_divided_by_257_and_rounded(tmp_path, content):
    found = grey(written(tmp_path / "a.png", content))
    assert (found == np.round(EVERY / 257)).all()


def test_one_channel_of_12_bits_is_scaled_to_its_own_white(tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    first, second = values.ravel()[::2], values.ravel()[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).reshape(64, -1)
    content = tiff(packed, bits=12).replace(struct.pack("<HHII", 256, 4, 1, 96), struct.pack("<HHII", 256, 4, 1, 64))
    assert (grey(written(tmp_path / "a.tif", content)) == np.round(values.astype(float) * 255 / 4095)).all()


@pytest.mark.parametrize(("colour", "channels"), [(0, 0), (4, 2), (2, 3), (6, 4)])
def test_8_bits_that_were_written_with_16_come_back_as_they_were(tmp_path, colour, channels):
    values = np.stack([WIDENED] * channels, -1) if channels else WIDENED
    found = grey(written(tmp_path / "a.png", png(values, colour)))
    assert (found == np.arange(256).reshape(16, 16)).all()


def test_floats_are_refused_with_a_remedy(tmp_path):
    Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"the image .*a\.tif holds floating-point values; save it as 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(("kind", "bits", "sample_format"), [(np.int32, 32, 2), (np.uint32, 32, 1), (np.int16, 16, 2)])
def test_numbers_without_a_known_white_are_refused(tmp_path, kind, bits, sample_format):
    path = written(tmp_path / "a.tif", tiff(np.arange(16, dtype=kind).reshape(4, 4), bits, sample_format=sample_format))
    with pytest.raises(UserError, match=r"a\.tif holds whole numbers of 32 bits or signed ones; save it as 8 or 16 bits"):
        read_image(path)


def paletted():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        pytest.param(Image.new("1", (4, 4), 1), (255, 255, 255), id="one bit"),
        pytest.param(Image.new("L", (4, 4), 9), (9, 9, 9), id="grey"),
        pytest.param(Image.new("LA", (4, 4), (9, 0)), (9, 9, 9), id="grey and alpha"),
        pytest.param(Image.new("RGBA", (4, 4), (1, 2, 3, 0)), (1, 2, 3), id="colour and alpha"),
        pytest.param(paletted(), (10, 20, 30), id="palette"),
    ],
)
def test_every_other_mode_keeps_its_colours(tmp_path, image, colour):
    image.save(tmp_path / "a.png")
    assert (np.asarray(read_image(tmp_path / "a.png")) == colour).all()


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    paletted().save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert (np.asarray(read_image(tmp_path / "a.png")) == (10, 20, 30)).all()


def test_an_orientation_is_not_applied(tmp_path):
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[274] = 6  # turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == image_size(tmp_path / "a.jpg") == (6, 4)


def test_shards_read_16_bits_as_files_do(tmp_path):
    content = png(WIDENED)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    assert (open_images([str(tmp_path / "a.tar")]).pixels(0)[:, :, 0] == np.arange(256).reshape(16, 16)).all()


@pytest.mark.parametrize("value", [3, 300])
def test_label_maps_of_16_bits_are_refused(tmp_path, value):
    with pytest.raises(UserError, match=r"a\.png has mode I.*8-bit palette or grey, ids up to 255"):
        read_mask(written(tmp_path / "a.png", png(np.full((4, 4), value, np.uint16))))


def test_label_maps_keep_indices_of_palettes_and_grey_values(tmp_path):
    paletted().save(tmp_path / "a.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "b.png")
    assert (read_mask(tmp_path / "a.png") == 1).all() and (read_mask(tmp_path / "b.png") == 7).all()


# What is not opened


def encoded(kind):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, kind)
    return stream.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
FOREIGN = {
    "eps": POSTSCRIPT, "dds": b"DDS " + bytes(124), "ppm": b"P6 1 1 255\n123", "empty": b"", "text": b"no picture",
    "tga": encoded("TGA"), "jpeg2000": encoded("JPEG2000"), "icns": b"icns" + bytes(40), "fits": b"SIMPLE  =" + bytes(200),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_other_formats_are_named_in_one_line_whatever_the_file_is_called(tmp_path, kind, read):
    with pytest.raises(UserError, match=r"a\.jpg cannot .* \(it is no JPEG, PNG, WEBP, BMP, TIFF or GIF, or damaged\)") as caught:
        read(written(tmp_path / "a.jpg", FOREIGN[kind]))
    assert "\n" not in str(caught.value)


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(UserError):
        read_image(written(tmp_path / "a.jpg", POSTSCRIPT))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "MPO"])
def test_the_formats_of_the_list_are_read_whatever_the_file_is_called(tmp_path, kind):
    path = written(tmp_path / "a.jpg", encoded(kind))
    assert read_image(path).size == image_size(path) == (4, 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_damaged_pictures_are_read_or_named_in_one_line(tmp_path, kind):
    random = np.random.default_rng(0)
    whole = encoded(kind)
    for _ in range(150):
        content = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for place in random.integers(0, len(content), 3):
            content[place] = random.integers(0, 256)
        try:
            read_image(written(tmp_path / "a", bytes(content)))
        except UserError as error:
            assert str(tmp_path / "a") in str(error) and "\n" not in str(error)
        except UserWarning:  # Pillow's own, about tags and bombs: an error here only
            pass


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_a_pipe_is_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is a pipe, a socket or a device, not a file"):
        read(tmp_path / "a.png")


def test_a_socket_and_a_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("a.png")
        with pytest.raises(UserError, match=r"a\.png is a pipe, a socket or a device"):
            read_image(tmp_path / "a.png")
    with pytest.raises(UserError, match="is a folder, not a file"):
        read_image(tmp_path)


def test_a_pipe_among_pictures_is_one_broken_image_and_a_pipe_as_shard_an_error(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    os.mkfifo(tmp_path / "a.png")
    images = open_images([str(tmp_path)])
    with pytest.raises(UserError, match=r"a\.png is a pipe"):
        images.open(0)
    assert images.open(1).size == (4, 4)
    os.mkfifo(tmp_path / "c.tar")
    with pytest.raises(UserError, match=r"c\.tar is a pipe"):
        open_images([str(tmp_path)])
