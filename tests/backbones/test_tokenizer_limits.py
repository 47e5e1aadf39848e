from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graft.backbones import load_backbone
from graft.backbones.tokenizer_limits import MOST_GROWTH, check_tokenizer, read_rules
from graft.data.items import Items, Text
from graft.data.texts import Texts
from graft.errors import BackboneError
from small_text import SMALL, write_model, write_tokenizer

KNOWN = SMALL["vocab_size"]


@pytest.fixture
def rules(tmp_path: Path) -> dict[str, Any]:
    write_tokenizer(tmp_path)
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    assert isinstance(values, dict)
    return values


def check(values: dict[str, Any]) -> None:
    check_tokenizer(json.dumps(values), KNOWN, "this")


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def in_turn(kind: str, *rules: Any) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(rules)}


SOUND: list[tuple[str, Any]] = [
    ("normalizer", in_turn("normalizers", {"type": "Prepend", "prepend": "▁"}, replace("▁", String=" "))),
    (
        "normalizer",
        in_turn("normalizers", replace('"', String="``"), {"type": "NFKD"}, {"type": "Lowercase"}),
    ),
    ("normalizer", replace(" ", Regex=" {2,}")),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}),
    (
        "pre_tokenizer",
        in_turn(
            "pretokenizers",
            {
                "type": "Split",
                "pattern": {
                    "Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                    " ?[^\\s\\p{L}"
                    "\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
                },
                "behavior": "Isolated",
                "invert": False,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ),
    ),
    (
        "pre_tokenizer",
        {
            "type": "Split",
            "pattern": {"Regex": " ?[^(\\s|[.,!?…。，、।۔،])]+"},
            "behavior": "Isolated",
            "invert": False,
        },
    ),
]
MULTIPLYING: list[tuple[str, Any]] = [
    ("normalizer", in_turn("normalizers", *[replace("w" * 64, String="w")] * 6)),
    ("normalizer", replace("x" * 500, Regex=".")),
    ("normalizer", replace("x" * 65, String="")),
    (
        "normalizer",
        in_turn(
            "normalizers",
            in_turn("normalizers", replace("ab" * 9, String="a")),
            replace("b" * 9, String="b"),
        ),
    ),
    ("normalizer", in_turn("normalizers", *[{"type": "Prepend", "prepend": "x" * 300}] * 4)),
    ("normalizer", in_turn("normalizers", *[{"type": "ByteLevel"}] * 5)),
    ("normalizer", in_turn("normalizers", *[{"type": "NFKC"}] * 1000)),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAHh4" + "eHh4" * 100}),
    ("normalizer", replace(" ", Regex="(a+)+$")),
    (
        "pre_tokenizer",
        {"type": "Split", "pattern": {"Regex": "((a|b)*)*c"}, "behavior": "Isolated", "invert": False},
    ),
    (
        "pre_tokenizer",
        {"type": "Metaspace", "replacement": "▁" * 99, "prepend_scheme": "always", "split": True},
    ),
    ("decoder", in_turn("decoders", *[replace("y" * 9, String="y")] * 3)),
    (
        "post_processor",
        {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 50,
            "pair": [],
            "special_tokens": {},
        },
    ),
    (
        "post_processor",
        {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2] * 5000, "tokens": ["[CLS]"] * 5000}},
        },
    ),
]


CONTRACTIONS = "'(?:[sdmt]|ll|ve|re)"
KNOWN_PATTERNS = [
    f"{CONTRACTIONS}| ?\\p{{L}}+| ?\\p{{N}}+| ?[^\\s\\p{{L}}\\p{{N}}]+|\\s+(?!\\S)|\\s+",
    f"(?i:{CONTRACTIONS})|[^\\r\\n\\p{{L}}\\p{{N}}]?+\\p{{L}}++|\\p{{N}}{{1,3}}+| ?[^\\s]++[\\r\\n]*+",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{M}]*[\\p{Ll}\\p{M}]+(?i:'s|'t|'re)?|\\p{N}{1,3}| ?[^\\s]+[\\r\\n/]*",
    "\\p{N}{1,2}(?=(?:\\p{N}{3})*(?:\\P{N}|$))|\\p{N}{3}",
    "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+",
    "(?<=x)a*|(?:ab|cd)?e|\\x{41}+| {2,}",
]
ENDLESS = [
    *(
        "(a{1,99}){1,99}b",
        "(a{1,}){00000000000002,}b",
        "(a+){99}b",
        "(?:a?){30}b",
        "(a{,9})*b",
        "(?:a|b){2}c",
    ),
    *(
        "((a{1,9})){9}",
        "a{1,9}+b",
        "a+{1,9}b",
        "(a{1,9}+|x)b",
        "(?x)(a+) +b",
        "(a+)(?#)+b",
        "(?<n>a\\g<n>*)b",
    ),
]


@pytest.mark.parametrize("pattern", KNOWN_PATTERNS)
def test_patterns_of_known_tokenizers_pass(rules: dict[str, Any], pattern: str) -> None:
    """Those of GPT-2, cl100k, o200k and CLIP, and digits in threes."""
    check(rules | {"normalizer": replace(" ", Regex=pattern)})


@pytest.mark.parametrize("pattern", ENDLESS)
def test_repetitions_of_repetitions_are_refused_in_every_form(rules: dict[str, Any], pattern: str) -> None:
    with pytest.raises(BackboneError, match="time without end"):
        check(rules | {"normalizer": replace(" ", Regex=pattern)})


@pytest.mark.parametrize(("section", "rule"), SOUND, ids=str)
def test_rules_of_sound_tokenizers_pass(rules: dict[str, Any], section: str, rule: Any) -> None:
    check(rules | {section: rule})


@pytest.mark.odd_input("Bundles of strangers")
@pytest.mark.parametrize(("section", "rule"), MULTIPLYING, ids=lambda value: str(value)[:40])
def test_rules_that_multiply_texts_are_refused(rules: dict[str, Any], section: str, rule: Any) -> None:
    """A tokenizer whose rules make a text more than 64 times as long, repeat it, or can take time
    without end: it is refused before it is opened."""
    with pytest.raises(BackboneError, match="The tokenizer of this"):
        check(rules | {section: rule})


def test_texts_are_cut_to_what_the_rules_leave_bounded(
    rules: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(f"hf/{write_model(tmp_path / 'model', 'bert')}")
    text = json.dumps(rules | {"normalizer": replace(" a" * 8, String="a")})
    assert read_rules(text).growth == MOST_GROWTH // 4
    monkeypatch.setattr("graft.data.texts.MOST_NORMALISED", 160)
    items = Items((Text("a " * 500),), ("",), None, ("",))
    from dataclasses import replace as changed

    found = Texts(items, changed(backbone.preprocess, tokenizer=text))
    assert found.whole_lengths.tolist() == [2 + 5 * 8]


@pytest.mark.odd_input("Weights and models")
@pytest.mark.parametrize("where", ["vocabulary", "added", "around"])
def test_tokens_beyond_the_embeddings_are_refused(tmp_path: Path, where: str) -> None:
    """A tokenizer with more tokens than the network has embeddings: the model is refused at loading,
    with the token's number and the cure."""
    folder = write_model(tmp_path / "model", "bert")
    values = json.loads((folder / "tokenizer.json").read_text())
    if where == "vocabulary":
        values["model"]["vocab"]["brand"] = KNOWN
    elif where == "added":
        added = {"id": KNOWN, "content": "brand", "special": False, "normalized": False}
        values["added_tokens"].append(added | dict.fromkeys(("single_word", "lstrip", "rstrip"), False))
    else:
        values["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [KNOWN]
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(BackboneError, match=rf"token {KNOWN} .*knows tokens 0 to {KNOWN - 1} only"):
        load_backbone(f"hf/{folder}")


def test_segments_beyond_those_of_the_network_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "bert")
    values = json.loads((folder / "tokenizer.json").read_text())
    values["post_processor"]["single"][0]["SpecialToken"]["type_id"] = 7
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(BackboneError, match="segments beyond the 2"):
        load_backbone(f"hf/{folder}")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model": 3}', '{"normalizer": 5, "model": {"type": "x"}}']
)
def test_damaged_tokenizers_are_one_error(text: str) -> None:
    with pytest.raises(BackboneError, match="The tokenizer of this"):
        check_tokenizer(text, 10, "this")
