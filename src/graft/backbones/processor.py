"""How pictures become inputs of a network of transformers: what its ``preprocessor_config.json`` says."""

from __future__ import annotations

from typing import Any

from graft.backbones.contract import Preprocess
from graft.backbones.repository import find_optional, read_json_object
from graft.errors import BackboneError

_PIXEL_MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_FULL_FROM = 384  # pixels from which on ConvNeXt crops nothing


def read_preprocess(name: str, config: Any) -> Preprocess:
    """As the repository's file says; without one, squares as the network takes them.

    Raises:
        BackboneError: the file says no size that can be read.
    """
    found = find_optional(name, "preprocessor_config.json", cure="load it once with a network.")
    told = read_json_object(found["preprocessor_config.json"]) if found else {}
    whole = _sides(told.get("size") or getattr(config, "image_size", None) or 224)
    crop = _sides(told.get("crop_size") or 0)
    if not all(isinstance(side, int) and side >= 0 for side in (*whole, *crop)) or 0 in whole:
        raise BackboneError(f"hf/{name}: its preprocessor_config.json says no size that can be read.")
    size, resize = whole, whole
    if told.get("crop_pct") and whole[0] < _FULL_FROM:  # ConvNeXt's way to say it
        short = int(whole[0] / told["crop_pct"])
        resize = (short, short)
    elif told.get("do_center_crop") and 0 not in crop:
        size = crop
    half = (0.5,) * int(config.num_channels)
    return Preprocess(
        size=size,
        # Square and larger than what is kept: the shorter side, and then the middle.
        resize=resize[0] if resize != size and resize[0] == resize[1] else resize,
        interpolation=_PIXEL_MODES.get(told.get("resample", 2), "bilinear"),
        mean=tuple(told.get("image_mean") or half),
        std=tuple(told.get("image_std") or half),
    )


def _sides(told: Any) -> tuple[int, int]:
    """Height and width of what is written as a number, a pair, or one of two kinds of table."""
    if isinstance(told, dict):
        told = told.get("shortest_edge") or (told.get("height"), told.get("width"))
    return (told, told) if isinstance(told, int) else tuple(told)
