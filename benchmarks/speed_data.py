"""Rows about reading pictures, memory and start-up."""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

import graft
from graft.data.image import decode_reduced
from graft.preparation import prepare
from graft.reuse.store import Store

Row = dict[str, Any]
SIDES = (3264, 2448)  # 8 megapixels
SHORT = 256  # of the sides that a network of 224 wants


def decode(options: argparse.Namespace) -> Iterator[Row]:
    """Photographs of 8 megapixels, down to the size that a network wants."""
    photos = sorted(path for path in options.photos.rglob("*") if path.is_file())
    files = [_large(path) for path in photos[:12]]
    ours, theirs = [], []
    for _ in range(3):
        theirs.append(_timed(lambda: [_pillow(file) for file in files]))
        ours.append(_timed(lambda: [_graft(file) for file in files]))
    ratio = statistics.median(theirs) / statistics.median(ours)
    per = statistics.median(ours) / len(files)
    worst = max(float(np.abs(_graft(file) - _pillow(file)).mean()) for file in files)
    yield {
        "name": "decode",
        "what": f"decode and reduce photographs of 8 megapixels to {SHORT} pixels",
        "against": "Pillow: whole decoding, then resize",
        "target": "2 times as fast",
        "measured": f"{ratio:.1f} times",
        "holds": ratio >= 2,
        "figures": f"{1000 * per:.0f} ms a picture; means of differences up to {worst:.2f} levels of 255",
    }


def _large(path: Path) -> bytes:
    picture = Image.open(path).convert("RGB")
    sides = SIDES if picture.width >= picture.height else SIDES[::-1]
    buffer = io.BytesIO()
    picture.resize(sides, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _pillow(file: bytes) -> Any:
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    return np.asarray(_to_short(picture), dtype=np.float32)


def _graft(file: bytes) -> Any:
    pixels = decode_reduced(file, SHORT, max_pixels=10**9, channels=3, max_value=None).pixels
    return np.asarray(_to_short(Image.fromarray(pixels.permute(1, 2, 0).numpy())), dtype=np.float32)


def _to_short(picture: Image.Image) -> Image.Image:
    scale = SHORT / min(picture.size)
    sides = [round(scale * side) for side in picture.size]
    return picture.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)


def memory(_: argparse.Namespace) -> Iterator[Row]:
    """Peak memory of solving a probe's head on 1,000 and on 50,000 small pictures, each in a process."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1000, 50_000):
            _make_pictures(Path(folder) / str(count), count)
            words = [sys.executable, "-W", "ignore", __file__, f"{folder}/{count}"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            peaks[count] = float(done.stdout.strip().splitlines()[-1])
    grown = peaks[50_000] - peaks[1000]
    yield {
        "name": "memory",
        "what": "peak memory of a probe, 50,000 pictures of 32 × 32 beside 1,000",
        "against": "itself",
        "target": "grows by less than 200 MB",
        "measured": f"{grown / 1e6:.0f} MB",
        "holds": grown < 200e6,
        "figures": f"{peaks[1000] / 1e6:.0f} and {peaks[50_000] / 1e6:.0f} MB, without the head's path; "
        "50,000 × 256 features are 51 MB of it",
    }


def _make_pictures(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for label in range(4):
        (folder / f"c{label}").mkdir(parents=True)
    for number in range(count):
        pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"c{number % 4}" / f"{number}.png", compress_level=1)


def extract(folder: str) -> None:
    """Print the peak memory, in bytes, of a process that scans a folder and computes its features."""
    from graft import solving
    from graft.training import State

    torch.set_num_threads(2)
    recipe = graft.read_recipe(data__path=folder, strategy="probe", device="cpu")
    prepared = prepare(recipe)
    with tempfile.TemporaryDirectory() as out:
        run = State(prepared.backbone, prepared.splits, prepared.plan, None, Store(Path(out)))
        for _ in solving._features(run, prepared.splits.train):
            pass
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def start_up(_: argparse.Namespace) -> Iterator[Row]:
    """graft --help in a process of its own."""
    words = [sys.executable, "-m", "graft", "--help"]
    seconds = [
        _timed(lambda: subprocess.run(words, check=True, capture_output=True, env=os.environ))
        for _ in range(15)
    ]
    found = statistics.median(seconds)
    yield {
        "name": "start-up",
        "what": "graft --help",
        "against": "a clock",
        "target": "below 0.3 s",
        "measured": f"{found:.2f} s",
        "holds": found < 0.3,
        "figures": f"median of {len(seconds)}",
    }


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


ROWS = {"decode": decode, "memory": memory, "start-up": start_up}

if __name__ == "__main__":
    extract(sys.argv[1])
