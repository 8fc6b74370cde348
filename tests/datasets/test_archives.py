"""Archives that are damaged, cut off, encrypted, or in whose way a link lies: one line, and nothing is written through it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from densebench.datasets.io.archives import unpack
from densebench.errors import UserError

FILES = {"a/x.bin": bytes(range(256)) * 50, "a/b/y.bin": np.random.default_rng(0).bytes(5000), "z.txt": b"z"}
SQUEEZE = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def tar(files=FILES):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(files=FILES, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def written(path, content):
    path.write_bytes(content)
    return path


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive, folder, message):
    with pytest.raises(UserError, match=message) as caught:
        unpack(archive, folder)
    assert "\n" not in str(caught.value) and archive.name in str(caught.value)


# Ends and checksums


@pytest.mark.parametrize("kind", SQUEEZE)
def test_whole_archives_are_unpacked(tmp_path, kind):
    unpack(written(tmp_path / "a.tar", SQUEEZE[kind](tar())), tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


@pytest.mark.parametrize("kind", SQUEEZE)
def test_a_cut_archive_is_noticed_before_anything_is_written(tmp_path, kind):
    whole = SQUEEZE[kind](tar() + bytes(100_000))  # the cut lies behind the last file
    refused(written(tmp_path / "a.tar", whole[:-6]), tmp_path / "out", r"a\.tar is not a whole archive .*fetch it again")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", SQUEEZE)
def test_a_wrong_checksum_is_noticed_before_anything_is_written(tmp_path, kind):
    content = bytearray(SQUEEZE[kind](tar()))
    place = {"gz": -8, "bz2": -5, "xz": -22}[kind]  # in the checksum or beside it
    content[place] ^= 255
    refused(written(tmp_path / "a.tar", bytes(content)), tmp_path / "out", r"a\.tar is not a whole archive .*fetch it again")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [512, 700, 512 + 12800 + 100])
def test_a_plain_tar_that_is_cut_is_noticed(tmp_path, keep):
    refused(written(tmp_path / "a.tar", tar()[:keep]), tmp_path / "out", r"a\.tar is not a whole archive")
    assert not (tmp_path / "out").exists()


def test_a_damaged_header_in_a_plain_tar_hides_no_file(tmp_path):
    content = bytearray(tar())
    content[512 + 12800 + 10] ^= 255  # in the name of the second file
    refused(written(tmp_path / "a.tar", bytes(content)), tmp_path / "out", r"a\.tar is not a whole archive")


# Zip files


def test_an_encrypted_member_is_refused_before_anything_is_written(tmp_path):
    content = bytearray(zipped())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(mark) + offset] |= 1
    refused(written(tmp_path / "a.zip", bytes(content)), tmp_path / "out", r"its member 'z\.txt' is encrypted")
    assert not (tmp_path / "out").exists()


def test_an_unknown_method_is_refused_before_anything_is_written(tmp_path):
    content = bytearray(zipped())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", content, content.rindex(mark) + offset, 99)
    refused(written(tmp_path / "a.zip", bytes(content)), tmp_path / "out", r"'z\.txt' is compressed by a method .* \(99\)")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_member_is_named_and_an_older_file_stays(tmp_path, method):
    content = bytearray(zipped({"y.bin": FILES["a/b/y.bin"]}, method))
    for place in range(60, 90):
        content[place] ^= 255
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "y.bin").write_bytes(b"older")
    refused(written(tmp_path / "a.zip", bytes(content)), tmp_path / "out", r"a\.zip is not a whole archive")
    assert tree(tmp_path / "out") == {"y.bin": b"older"}


KINDS = {"tar": tar, **{kind: lambda squeeze=squeeze: squeeze(tar()) for kind, squeeze in SQUEEZE.items()}}
KINDS |= {f"zip {method}": lambda method=method: zipped(method=method) for method in METHODS}


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_is_one_line(tmp_path, kind):
    whole, random = KINDS[kind](), np.random.default_rng(1)
    for _ in range(60):
        content = bytearray(whole)
        ends = random.random() < 0.5  # where the headers are
        for place in random.integers(0, 600 if ends else len(content), 4):
            content[-place if random.random() < 0.5 else min(place, len(content) - 1)] = random.integers(0, 256)
        archive = written(tmp_path / "a", bytes(content))
        try:
            unpack(archive, tmp_path / "out")
        except UserError as error:
            assert "\n" not in str(error)


# Links in the way


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize("link", ["a", "a/b", "z.txt"])
def test_nothing_is_written_through_a_link(tmp_path, make, link):
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    target = written(outside / "z.txt", b"mine") if link == "z.txt" else outside
    (out / link).parent.mkdir(parents=True)
    (out / link).symlink_to(target)
    refused(written(tmp_path / "a.zip", make()), out, rf"out/{link} is a link: .* is not unpacked through it; remove it")
    assert tree(outside) == ({"z.txt": b"mine"} if link == "z.txt" else {})
    assert not list(out.rglob("*.bin"))


def test_a_link_to_nowhere_is_not_followed_either(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "z.txt").symlink_to(tmp_path / "new.txt")
    refused(written(tmp_path / "a.tar", tar()), tmp_path / "out", "is a link")
    assert not (tmp_path / "new.txt").exists()


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    unpack(written(tmp_path / "a.tar", tar()), tmp_path / "out")
    assert tree(tmp_path / "disk") == FILES


def test_a_file_that_has_another_name_too_keeps_its_content_there(tmp_path):
    other = written(tmp_path / "other.txt", b"mine")
    (tmp_path / "out").mkdir()
    os.link(other, tmp_path / "out" / "z.txt")
    unpack(written(tmp_path / "a.tar", tar()), tmp_path / "out")
    assert other.read_bytes() == b"mine" and tree(tmp_path / "out") == FILES
