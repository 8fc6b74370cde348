"""Servers that answer nonsense: each is one line, and what came before stays."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from densebench.datasets.io.download import download
from densebench.errors import UserError

BODY = b"data" * 100


@pytest.fixture
def serve(monkeypatch):
    """Start a server that gives one answer (status, headers, body) to every request; returns its address and the paths asked."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = []

    def start(status, headers, body=BODY):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_arguments):
                pass

            def do_GET(self):
                asked.append(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((http, thread))
        return f"http://127.0.0.1:{http.server_address[1]}", asked

    yield start
    for http, thread in running:
        http.shutdown()
        http.server_close()
        thread.join()


def refused(url, path):
    with pytest.raises(UserError) as caught:
        download(f"{url}/data.zip", path)
    assert "\n" not in str(caught.value) and not path.exists()
    return str(caught.value)


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "²", "9" * 400, "12, 12"])
def test_a_length_that_is_no_size_is_named(serve, tmp_path, length):
    url, _ = serve(200, {"Content-Length": length.encode("utf-8").decode("latin-1")})
    assert "says that it sends" in refused(url, tmp_path / "data.zip")


def test_a_length_that_never_comes_is_a_cut_connection_and_keeps_what_came(serve, tmp_path):
    url, _ = serve(200, {"Content-Length": str(10**14)})
    assert f"was cut at {len(BODY)} bytes of {10**14}" in refused(url, tmp_path / "data.zip")
    assert (tmp_path / "data.zip.part").read_bytes() == BODY


def test_a_loop_of_redirects_ends(serve, tmp_path):
    url, asked = serve(302, {"Location": "/again", "Content-Length": "0"}, b"")
    assert "answers 302" in refused(url, tmp_path / "data.zip")
    assert len(asked) < 20


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/data.zip", "data:text/plain,evil", "gopher://x/"])
def test_redirects_to_anything_but_the_web_are_refused(serve, tmp_path, target):
    url, _ = serve(302, {"Location": target, "Content-Length": "0"}, b"")
    assert "answers 302" in refused(url, tmp_path / "data.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["http://[half", "http:///nowhere", "http://127.0.0.1:port/", "https://", "http://\x7f/"])
def test_redirects_to_broken_addresses_are_one_line(serve, tmp_path, target):
    url, _ = serve(302, {"Location": target, "Content-Length": "0"}, b"")
    assert url in refused(url, tmp_path / "data.zip")


def test_a_part_that_nobody_asked_for_is_refused(serve, tmp_path):
    url, _ = serve(206, {"Content-Range": "bytes 5-9/10", "Content-Length": "5"}, b"56789")
    assert "answers with a part of the file" in refused(url, tmp_path / "data.zip")
