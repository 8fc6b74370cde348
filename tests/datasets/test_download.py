from __future__ import annotations

import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from densebench.datasets.dataset import Dataset, Source
from densebench.datasets.io import download as module
from densebench.datasets.io.archives import unpack
from densebench.datasets.io.download import download, get
from densebench.errors import UserError

BODY = bytes(range(256)) * 400  # 102400 bytes


class Server:
    """A local server: what it holds, how it behaves, and the Range headers it saw."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"/data.bin": BODY}
        self.ranges: list[str | None] = []
        self.supports_range = True
        self.says_length = True
        self.cut_after: list[int] = []  # bytes to send before the connection is cut, one entry a request
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        if request.path not in self.files:
            request.send_error(404)
            return
        body = self.files[request.path]
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.supports_range else 0
        if start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if wanted and self.supports_range else 200)
        if wanted and self.supports_range:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.says_length:
            request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        request.wfile.write(body[start:][: self.cut_after.pop(0)] if self.cut_after else body[start:])

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.close()


def test_a_file_is_fetched_and_checked(server, tmp_path):
    for kind in ("sha256", "md5"):
        path = tmp_path / kind / "data.bin"
        download(f"{server.url}/data.bin", path, f"{kind}:{hashlib.new(kind, BODY).hexdigest()}")
        assert path.read_bytes() == BODY
        assert [entry.name for entry in path.parent.iterdir()] == ["data.bin"]


def test_a_stopped_download_goes_on_where_it_was(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(BODY[:1000])
    download(f"{server.url}/data.bin", tmp_path / "data.bin", f"sha256:{hashlib.sha256(BODY).hexdigest()}")
    assert server.ranges == ["bytes=1000-"]
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.supports_range = False
    (tmp_path / "data.bin.part").write_bytes(b"stale" * 100)
    download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_a_whole_part_is_taken_and_a_longer_one_is_not(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(BODY)
    download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert server.ranges == [f"bytes={len(BODY)}-"]
    (tmp_path / "data.bin.part").write_bytes(BODY + b"more")
    download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_a_cut_connection_goes_on_by_itself(server, tmp_path, capsys):
    server.cut_after = [10_000, 30_000]
    download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert server.ranges == [None, "bytes=10000-", "bytes=40000-"]
    assert "cut at 10000 bytes; resuming" in capsys.readouterr().err


def test_a_connection_that_never_advances_is_an_error_and_keeps_what_came(server, tmp_path):
    server.cut_after = [10_000, 0]
    with pytest.raises(UserError, match=r"cut at 10000 bytes of 102400; the same command resumes"):
        download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin.part").read_bytes() == BODY[:10_000]
    assert not (tmp_path / "data.bin").exists()


def test_a_wrong_checksum_removes_the_file(server, tmp_path):
    with pytest.raises(UserError, match=r"has the sha256 .*, not the published 00"):
        download(f"{server.url}/data.bin", tmp_path / "data.bin", "sha256:00")
    assert list(tmp_path.iterdir()) == []


def test_network_failures_name_the_address_and_the_remedy(server, tmp_path):
    with pytest.raises(UserError, match=r"none\.bin answers 404 .*by hand to"):
        download(f"{server.url}/none.bin", tmp_path / "none.bin")
    with pytest.raises(UserError, match=r"cannot reach http://127.0.0.1:9/.*proxy"):
        download("http://127.0.0.1:9/data.bin", tmp_path / "data.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*data-root"):
        download(f"{server.url}/data.bin", tmp_path / "file" / "data.bin")


def zip_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_of(members: list[tarfile.TarInfo], content: bytes = b"x") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return stream.getvalue()


def tree(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unpack_writes_the_files(kind, tmp_path):
    archive = tmp_path / f"a.{kind}"
    if kind == "zip":
        archive.write_bytes(zip_of({"top/a/x.txt": b"1", "top/y.txt": b"2", "other.txt": b"3", "__MACOSX/top/._x": b"4"}))
    else:
        folder = tarfile.TarInfo("top/a")
        folder.type = tarfile.DIRTYPE
        archive.write_bytes(tar_of([folder, *(tarfile.TarInfo(name) for name in ("top/a/x.txt", "top/y.txt", "other.txt"))]))
    unpack(archive, tmp_path / "all")
    assert set(tree(tmp_path / "all")) == {"top/a/x.txt", "top/y.txt", "other.txt"}
    unpack(archive, tmp_path / "part", inside="top")
    assert set(tree(tmp_path / "part")) == {"a/x.txt", "y.txt"}
    with pytest.raises(UserError, match="holds nothing under topp"):
        unpack(archive, tmp_path / "none", inside="topp")


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unpack_refuses_paths_that_leave_the_folder(kind, name, tmp_path):
    archive = tmp_path / "evil"
    archive.write_bytes(zip_of({"good.txt": b"1", name: b"2"}) if kind == "zip" else tar_of([tarfile.TarInfo(name)]))
    with pytest.raises(UserError, match=r"is refused: its member .* leaves the folder"):
        unpack(archive, tmp_path / "deep" / "target")
    assert set(tree(tmp_path)) == {"evil"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_unpack_refuses_links_and_devices_in_tar_files(kind, tmp_path):
    member = tarfile.TarInfo("thing")
    member.type, member.linkname = kind, "/etc/passwd"
    (tmp_path / "evil.tar").write_bytes(tar_of([member]))
    with pytest.raises(UserError, match="its member 'thing' is no ordinary file"):
        unpack(tmp_path / "evil.tar", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_unpack_refuses_symbolic_links_in_zip_files(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="its member 'link' is no ordinary file"):
        unpack(tmp_path / "evil.zip", tmp_path / "target")


def test_unpack_names_a_broken_archive_and_a_full_disk(tmp_path, monkeypatch):
    (tmp_path / "broken.zip").write_bytes(b"no archive at all")
    with pytest.raises(UserError, match=r"broken.zip is not a whole archive .* fetch it again"):
        unpack(tmp_path / "broken.zip", tmp_path)
    content = zip_of({"a": b"\0" * 5000})
    (tmp_path / "cut.zip").write_bytes(content[:50] + b"!" + content[51:])
    with pytest.raises(UserError, match=r"cut.zip is not a whole archive \(Bad CRC"):
        unpack(tmp_path / "cut.zip", tmp_path)
    with zipfile.ZipFile(tmp_path / "squeezed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(range(256)) * 20)
    content_squeezed = bytearray((tmp_path / "squeezed.zip").read_bytes())
    content_squeezed[31:60] = b"\xff" * 29
    (tmp_path / "squeezed.zip").write_bytes(content_squeezed)
    with pytest.raises(UserError, match=r"squeezed.zip is not a whole archive"):
        unpack(tmp_path / "squeezed.zip", tmp_path)
    (tmp_path / "big.zip").write_bytes(content)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4999})())
    with pytest.raises(UserError, match=r"big.zip needs .* GB are free; make room"):
        unpack(tmp_path / "big.zip", tmp_path / "target")


@dataclass(frozen=True, kw_only=True)
class Small(Dataset):
    name: str = "small"
    sources: ClassVar[tuple[Source, ...]] = ()


def test_get_fetches_once_unpacks_nested_archives_and_tells_what_is_left(server, tmp_path, monkeypatch, capsys):
    server.files["/maps.zip"] = zip_of({"notes/a.json": b"{}", "notes/maps.zip": zip_of({"maps/1.png": b"png"})})
    monkeypatch.setattr(
        Small,
        "sources",
        (
            Source(
                url=f"{server.url}/maps.zip",
                gives=("coco/notes/maps", "coco/notes/a.json"),
                into="coco",
                nested=("notes/maps.zip",),
                checksum=f"md5:{hashlib.md5(server.files['/maps.zip']).hexdigest()}",
            ),
            Source(url="http://page", gives=("hand/made",), by_hand="make hand/made"),
        ),
    )
    dataset = Small(root=tmp_path)
    assert dataset.state() == "absent"
    left = get(dataset)
    assert left == [f"make hand/made (address: http://page; data root: {tmp_path})"]
    assert tree(tmp_path) == {"coco/notes/a.json": b"{}", "coco/notes/maps/1.png": b"png"}
    assert dataset.state() == "partly"
    assert len(server.ranges) == 1
    (tmp_path / "hand" / "made").mkdir(parents=True)
    assert get(dataset) == []
    assert len(server.ranges) == 1
    assert dataset.state() == "present"
    assert "maps.zip: already unpacked" in capsys.readouterr().err


def test_get_unpacks_again_what_was_stopped_half_way(server, tmp_path, monkeypatch):
    server.files["/maps.zip"] = zip_of({"maps/1.png": b"one", "maps/2.png": b"two"})
    checksum = f"sha256:{hashlib.sha256(server.files['/maps.zip']).hexdigest()}"
    monkeypatch.setattr(Small, "sources", (Source(url=f"{server.url}/maps.zip", gives=("maps",), checksum=checksum),))
    (tmp_path / module.ARCHIVES).mkdir()
    (tmp_path / module.ARCHIVES / "maps.zip").write_bytes(server.files["/maps.zip"])
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "1.png").write_bytes(b"o")  # what a killed run leaves
    get(Small(root=tmp_path))
    assert tree(tmp_path) == {"maps/1.png": b"one", "maps/2.png": b"two"}
    assert server.ranges == []
    (tmp_path / module.ARCHIVES / "maps.zip").write_bytes(b"fetched by hand, and wrong")
    with pytest.raises(UserError, match="not the published"):
        get(Small(root=tmp_path))


def test_the_sources_of_all_data_sets_are_well_formed():
    from densebench.datasets import load_dataset
    from densebench.datasets.catalog import titles

    for name in titles():
        for source in load_dataset(name).sources:
            assert source.url.startswith(("http://", "https://")), source
            assert source.gives, source
            assert source.checksum is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", source.checksum), source
            assert source.by_hand or source.url.endswith((".zip", ".tar", ".tar.gz")), source
