"""Failures of the network, against loopback ports and servers of our own."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from graft.backbones import hub
from graft.errors import BackboneError

BODY = b"weights" * 1000
SHA = hashlib.sha256(BODY).hexdigest()


class Server(BaseHTTPRequestHandler):
    """A tiny Hugging Face hub, and a plain file server, that may break off in the middle."""

    behaviour = "whole"

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if not self._head():
            return
        if self.behaviour == "stall":
            self.wfile.write(BODY[:100])
            self.wfile.flush()
            time.sleep(5)
        elif self.behaviour == "flipped":
            self.wfile.write(b"W" + BODY[1:])
        else:
            self.wfile.write(BODY)

    def _head(self) -> bool:
        known = "model" in self.path
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{SHA}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(BODY) if known else 0))
        self.end_headers()
        return known

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(behaviour: str) -> Iterator[str]:
    handler = type("Handler", (Server,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "torch"))
    yield  # type: ignore[misc]
    torch.hub.set_dir(before)


def unreachable() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def fails_soon(job: Callable[[], object]) -> str:
    begun = time.monotonic()
    with pytest.raises(BackboneError) as failure:
        job()
    assert time.monotonic() - begun < 20
    assert failure.value.exit_code == 2
    return str(failure.value)


def test_unreachable_hub_says_what_is_missing_how_large_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", unreachable())
    message = fails_soon(lambda: hub.fetch_from_hub("org/net", "model.bin", lambda: 44_000_000))
    for part in ("model.bin", "org/net", "44 MB", "--weights", "127.0.0.1"):
        assert part in message


def test_offline_is_respected_without_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = fails_soon(lambda: hub.fetch_from_hub("org/net", "model.bin", lambda: None))
    assert "HF_HUB_OFFLINE" in message
    message = fails_soon(lambda: hub.fetch_from_url("https://a.b/model-1234abcd.pth", lambda: 1))
    assert "HF_HUB_OFFLINE" in message


def test_hub_file_is_fetched_once_and_then_found_without_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve("whole") as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        file = hub.fetch_from_hub("org/net", "model.bin", lambda: None)
        assert file.read_bytes() == BODY
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.fetch_from_hub("org/net", "model.bin", lambda: None) == file


def test_missing_hub_file_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve("whole") as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(hub.MissingFileError, match=r"other\.bin"):
            hub.fetch_from_hub("org/net", "other.bin", lambda: None)


def test_a_download_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "STALL_SECONDS", 1.0)
    with serve("stall") as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        message = fails_soon(lambda: hub.fetch_from_hub("org/net", "model.bin", lambda: None))
        assert "no data" in message
        url = f"{address}/model-{SHA[:8]}.pth"
        fails_soon(lambda: hub.fetch_from_url(url, lambda: None))


def test_url_is_fetched_checked_and_kept() -> None:
    with serve("whole") as address:
        url = f"{address}/model-{SHA[:8]}.pth"
        file = hub.fetch_from_url(url, lambda: None)
        assert file.read_bytes() == BODY
    assert hub.fetch_from_url(url, lambda: None) == file


def test_url_with_a_flipped_byte_is_refused_and_not_kept(tmp_path: Path) -> None:
    with serve("flipped") as address:
        url = f"{address}/model-{SHA[:8]}.pth"
        assert "hash" in fails_soon(lambda: hub.fetch_from_url(url, lambda: None))
    assert not list((tmp_path / "torch").rglob("*.pth"))


def test_unreachable_url() -> None:
    url = f"{unreachable()}/model-{SHA[:8]}.pth"
    assert "2 MB" in fails_soon(lambda: hub.fetch_from_url(url, lambda: 2_000_000))
