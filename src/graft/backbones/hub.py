"""Files from the Hugging Face hub and from plain addresses, in bounded time.

A file in the cache is used without a network. Otherwise the server is tried for a few seconds
first, since the libraries underneath take up to a minute to say that there is no network, and a
download that stands still is given up. Nothing is ever found under its final name unless whole.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlparse

from graft.errors import BackboneError, first_line

PROBE_SECONDS = 5.0
STALL_SECONDS = 12.0

SizeHint = Callable[[], int | None]
"""Bytes that the file has, as far as known without a network; asked only when it cannot be had."""

_T = TypeVar("_T")


class MissingFileError(BackboneError):
    """The server answered that it does not have this file."""


class UncachedFileError(MissingFileError):
    """Offline, and the cached copy of the repository lacks this file: whether it has one is not known."""


def is_switched_off() -> bool:
    """Whether HF_HUB_OFFLINE says that no network is to be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def fetch_from_hub(repo: str, filename: str, size: SizeHint, revision: str | None = None) -> Path:
    """The path of a file of a Hugging Face repository, downloaded unless it is cached.

    Args:
        repo: ORG/NAME.
        size: tells the size in bytes for the message of a failure.

    Raises:
        MissingFileError: the repository has no such file, or does not exist.
        BackboneError: offline, unreachable, or the download broke off.
    """
    from huggingface_hub import (
        _CACHED_NO_EXIST,
        constants,
        hf_hub_download,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    cached = try_to_load_from_cache(repo, filename, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    if cached is _CACHED_NO_EXIST:  # the server said so before
        raise MissingFileError(f"There is no {filename} in the Hugging Face repository {repo}.")
    what = f"{filename} of the Hugging Face repository {repo}"
    if constants.HF_HUB_OFFLINE or is_switched_off():
        if isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str):
            raise UncachedFileError(
                f"There is no {filename} in the cached copy of the Hugging Face repository {repo}, and "
                "HF_HUB_OFFLINE is set."
            )
        raise _not_had(what, "HF_HUB_OFFLINE is set and the file is not in the cache", size())
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    found = _probe(f"{endpoint}/{repo}/resolve/{revision or 'main'}/{filename}", what, size)
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"

    def download() -> str:
        return hf_hub_download(
            repo, filename, revision=revision, endpoint=endpoint, etag_timeout=PROBE_SECONDS
        )

    try:
        return Path(_watched(download, cache))
    except (EntryNotFoundError, RepositoryNotFoundError):
        raise MissingFileError(f"There is no {what} at {endpoint}: check the name.") from None
    except Exception as error:  # httpx, OS and hub errors have no common base
        raise _not_had(what, first_line(error), found or size()) from None


def fetch_from_url(url: str, size: SizeHint) -> Path:
    """The path of a file at a plain address, kept in torch.hub's cache and checked by its hash.

    Raises:
        BackboneError: offline, unreachable, or the download broke off.
    """
    import torch

    name = Path(urlparse(url).path).name
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / name
    if file.is_file():
        return file
    if is_switched_off():
        raise _not_had(name, f"HF_HUB_OFFLINE is set and {file} does not exist", size())
    found = _probe(url, name, size)
    folder.mkdir(parents=True, exist_ok=True)
    sha = re.search(r"-([a-f0-9]{8,})\.", name)
    try:
        with _socket_timeout(STALL_SECONDS):
            torch.hub.download_url_to_file(url, str(file), sha.group(1) if sha else None, False)
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_had(f"{name} from {url}", first_line(error), found or size()) from None
    return file


def _probe(url: str, what: str, size: SizeHint) -> int | None:
    """Ask for the file's head; its size where told. Any answer at all counts as reached."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "graft"})

    def ask() -> int | None:
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as answer:
                told = answer.headers.get("X-Linked-Size") or answer.headers.get("Content-Length")
                return int(told) if told and told.isdigit() else None
        except urllib.error.HTTPError:
            return None

    try:
        return _in_thread(ask, PROBE_SECONDS + 1.0)
    except (OSError, TimeoutError, ValueError) as error:
        host = urlparse(url).netloc
        raise _not_had(what, f"{host} cannot be reached: {first_line(error)}", size()) from None


def _watched(download: Callable[[], _T], folder: Path) -> _T:
    """Run ``download``; give up when the files in ``folder`` have not grown for a while."""
    task = _Task(download)
    seen, since = _bytes_in(folder), time.monotonic()
    while not task.done.wait(0.1):
        now = _bytes_in(folder)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > STALL_SECONDS:
            raise TimeoutError(f"no data came for {STALL_SECONDS:.0f} seconds")
    return task.result()


def _in_thread(job: Callable[[], _T], seconds: float) -> _T:
    """Run ``job`` for at most so long; looking a name up has no timeout of its own."""
    task = _Task(job)
    if not task.done.wait(seconds):
        raise TimeoutError(f"no answer within {seconds:.0f} seconds")
    return task.result()


class _Task(Generic[_T]):
    """A job in a thread that never keeps the process alive."""

    def __init__(self, job: Callable[[], _T]) -> None:
        self.done = threading.Event()
        self._job = job
        self._values: list[_T] = []
        self._error: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._values.append(self._job())
        except Exception as error:
            self._error = error
        self.done.set()

    def result(self) -> _T:
        if self._error is not None:
            raise self._error
        return self._values[0]


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.glob("blobs/*"):
        try:
            total += file.stat().st_size
        except OSError:  # renamed to its final name in this moment
            total += 1
    return total


def _not_had(what: str, why: str, size: int | None) -> BackboneError:
    large = f" (about {size / 1e6:,.0f} MB)" if size else ""
    return BackboneError(
        f"{what}{large} is needed and cannot be had: {why}. Fetch the file where there is a "
        "network: weights are given with --weights FILE, a folder with a whole model as hf/FOLDER. For "
        "pictures, graft/resnet18-half-64 needs no network."
    )
