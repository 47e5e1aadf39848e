"""Tokenizers that may come from strangers: what their rules could make of a text, read before they run.

The library tokenizers does all of a text in one call, in which nothing can stop it. So a tokenizer.json
whose rules multiply texts, loop, or name tokens that do not exist is refused before it is opened, and
texts are cut to a length that, multiplied, is still bounded.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from graft.errors import BackboneError, DataError, GraftError, first_line, quote
from graft.files import parse_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_NORMALISED = 2**22  # characters of a text after all rules
MOST_GROWTH = 64  # times as many characters as a text has
MOST_ADDED = 1024  # characters that rules put beside a text, whatever its length
MOST_RULES = 64
MOST_COPIES = 4  # of a text among its own tokens
MOST_SPECIAL = 256  # tokens around a text
MOST_WORD = 1000  # characters of a word that are looked at piece by piece
MOST_PATTERN = 10_000
_BYTES_A_LETTER = 4
_SECTIONS = ("normalizer", "pre_tokenizer", "decoder")
_INTERVAL = re.compile(r"\{(\d*)(?:(,)(\d*))?\}", re.ASCII)
_HIDING = re.compile(r"\(\?(?:#|[a-zA-Z-]*x)|\\g[<']")  # comments, free spacing, calls of groups
_STACKED = re.compile(r"\{\d*,\d*\}(?:[*+]|\{[\d,])|[*+?]\{[\d,]")
_LISTS = ("normalizers", "pretokenizers", "decoders", "processors")


def check_tokenizer(text: str, vocabulary: int, what: str) -> None:
    """Refuse a tokenizer.json whose rules multiply texts, or with tokens that the network does not know.

    ``vocabulary``: how many tokens it knows.

    Raises:
        BackboneError: naming ``what`` and the rule.
    """
    rules = read_rules(text, what)
    library = tokenizer_class()
    with reported(BackboneError, f"The tokenizer of {what} cannot be read"):
        tokens = library.from_str(text).get_vocab(with_added_tokens=True)
    most = max([*tokens.values(), rules.token], default=0)
    if most >= vocabulary:
        name = next((word for word, number in tokens.items() if number == most), "one around texts")
        raise BackboneError(
            f"The tokenizer of {what} has token {most} ({quote(name)}), and the network knows tokens 0 to "
            f"{vocabulary - 1} only. Resize its embeddings (resize_token_embeddings), or take the "
            "tokenizer that belongs to it."
        )


class Rules(NamedTuple):
    """What a tokenizer.json does to texts: how many times as long its rules can make one, and the largest
    numbers of the tokens and segments that it puts around one.
    """

    growth: int
    token: int
    segment: int


@lru_cache(maxsize=4)
def read_rules(text: str, what: str = "this model") -> Rules:
    """The rules of a tokenizer.json, given as its text; ``what`` names the model in errors.

    Raises:
        BackboneError: they multiply texts beyond all bounds, naming the rule; or it is damaged.
    """
    values = parse_json(text, BackboneError, f"The tokenizer of {what}")
    if not isinstance(values, dict):
        raise BackboneError(f"The tokenizer of {what} is damaged: it is no table of settings.")
    factors = [_growth(values.get(section), what) for section in _SECTIONS]
    around = values.get("post_processor")
    _check_template(around, what)
    _check_model(values.get("model"), what)
    tokens, segments = _special_tokens(around)
    growth = max(1, round(factors[0] * factors[1]))  # the last one's rules are of tokens, not of texts
    return Rules(growth, max(tokens, default=0), max(segments, default=0))


def tokenizer_class() -> type[Tokenizer]:
    """The class of the library tokenizers, which only texts need and the extra ``text`` installs.

    Raises:
        BackboneError: the library is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise BackboneError(
            'Texts need the libraries transformers and tokenizers: pip install "graft-ml[text]".'
        ) from None
    return Tokenizer


def open_tokenizer(text: str) -> Tokenizer:
    """A tokenizer that neither pads nor cuts.

    Raises:
        DataError: it cannot be opened.
    """
    library = tokenizer_class()
    read_rules(text)
    with reported(DataError, "The tokenizer cannot be opened"):
        found = library.from_str(text)
        found.no_padding()
        found.no_truncation()
    return found


@contextmanager
def reported(kind: type[GraftError], what: str) -> Iterator[None]:
    """What the library raises becomes an error of graft's; its panics are no ``Exception``.

    Raises:
        GraftError: of the given kind, with the first line of what the library said.
    """
    try:
        yield
    except GraftError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what}: {first_line(error)}.") from None


def _rules(section: Any) -> Iterator[dict[str, Any]]:
    """The rules of a section in their order, sequences opened."""
    if not isinstance(section, dict):
        return
    inner = [each for name in _LISTS for each in _list(section.get(name))]
    if section.get("type") == "Sequence":
        for each in inner:
            yield from _rules(each)
    else:
        yield section


def _growth(section: Any, what: str) -> float:
    """The product of what each rule of a section multiplies a text by."""
    factor, beside = 1.0, 0.0
    for number, rule in enumerate(_rules(section)):
        times, more = _growth_of_rule(rule, what)
        factor, beside = factor * times, beside * times + more
        if factor > MOST_GROWTH or beside > MOST_ADDED or number >= MOST_RULES:
            raise BackboneError(
                f"The tokenizer of {what} makes texts more than {MOST_GROWTH} times as long, at its rule "
                f"{number + 1} ({quote(rule.get('type'))}); no sound one does."
            )
    return factor


def _growth_of_rule(rule: dict[str, Any], what: str) -> tuple[float, float]:
    """(times, more): a rule makes at most times * n + more characters of n."""
    pattern = rule.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    if expression is not None:
        _check_pattern(str(expression), what)
    kind = rule.get("type")
    if kind == "Replace":
        content = len(str(rule.get("content", "")))
        if expression is not None:  # it may match nothing, between any two letters
            return 1.0 + content, content
        literal = len(str(pattern.get("String", ""))) if isinstance(pattern, dict) else 0
        return (max(1.0, content / literal), 0.0) if literal else (1.0 + content, content)
    if kind == "Prepend":
        return 1.0, len(str(rule.get("prepend", "")))
    if kind == "Metaspace":
        return max(1.0, len(str(rule.get("replacement", "")))), 1.0
    if kind == "ByteLevel":
        return _BYTES_A_LETTER, 1.0
    if kind == "Precompiled":
        return _longest(rule.get("precompiled_charsmap"), what), 0.0
    return 1.0, 0.0


def _longest(table: Any, what: str) -> float:
    """The longest that a table of SentencePiece turns one character into."""
    try:
        raw = binascii.a2b_base64(str(table or ""))
    except binascii.Error:
        raise BackboneError(f"The tokenizer of {what} is damaged: its table of characters.") from None
    texts = raw[4 + int.from_bytes(raw[:4], "little") :].split(b"\0")
    return max(1.0, *(float(len(each.decode("utf-8", "replace"))) for each in texts))


def _check_pattern(pattern: str, what: str) -> None:
    """Raises BackboneError where an expression repeats what repeats, which can take time without end."""
    if len(pattern) > MOST_PATTERN or _repeats_twice(pattern):
        raise BackboneError(
            f"The tokenizer of {what} splits texts by an expression that can take time without end: "
            f"{quote(pattern)}."
        )


def _repeats_twice(pattern: str) -> bool:
    """Whether a group with a choice or a repetition in it is repeated itself, as in (a+)+ or (a{1,9}){9}.

    Also where the pattern has what could hide that: comments, free spacing, calls of groups.
    """
    open_groups, place = [False], 0
    while place < len(pattern):
        letter = pattern[place]
        if _HIDING.match(pattern, place) or _is_stacked(pattern, place, inside=len(open_groups) > 1):
            return True
        if letter in "\\[":
            place = place + 2 if letter == "\\" else _end_of_class(pattern, place)
            continue
        if letter == "(":
            open_groups.append(False)
            place += pattern.startswith("?", place + 1)  # which begins the group's kind
        elif letter == ")" and len(open_groups) > 1:
            inner = open_groups.pop()
            if inner and _times(pattern, place + 1)[1] > 1:
                return True
            open_groups[-1] |= inner
        else:
            open_groups[-1] |= letter == "|" or _varies(pattern, place)
        place += 1
    return False


def _is_stacked(pattern: str, place: int, *, inside: bool) -> bool:
    """Whether a repetition is repeated without a group, as in a{1,9}+b; at the end none fails."""
    found = _STACKED.match(pattern, place)
    return found is not None and (inside or pattern[found.end() :][:1] not in ("", "|"))


def _varies(pattern: str, place: int) -> bool:
    least, most = _times(pattern, place)
    return least != most


def _times(pattern: str, place: int) -> tuple[float, float]:
    """How often what stands before ``place`` is repeated at least and at most; (1, 1) if not at all."""
    signs = {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}
    found = _INTERVAL.match(pattern, place)
    if found is None or not (found[1] or found[3]):
        return signs.get(pattern[place : place + 1], (1, 1))
    least = float(found[1] or 0)
    return least, (float(found[3] or math.inf) if found[2] else least)


def _end_of_class(pattern: str, place: int) -> int:
    """The place behind a class of letters that begins at ``place``; classes hold others."""
    depth = 0
    while place < len(pattern):
        letter = pattern[place]
        depth += (letter == "[") - (letter == "]")
        place += 2 if letter == "\\" else 1
        if depth == 0:
            break
    return place


def _check_template(section: Any, what: str) -> None:
    """Raises BackboneError where a text stands many times among its own tokens, or much around it."""
    copies, special = 1, 0
    for rule in _rules(section):
        for name in ("single", "pair"):
            pieces = _list(rule.get(name))
            texts = sum("Sequence" in each for each in pieces if isinstance(each, dict))
            copies = max(copies, texts) if name == "pair" else copies * max(1, texts)
            special += len(pieces)
        special += sum(len(_list(each.get("ids"))) for each in _entries(rule))
    if copies > MOST_COPIES or special > MOST_SPECIAL:
        raise BackboneError(f"The tokenizer of {what} repeats a text, or puts too many tokens around it.")


def _special_tokens(section: Any) -> tuple[list[int], list[int]]:
    """Numbers of the tokens that are put around texts, and of the segments."""
    tokens, segments = [], []
    for rule in _rules(section):
        tokens += [number for each in _entries(rule) for number in _list(each.get("ids"))]
        tokens += [each[1] for name in ("sep", "cls") if len(each := _list(rule.get(name))) == 2]
        pieces = [*_list(rule.get("single")), *_list(rule.get("pair"))]
        inner = [each for piece in pieces if isinstance(piece, dict) for each in piece.values()]
        segments += [each.get("type_id") for each in inner if isinstance(each, dict)]
    return [n for n in tokens if isinstance(n, int)], [n for n in segments if isinstance(n, int)]


def _check_model(model: Any, what: str) -> None:
    """Raises BackboneError where words of any length, or with long pieces, are searched piece by piece."""
    told = model if isinstance(model, dict) else {}
    most = told.get("max_input_chars_per_word", 0)
    pieces = [told.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    if not isinstance(most, int) or most > MOST_WORD or any(len(str(piece or "")) > 64 for piece in pieces):
        raise BackboneError(f"The tokenizer of {what} looks at words of more than {MOST_WORD} characters.")


def _entries(rule: dict[str, Any]) -> list[dict[str, Any]]:
    told = rule.get("special_tokens")
    return [each for each in told.values() if isinstance(each, dict)] if isinstance(told, dict) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
