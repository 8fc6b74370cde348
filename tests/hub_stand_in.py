"""A stand-in of the Hugging Face Hub: the routes of its HTTP API that pushing and pulling records use, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_may_write"


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """Its repositories, {name: {commit: files}} with the newest commit last, and what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.sent: list[list[str]] = []
        self.lies: dict[str, int] = {}
        """Sizes that are listed for files, other than the true ones."""
        self.broken = False
        self.endpoint = ""

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add files to a repository, which is made if need be, in a commit; return its id."""
        commits = self.repositories.setdefault(name, {})
        content = {**(list(commits.values())[-1] if commits else {}), **files}
        key = hashlib.sha1(repr((sorted(content.items()), len(commits))).encode()).hexdigest()
        commits[key] = content
        return key

    def newest(self, name: str) -> dict[str, bytes]:
        """Return the files of the newest commit."""
        return list(self.repositories[name].values())[-1]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._begin()
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:1] == ["datasets"]:
            name, revision, path = "/".join(parts[1:3]), parts[4], "/".join(parts[5:])
        else:
            name, revision, path = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main", ""
        commits = self.hub.repositories.get(name, {})
        key = list(commits)[-1] if commits and revision == "main" else revision
        if self.hub.broken:
            self._answer({"error": "the disk is full"}, 507)
        elif not commits or (name in self.hub.private and not self._may):
            self._answer({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
        elif key not in commits:
            self._answer({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
        elif parts[0] == "datasets":
            headers = {"ETag": f'"{blob(commits[key][path])}"', "X-Repo-Commit": key}
            self._answer(commits[key][path], **headers)
        elif "tree" in parts:
            held, lies = commits[key], self.hub.lies
            files = [
                {"type": "file", "path": path, "size": lies.get(path, len(content)), "oid": blob(content)}
                for path, content in held.items()
            ]
            self._answer([{"type": "directory", "path": "records", "oid": "0" * 40}, *files])
        else:
            self._answer({"id": name, "sha": key, "siblings": [{"rfilename": file} for file in commits[key]]})

    def do_POST(self) -> None:
        self._begin()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[1] == "validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif not self._may:
            self._answer({"error": "Forbidden: pass a token with the right to write"}, 403)
        elif parts[1:] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(name)
            self.hub.commit(name, {})
            self._answer({"url": f"{self.hub.endpoint}/datasets/{name}"})
        elif parts[4] == "preupload":
            asked = json.loads(body)["files"]
            held = self.hub.newest("/".join(parts[2:4]))
            oids = {file["path"]: blob(held[file["path"]]) for file in asked if file["path"] in held}
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": oids.get(f["path"])} for f in asked
            ]
            self._answer({"files": files})
        else:
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, list(self.hub.repositories[name])[-1]):
            self._answer({"error": "A commit has happened since"}, 412)
            return
        files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        self.hub.sent.append(sorted(files))
        key = self.hub.commit(name, files)
        self._answer({"commitUrl": f"{self.hub.endpoint}/datasets/{name}/commit/{key}", "commitOid": key, "success": True})

    def _begin(self) -> None:
        self.hub.requests.append((self.command, self.path))
        self._may = self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Hub]:
    """Yield a hub that answers at `endpoint` during the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
