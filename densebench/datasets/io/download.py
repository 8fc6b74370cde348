"""Fetching data sets from their official addresses, on request alone: streamed, resumed, checked, unpacked."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from densebench.console import notice, progress, warn
from densebench.datasets.dataset import Dataset, Source
from densebench.datasets.io.archives import unpack
from densebench.errors import UserError
from densebench.files.locks import locked

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte
ARCHIVES = ".downloads"  # below the data root; an archive is removed once it is unpacked
CUT = (http.client.HTTPException, ConnectionError, TimeoutError)
SCHEMES = ("http", "https")


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to web addresses only: a server cannot send us to a file of this machine or to another protocol."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request that follows a redirect. Raises HTTPError for another scheme."""
        if urlsplit(newurl).scheme not in SCHEMES:
            raise urllib.error.HTTPError(
                newurl, code, f"and leads to {newurl}, which is not of {' or '.join(SCHEMES)}", headers, fp
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Return the response that the redirect leads to; close the connection where its address is refused."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except Exception:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def get(dataset: Dataset) -> list[str]:
    """Fetch and unpack what is missing of a data set; return what is left to do by hand, in words.

    A second call resumes where the first was stopped, and does nothing where all is there. Raises UserError for whatever keeps a
    file from being fetched, checked or unpacked.
    """
    by_hand = []
    for source in dataset.sources:
        archive = _archive(dataset.root, source)
        if source.by_hand:
            missing = _is_missing(source, dataset.root)
            by_hand += [f"{source.by_hand} (address: {source.url}; data root: {dataset.root})"] if missing else []
        elif _is_missing(source, dataset.root) or archive.exists():
            waiting = f"another `densebench data get` is at work on {archive.name}; waiting for it"
            with locked(archive.parent, f"{archive.name}.lock", waiting, passing=True):
                if _is_missing(source, dataset.root) or archive.exists():  # checked again: the other one may have done it
                    fetch(source, dataset.root)
        else:
            notice(f"{archive.name}: already unpacked")
    return by_hand


def _is_missing(source: Source, root: Path) -> bool:
    return any(not (root / path).exists() for path in source.gives)


def fetch(source: Source, root: Path) -> None:
    """Download one archive, check it and unpack it. The archive stays until all is unpacked, as the sign of work to be done."""
    archive, folder = _archive(root, source), root / source.into
    if archive.exists():  # an earlier unpacking was stopped, or the archive was fetched by hand
        _check(archive, str(archive), source.checksum)
    else:
        download(source.url, archive, source.checksum, source.bytes)
    unpack(archive, folder, source.inside)
    for name in source.nested:
        unpack(folder / name, (folder / name).parent)
        (folder / name).unlink()
    archive.unlink()


def download(url: str, path: Path, checksum: str | None = None, size: int | None = None) -> None:
    """Stream a file to `path`, resuming from `path`.part where an earlier attempt stopped.

    checksum: "sha256:..." or "md5:...", checked at the end. size: bytes, for the progress where the server does not say.
    Raises UserError for network failures, a cut connection, a full disk and a wrong checksum (the file is then removed).
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            before = _bytes(part)
            try:
                total = _receive(url, part, before, size)
                if total is None or _bytes(part) == total:
                    break
                cause = f"of {total}"
            except CUT as error:
                cause = f"({type(error).__name__})"
            if _bytes(part) <= before:
                raise UserError(f"{url} was cut at {_bytes(part)} bytes {cause}; the same command resumes from there")
            warn(f"{path.name}: the connection was cut at {_bytes(part)} bytes; resuming")
        _check(part, url, checksum)
        part.replace(path)
    except urllib.error.HTTPError as error:
        error.close()
        reason = str(error.reason).partition("\n")[0]
        raise UserError(f"{url} answers {error.code} {reason}; see the data set's page or fetch it by hand to {path}") from error
    except urllib.error.URLError as error:
        raise UserError(
            f"cannot reach {url} ({error.reason}); check the network and the proxy (https_proxy), or fetch it by hand to {path}"
        ) from error
    except ValueError as error:
        raise UserError(f"{url} leads to an address that cannot be read ({error}); fetch it by hand to {path}") from error
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror}; make room or choose another --data-root") from error


def _receive(url: str, part: Path, start: int, size: int | None) -> int | None:
    """Append what the server sends from byte `start` on; return the whole length where it is known."""
    request = urllib.request.Request(url, headers={"User-Agent": "densebench"} | ({"Range": f"bytes={start}-"} if start else {}))
    try:
        response = urllib.request.build_opener(Redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        total = _whole_length(error.headers.get("Content-Range"))
        if total == start:
            return total  # all of it was there already
        part.unlink()  # longer than the file on the server: not the same file
        return _receive(url, part, 0, size)
    with response:
        resumed = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
        if response.status == 206 and not resumed:
            if not start:
                raise UserError(f"{url} answers with a part of the file that was not requested; fetch it by hand")
            part.unlink()
            return _receive(url, part, 0, size)
        length = _length(url, response.headers.get("Content-Length"))
        total = None if length is None else length + (start if resumed else 0)
        _copy(response, part, "ab" if resumed else "wb", start if resumed else 0, total or size)
    return total


def _copy(response: http.client.HTTPResponse, part: Path, mode: str, start: int, total: int | None) -> None:
    name = part.name.removesuffix(".part")
    with part.open(mode) as stream, progress(f"fetch {name}", round((total or 0) / 1e6), "MB") as bar:
        received = start
        while chunk := response.read(CHUNK):
            stream.write(chunk)
            received += len(chunk)
            bar.advance(round(received / 1e6) - bar.done)


def _length(url: str, stated: str | None) -> int | None:
    if stated is not None and not re.fullmatch(r"[0-9]{1,15}", stated.strip()):
        raise UserError(f"{url} says that it sends {stated[:40]!r} bytes, which is no size; try again later or fetch it by hand")
    return None if stated is None else int(stated)


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _whole_length(content_range: str | None) -> int | None:
    match = re.fullmatch(r"bytes \*/(\d+)", content_range or "")
    return int(match[1]) if match else None


def _check(part: Path, url: str, checksum: str | None) -> None:
    if checksum is None:
        return
    kind, _, wanted = checksum.partition(":")
    with part.open("rb") as stream:
        computed = hashlib.file_digest(stream, kind).hexdigest()
    if computed != wanted:
        part.unlink()
        raise UserError(f"{url} has the {kind} {computed}, not the published {wanted}; it was removed, fetch it again")


def _archive(root: Path, source: Source) -> Path:
    return root / ARCHIVES / Path(urlsplit(source.url).path).name
