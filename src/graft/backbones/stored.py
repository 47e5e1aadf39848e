"""Files of tensors (safetensors) that may be damaged or hostile: what they hold, before any of it is read.

A layout is what a file's header says: names, types and shapes. It costs some milliseconds however large
the file is, so that what does not fit a network is refused before anything is hashed or allocated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from graft.errors import GraftError
from graft.files import parse_json, regular_file

MOST_HEADER = 32_000_000  # bytes; a network of 100,000 tensors has about half as many
_LENGTH_BYTES = 8  # that say how long the header is
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class Stored(NamedTuple):
    """Type and shape of a tensor in a file; ``dtype`` None for a type that graft reads from none."""

    dtype: torch.dtype | None
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype or 'of a type that graft does not read'} {self.shape}"


@dataclass(frozen=True)
class Layout:
    """What tensors a file holds."""

    tensors: Mapping[str, Stored]

    @cached_property
    def values(self) -> int:
        """How many numbers they hold in all."""
        return sum(each.values for each in self.tensors.values())

    def under(self, prefix: str) -> Layout:
        """Those whose names begin with ``prefix``, without it."""
        inside = {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}
        return Layout(inside)


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """The layout that a file with these tensors would have."""
    return Layout({name: Stored(each.dtype, tuple(each.shape)) for name, each in tensors.items()})


def read_layout(file: Path, error: type[GraftError], *, within: Path | None = None) -> Layout:
    """What a .safetensors file holds, by its header alone; ``within`` as in :func:`regular_file`.

    Raises:
        GraftError: of the given type, when it cannot be read or is damaged.
    """
    regular_file(file, error, within=within)
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
            rest = file.stat().st_size - _LENGTH_BYTES - length
            if rest < 0 or length > MOST_HEADER:
                raise error(f"{file} is damaged or incomplete: its header has {length} bytes.")
            text = opened.read(length).decode("utf-8")
    except OSError as problem:
        raise error(f"Cannot read {file}: {problem.strerror or problem}.") from None
    except UnicodeDecodeError:
        raise error(f"{file} is damaged: its header is not UTF-8 text.") from None
    header = parse_json(text, error, f"The header of {file}")
    try:
        found = {name: _stored(told, rest) for name, told in header.items() if name != "__metadata__"}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise error(f"{file} is damaged: its header does not describe the tensors in it.") from None
    return Layout(found)


def load_tensors(file: Path, error: type[GraftError], *, within: Path | None = None) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, on the CPU; raises as :func:`read_layout`."""
    read_layout(file, error, within=within)
    try:
        return load_file(file)
    except OSError as problem:
        raise error(f"Cannot read {file}: {problem.strerror or problem}.") from None
    except (SafetensorError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as problem:
        raise error(f"{file} is damaged or incomplete: {problem}.") from None


def _stored(told: Any, most: int) -> Stored:
    """One entry of a header; raises ValueError where it reaches beyond the ``most`` bytes behind it."""
    shape, (begin, end) = tuple(told["shape"]), told["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError("no sizes")
    dtype = _DTYPES.get(told["dtype"])
    bytes_a_value = dtype.itemsize if dtype is not None else 0
    if not begin <= end <= most or math.prod(shape) * bytes_a_value > end - begin:
        raise ValueError("beyond the end of the file")
    return Stored(dtype, shape)
