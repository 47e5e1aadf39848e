"""Development cases of the study behind ``--strategy auto``: near the pretraining, and far from it.

Photographs come from folders, the rest from scikit-learn or from generators: a letter in any font, the
spectrogram of a call, a texture. Cases are made of training parts alone. A seed draws the labels that
train from a case's pool; all the rest measures.

Shapes: pictures [H, W, 3] in uint8; while they are drawn [3, 64, 64] or [64, 64].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

Array = NDArray[Any]
Pool = tuple[list[Array], Array]  # pictures, and the class of each
Part = tuple[list[Array], list[int]]

SIDE, SHORT = 64, 96  # of drawn pictures; the short side that larger photographs are reduced to
FONTS = Path("/usr/share/fonts")
LETTERS = "bdpqnuszSZNEFLJRKAVT"  # many become another one when they are mirrored


@dataclass(frozen=True)
class Case:
    """A pool of labelled pictures, and how many of each class train: a number, or None for half."""

    pool: Callable[[], Pool]
    labels: int | None

    def draw(self, seed: int) -> dict[str, Part]:
        """What trains and what measures (as ``test``), for graft."""
        pictures, targets = self.pool()
        rng = np.random.default_rng([seed, self.labels or 0])
        train: list[int] = []
        for label in np.unique(targets):
            members = rng.permutation(np.flatnonzero(targets == label))
            train += members[: self.labels or len(members) // 2].tolist()
        rest = np.setdiff1d(np.arange(len(targets)), train).tolist()
        return {
            part: ([pictures[place] for place in places], targets[places].tolist())
            for part, places in (("train", train), ("test", rest))
        }


def make_cases(cifar: Path | None, photos: Path | None) -> dict[str, Case]:
    """The cases that can be had here; ``cifar`` holds train/CLASS, ``photos`` class folders."""
    cases: dict[str, Case] = {}
    if cifar is not None:
        small = cache(partial(_read_folder, cifar / "train"))
        cases |= {"cifar-10": Case(small, 10), "cifar-80": Case(small, 80)}
        cases |= {"cifar-grey-10": Case(cache(lambda: _grey(*small())), 10)}
    if photos is not None:
        cases |= {"photos-half": Case(cache(partial(_read_folder, photos)), None)}
    cases |= {"textures-10": Case(cache(partial(_drawn, _texture, classes=8, each=110)), 10)}
    cases |= {f"digits-{labels}": Case(_digits, labels) for labels in (10, 80)}
    cases |= {"spectra-10": Case(cache(partial(_drawn, _spectrum, classes=8, each=160)), 10)}
    if _fonts():
        glyphs = cache(partial(_drawn, _glyph, classes=len(LETTERS), each=100))
        cases |= {f"glyphs-{labels}": Case(glyphs, labels) for labels in (10, 50)}
    return cases


def _read_folder(folder: Path) -> Pool:
    """Pictures in class folders; of large ones a small copy, so that no time goes into decoding."""
    pictures, targets = [], []
    for label, kind in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for path in sorted(kind.iterdir()):
            picture = Image.open(path).convert("RGB")
            scale = min(1.0, SHORT / min(picture.size))
            pictures.append(np.asarray(picture.resize([round(scale * side) for side in picture.size])))
            targets.append(label)
    return pictures, np.array(targets)


def _grey(pictures: list[Array], targets: Array) -> Pool:
    """Negatives without colour."""
    grey = [255 - picture.mean(axis=2, keepdims=True) for picture in pictures]
    return [np.repeat(picture, 3, axis=2).astype(np.uint8) for picture in grey], targets


@cache
def _digits() -> Pool:
    data = load_digits()
    sheets = (255 - data.images * 15.9375).round()  # 0 to 16, dark on white
    return [_picture(_enlarged(sheet)) for sheet in sheets], data.target.astype(np.int64)


def _drawn(draw: Callable[[Generator, int], Array], *, classes: int, each: int) -> Pool:
    rng, targets = np.random.default_rng(0), np.repeat(np.arange(classes), each)
    return [_picture(draw(rng, int(label))) for label in targets], targets


def _picture(values: Array) -> Array:
    """[3, H, W] or [H, W] of any kind -> [H, W, 3] in uint8."""
    channels = np.broadcast_to(values, (3, *values.shape[-2:]))
    return np.ascontiguousarray(channels.clip(0, 255).transpose(1, 2, 0)).astype(np.uint8)


def _enlarged(grey: Array) -> Array:
    picture = Image.fromarray(grey.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _two_colours(rng: Generator, share: Array) -> Array:
    """Ink where ``share`` is 1, paper where it is 0, both of random colour, in noise."""
    ink, paper = rng.uniform(0, 255, (2, 3, 1, 1))
    picture: Array = share * ink + (1 - share) * paper + rng.normal(0, 25, (3, SIDE, SIDE))
    return picture


@cache
def _fonts() -> list[Path]:
    return sorted(FONTS.rglob("*.ttf"))


def _glyph(rng: Generator, label: int) -> Array:
    """A letter in some font: moved, turned, sheared."""
    fonts = _fonts()
    font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(34, 56)))
    mask = Image.new("L", (SIDE, SIDE))
    at = (SIDE / 2 + rng.uniform(-7, 7), SIDE / 2 + rng.uniform(-7, 7))
    ImageDraw.Draw(mask).text(at, LETTERS[label], font=font, fill=255, anchor="mm")
    mask = mask.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR)
    shear = rng.uniform(-0.3, 0.3)
    moved = (1, shear, -shear * SIDE / 2, 0, 1, 0)
    mask = mask.transform(mask.size, Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR)
    return _two_colours(rng, np.asarray(mask) / 255)


def _spectrum(rng: Generator, label: int) -> Array:
    """The spectrogram of one of eight calls (rising, falling, trills, ...), in noise and false colours."""
    seconds = np.linspace(0, 1, 64 * SIDE)
    base, span = rng.uniform(0.12, 0.25), rng.uniform(0.08, 0.2)
    phase, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.1)
    u = (seconds * speed + rng.uniform(-0.1, 0.1)).clip(0, 1)
    slow, fast = rng.uniform(2.5, 3.5), rng.uniform(5, 6.5)
    course = (
        u,
        1 - u,
        np.sin(np.pi * u),
        1 - np.sin(np.pi * u),
        0.5 * (1 + np.sin(2 * np.pi * slow * u + phase)),
        0.5 * (1 + np.sin(2 * np.pi * fast * u + phase)),
        u**3,
        (u * 3) % 1,
    )[label]
    angle = 2 * np.pi * np.cumsum(base + span * course)
    sound = np.sin(angle) * (0.4 + 0.6 * rng.random()) + 0.3 * np.sin(2 * angle)
    sound += rng.normal(0, rng.uniform(1.0, 3.0), len(sound))
    frames = sound.reshape(-1, 64)
    frames = np.concatenate([frames[:-1], frames[1:]], axis=1) * np.hanning(128)
    power = np.log(1e-3 + np.abs(np.fft.rfft(frames, axis=1)[:, :64]).T[::-1] ** 2)
    power = (power - power.min()) / (power.max() - power.min())
    gammas = np.array([2.0, 1.0, 0.5])[:, None, None]
    picture: Array = 255 * (_enlarged(255 * power) / 255) ** gammas
    return picture


def _texture(rng: Generator, label: int) -> Array:
    """Filtered noise of one of eight kinds, turned at random: which way is up means nothing."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    spectrum = np.fft.fftshift(np.fft.fft2(rng.normal(size=(128, 128))))
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    along = np.cos(angle - rng.uniform(0, np.pi)) ** 2
    centre, width = rng.uniform(0.12, 0.2), 0.05
    ring = np.exp(-(((radius - centre) / width) ** 2))
    shape = (
        1 / (0.02 + radius) ** 1.2,
        1 / (0.02 + radius) ** 1.9,
        ring,
        ring * (along > 0.7),
        ring * ((along > 0.85) | (along < 0.15)),
        np.exp(-(((radius - 1.8 * centre) / width) ** 2)),
        ring,  # made to spots below
        1 / (0.02 + radius) ** 1.2 * (along > 0.6),
    )[label]
    field = np.fft.ifft2(np.fft.ifftshift(spectrum * shape)).real
    if label == 6:
        field = np.maximum(field, 0) ** 2
    field = field[32:96, 32:96]
    field = (field - field.mean()) / (field.std() + 1e-9)
    return _two_colours(rng, 1 / (1 + np.exp(-1.5 * field)))
