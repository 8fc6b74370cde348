"""Two `densebench data get` at once: one fetches, the other waits and finds the work done."""

from __future__ import annotations

import threading
import time
import zipfile
from dataclasses import dataclass

from densebench.datasets.dataset import Dataset, Source
from densebench.datasets.io import download


@dataclass(frozen=True, kw_only=True)
class Small(Dataset):
    name: str = "small"
    sources = (Source(url="http://nowhere/maps.zip", gives=("maps/1.png", "maps/2.png")),)


def test_two_at_once_fetch_once(tmp_path, monkeypatch, capsys):
    begun = []

    def slowly(url, path, *_):
        begun.append(url)
        time.sleep(0.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for number in (1, 2):
                archive.writestr(f"maps/{number}.png", b"png")

    monkeypatch.setattr(download, "download", slowly)
    failed = []

    def get():
        try:
            download.get(Small(root=tmp_path))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and len(begun) == 1
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "maps/1.png",
        "maps/2.png",
    ]
    assert capsys.readouterr().err.count("another `densebench data get` is at work on maps.zip; waiting for it") == 2
