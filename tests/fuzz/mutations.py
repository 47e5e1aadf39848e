"""Ways to damage a file: its bytes, its lines, the values of a JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

Others: TypeAlias = Sequence[bytes]
Mutation: TypeAlias = Callable[[bytes, Random, Sequence[bytes]], bytes]
"""(content, random numbers, other contents of its kind) -> the damaged content."""

MOST = 200_000  # bytes of a damaged file
NUMBERS = (0, 1, -1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
WORDS = (
    *(b'"', b"'", b",", b";", b"\t", b"|", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf"),
    *(
        b"=",
        b"[",
        b"]",
        b"{",
        b"}",
        b"#",
        b"\\",
        b"/",
        b"../",
        b".",
        b"%s",
        b"-1",
        b"1e999",
        b"nan",
        b"inf",
    ),
    *(b"\xed\xa0\x80", b"\xe2\x80\xae", b"\x1b[31m", b"\xc3", "é".encode(), "e\u0301".encode(), b" ", b""),
    *(b"null", b"true", b"9" * 400, b"a" * 5000, b"[" * 300, b"label", b"text", b"path", b"train", b"test"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "a" * 3000, "\x1b[31m", "../../x", "\ud800", [], {}, [[]], {"a": {}}),
    *(0, -1, 1, 2, 255, 2**31, 2**40, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
)


def damage_bytes(content: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Flip, overwrite, cut, repeat or splice some bytes."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        place = random.randrange(len(data) + 1)
        length = min(random.choice((1, 2, 4, 8, 64, 1024)), len(data) - place)
        data = random.choice(_BYTE_CHANGES)(data, place, length, random, others)
    return bytes(data[:MOST])


def damage_text(content: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Put words that mean something to a parser into it; leave out, repeat and exchange lines."""
    for _ in range(random.choice((1, 1, 2, 5))):
        lines = content.split(b"\n")
        number = random.randrange(len(lines))
        line = lines[number]
        place = random.randrange(len(line) + 1)
        change = random.randrange(6)
        if change < 3:
            lines[number] = (
                line[:place] + random.choice(WORDS) + line[place + random.choice((0, 0, 1, 5)) :]
            )
        elif change == 3:
            del lines[number]
        elif change == 4:
            lines[number:number] = [line] * random.choice((1, 3, 50))
        else:
            other = random.choice(others).split(b"\n")
            lines[number] = random.choice(other)
        content = b"\n".join(lines)
    return content[:MOST]


def damage_json(content: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Replace, leave out or repeat values of a JSON document; text where it is none."""
    try:
        document = json.loads(content)
    except ValueError:
        return damage_text(content, random, others)
    for _ in range(random.choice((1, 1, 2, 4))):
        places = list(_places(document))
        if not places:
            return damage_text(content, random, others)
        holder, key = random.choice(places)
        change = random.randrange(4)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.extend([holder[key]] * random.choice((1, 5, 100)))
        elif change == 2 and len(places) > 1:
            other, name = random.choice(places)
            holder[key] = json.loads(json.dumps(other.get(name) if isinstance(other, dict) else None))
        else:
            holder[key] = random.choice(VALUES)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Each (holder, key) in the document."""
    found, front = [], [document]
    while front:
        holder = front.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            found += [(holder, key) for key in keys]
            front += [holder[key] for key in keys]
    return found


def _flip(data: bytearray, place: int, _length: int, random: Random, _others: Others) -> bytearray:
    if place < len(data):
        data[place] ^= 1 << random.randrange(8)
    return data


def _number(data: bytearray, place: int, _length: int, random: Random, _others: Others) -> bytearray:
    size = random.choice((1, 2, 4, 8))
    value = random.choice(NUMBERS) % 256**size
    data[place : place + size] = value.to_bytes(size, random.choice(("little", "big")))
    return data


def _cut(data: bytearray, place: int, length: int, random: Random, _others: Others) -> bytearray:
    if random.random() < 0.3:
        return data[:place]
    del data[place : place + length]
    return data


def _repeat(data: bytearray, place: int, length: int, random: Random, _others: Others) -> bytearray:
    data[place:place] = data[place : place + length] * random.choice((1, 2, 30))
    return data


def _noise(data: bytearray, place: int, length: int, random: Random, _others: Others) -> bytearray:
    data[place : place + length] = random.randbytes(length)
    return data


def _splice(data: bytearray, place: int, length: int, random: Random, others: Others) -> bytearray:
    other = random.choice(others)
    start = random.randrange(len(other) + 1)
    data[place : place + length] = other[start : start + random.choice((8, 64, 4096))]
    return data


_BYTE_CHANGES = (_flip, _number, _cut, _repeat, _noise, _splice)
