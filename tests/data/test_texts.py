"""Texts from tables and lists to batches of tokens."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import graft.data.texts as texts_module
from graft.backbones.contract import PADDING, Encoding
from graft.data import read_items, read_labelled, read_splits
from graft.data.items import Items, Splits, Text
from graft.data.texts import Texts, list_cut, number_of
from graft.errors import DataError
from graft.recipe import DataSettings
from graft.schedule import steps_in_epoch
from small_text import SPECIAL, WORDS, write_tokenizer

ALL = DataSettings(validation=0.0)


@pytest.fixture(scope="module")
def encoding(tmp_path_factory: pytest.TempPathFactory) -> Encoding:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Encoding((folder / "tokenizer.json").read_text(), 16, len(WORDS) + len(SPECIAL))


def items(*said: str | tuple[str, str], targets: Any = None) -> Items:
    each = tuple(Text(one) if isinstance(one, str) else Text(*one) for one in said)
    ids = tuple(str(number) for number in range(len(each)))
    return Items(each, ids, targets, tuple(one.digest for one in each))


def words(count: int) -> str:
    return " ".join(WORDS[number % len(WORDS)] for number in range(count))


def texts(path: Path, content: str | bytes, **settings: Any) -> Splits:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_splits(path, DataSettings(validation=0.0, **settings), modality="text")


def said(splits: Splits) -> list[str]:
    return [each.first for each in splits.train.sources if isinstance(each, Text)]


def test_a_batch_holds_tokens_segments_and_padding(encoding: Encoding) -> None:
    source = Texts(items("a good film", ("the plot", "dull")), encoding)
    ((inputs, targets, numbers),) = source.batches([[0, 1]])
    names = (*SPECIAL, *WORDS)
    first = [names[number] for number in inputs[0, 0].tolist() if number != PADDING]
    assert first == ["[CLS]", "a", "good", "film", "[SEP]"]
    assert inputs[0, :, 5].tolist() == [PADDING, PADDING]
    assert inputs[1, 1].tolist() == [0, 0, 0, 0, 1, 1]
    assert targets.tolist() == [-1, -1] and numbers.tolist() == [0, 1]


def test_what_holds_no_known_token_is_one_token_all_the_same(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, decoder=True)
    encoding = Encoding((tmp_path / "tokenizer.json").read_text(), 16, 24)
    ((inputs, _, _),) = Texts(items(" ", "good"), encoding).batches([[0, 1]])
    assert inputs.shape == (2, 2, 1) and bool((inputs >= 0).all())


@given(st.lists(st.integers(1, 14), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 5))
def test_batches_hold_every_draw_once_and_texts_of_like_length(
    lengths: list[int], size: int, seed: int
) -> None:
    source = Texts(items(*(words(length) for length in lengths)), Encoding("", 16, 24))
    source.__dict__["lengths"] = np.array(lengths)
    draws = [(number, 3) for number in range(len(lengths))]
    batches = source.cut(draws, size, seed)
    assert sorted(draw for batch in batches for draw in batch) == draws
    assert len(batches) == steps_in_epoch(len(lengths), size)
    assert batches == source.cut(draws, size, seed)
    assert source.order(range(len(lengths))) == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for group in source.groups(draws):
        assert len({lengths[number_of(draw)] for draw in group}) == 1


def test_little_padding_is_computed() -> None:
    """At most a tenth more tokens than there are, of lengths as people write."""
    lengths = np.clip(np.random.default_rng(0).lognormal(3.0, 0.6, 3000).astype(int), 3, 128)
    source = Texts(items(*["a"] * len(lengths)), Encoding("", 128, 24))
    source.__dict__["lengths"] = lengths
    batches = source.cut(list(range(len(lengths))), 32, 0)
    computed = sum(len(batch) * max(int(lengths[i]) for i in batch) for batch in batches)
    assert computed / lengths.sum() <= 1.10
    at_random = np.random.default_rng(1).permutation(len(lengths)).reshape(-1, 30)
    assert sum(30 * lengths[batch].max() for batch in at_random) / lengths.sum() > 2.0


@pytest.mark.odd_input("Texts")
@pytest.mark.parametrize("said, most", [("a film", 2), (("a film", "good"), 3)])
def test_a_text_needs_room_beside_its_special_tokens(encoding: Encoding, said: Any, most: int) -> None:
    """A tokenizer whose special tokens take up the whole length that the network reads: it is refused."""
    with pytest.raises(
        DataError, match=f"{most} tokens around each text, and the network takes {most} in all"
    ):
        _ = Texts(items(said), replace(encoding, max_length=most)).lengths
    assert Texts(items(said), replace(encoding, max_length=most + 1)).lengths.tolist() == [most + 1]


def test_long_texts_are_cut_and_counted(encoding: Encoding) -> None:
    given = items(words(30), "good", (words(20), "bad"))
    source = Texts(given, encoding)
    assert source.lengths.tolist() == [16, 3, 16]
    assert source.whole_lengths.tolist() == [32, 3, 24]
    (problem,) = list_cut(given, encoding)
    assert problem.code == "cut" and problem.count == 2 and problem.examples[0] == "0: 32 tokens"
    assert "40.7 % of all tokens" in problem.message  # 24 of 59
    assert list_cut(items("good"), encoding) == ()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("csv", 'text,label\n"fine, and good",yes\ndull,no\n'),
        ("csv", 'text;label\n"fine, and good";yes\ndull;no\n'),
        ("tsv", "text\tlabel\nfine, and good\tyes\ndull\tno\n"),
        ("jsonl", '{"text": "fine, and good", "label": "yes"}\n{"text": "dull", "label": "no"}\n'),
    ],
)
def test_tables_of_texts(suffix: str, content: str, tmp_path: Path) -> None:
    splits = texts(tmp_path / f"table.{suffix}", content)
    assert said(splits) == ["fine, and good", "dull"]
    assert splits.task.labels == ("no", "yes") and splits.problems == ()
    assert splits.train.targets is not None and splits.train.targets.tolist() == [1, 0]


def test_parquet_of_texts(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"review": ["fine", "dull"], "label": [1, 0]}), tmp_path / "t.parquet"
    )
    splits = read_splits(tmp_path / "t.parquet", ALL, modality="text")
    assert said(splits) == ["fine", "dull"] and splits.task.labels == ("0", "1")


@pytest.mark.parametrize("column", ["sentence", "Review", "anything"])
def test_the_column_of_texts_is_guessed_where_obvious_and_said(column: str, tmp_path: Path) -> None:
    splits = texts(tmp_path / "t.csv", f"{column},label\nfine,yes\ndull,no\n")
    assert said(splits) == ["fine", "dull"]
    (problem,) = splits.problems
    assert problem.code == "column" and problem.examples == (column,)


def test_where_it_is_not_obvious_it_must_be_named(tmp_path: Path) -> None:
    table = "one,two,label\nfine,1,yes\ndull,2,no\n"
    with pytest.raises(
        DataError, match=r"Cannot tell which column.*'one', 'two', 'label'.*data\.text=NAME"
    ):
        texts(tmp_path / "t.csv", table)
    assert said(texts(tmp_path / "t.csv", table, text="one")) == ["fine", "dull"]
    with pytest.raises(DataError, match=r"no column 'oen'.*Did you mean 'one'.*data\.text"):
        texts(tmp_path / "t.csv", table, text="oen")


def test_pairs_of_texts(tmp_path: Path) -> None:
    table = "premise,hypothesis,label\na film,a picture,yes\na film,a dog,no\n"
    found = texts(tmp_path / "t.csv", table).train.sources
    assert found == (Text("a film", "a picture"), Text("a film", "a dog"))
    named = texts(tmp_path / "t.csv", table, text=("hypothesis", "premise")).train.sources
    assert named[0] == Text("a picture", "a film")


def test_several_labels_a_text(tmp_path: Path) -> None:
    splits = texts(tmp_path / "t.csv", "text,label\nfine,a|b\ndull,b\n", separator="|")
    assert splits.task.multi_label and splits.train.targets is not None
    assert splits.train.targets.tolist() == [[1, 1], [0, 1]]


def test_bytes_that_are_no_text_are_replaced_and_told(tmp_path: Path) -> None:
    splits = texts(tmp_path / "t.csv", b"text,label\ncaf\xe9,yes\nfine,no\n")
    assert said(splits) == ["caf\ufffd", "fine"]
    (problem,) = splits.problems
    assert problem.code == "encoding" and problem.count == 1 and "line 2" in problem.examples[0]


def test_empty_texts_are_set_aside_up_to_a_share(tmp_path: Path) -> None:
    table = "text,label\n" + "fine,yes\ndull,no\n" * 2 + " ,no\n"
    (problem,) = (each for each in texts(tmp_path / "t.csv", table).problems if each.code == "unreadable")
    assert problem.message.startswith("1 unreadable text left out") and "empty" in problem.examples[0]
    with pytest.raises(DataError, match="2 of 6 texts cannot be read"):
        texts(tmp_path / "t.csv", table + ",yes\n", bad_share=0.1)


def test_the_same_words_twice_stay_and_are_told_under_another_label(tmp_path: Path) -> None:
    splits = texts(tmp_path / "t.csv", "text,label\nfine,yes\nfine,yes\nfine,no\n")
    assert len(splits.train) == 3
    assert [each.code for each in splits.problems] == ["contradiction"]
    assert "3 texts identical" in splits.problems[0].message


def test_a_folder_of_tables_called_as_splits(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for name, rows in {
        "train.csv": "fine,yes\ndull,no",
        "dev.csv": "good,yes",
        "test.csv": "bad,no",
    }.items():
        (tmp_path / name).write_text(f"sentence,label\n{rows}\n")
    splits = read_splits(tmp_path, DataSettings(), modality="text")
    assert splits.val is not None and splits.test is not None
    assert splits.train.ids == ("train.csv, line 2", "train.csv, line 3")
    assert [str(each.sources[0]) for each in (splits.val, splits.test)] == ["good", "bad"]
    assert [each.code for each in splits.problems] == ["column"]  # said once
    (tmp_path / "training.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(DataError, match=r"2 candidates for the training part: train.csv, training.tsv"):
        read_splits(tmp_path, ALL, modality="text")
    with pytest.raises(DataError, match="no table of texts that is called as a split"):
        read_splits(tmp_path.parent, ALL, modality="text")


def test_lists_of_texts() -> None:
    splits = read_splits((["fine", "dull"], ["yes", "no"]), ALL, modality="text")
    assert said(splits) == ["fine", "dull"] and splits.train.ids == ("item 0", "item 1")
    pairs = read_splits(([("a", "b"), ("c", "d")], [0, 1]), ALL, modality="text")
    assert pairs.train.sources == (Text("a", "b"), Text("c", "d"))
    with pytest.raises(DataError, match="item 0 is int; a text"):
        read_splits(([1, 2], [0, 1]), ALL, modality="text")


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_what_is_no_text_is_not_read_as_one(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(DataError, match="holds no text: there are zero bytes in it"):
        read_items(file, modality="text")
    file.write_text("text,label\nfine,yes\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"is UTF-16 text .* save it again as UTF-8"):
        read_items(file, modality="text")


def test_labels_that_look_like_several_are_told(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("text,label\nfine,good\ndull,long|bad\nlong,long\npoor,bad\nodd,this; that\n")
    (found,) = (each for each in read_splits(table, ALL, modality="text").problems if each.code == "joined")
    assert found.examples == ("'long|bad'",) and "data.separator" in found.message
    apart = read_splits(table, ALL.model_copy(update={"separator": "|"}), modality="text")
    assert not [each for each in apart.problems if each.code == "joined"]


def test_texts_to_predict(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("fine\n\ndull\n")
    (tmp_path / "table.csv").write_text("text,other\ngood,1\n,2\n")
    read = read_items([tmp_path / "lines.txt", tmp_path / "table.csv", "great"], ALL, modality="text")
    assert [str(each) for each in read.items.sources] == ["fine", "dull", "good", "great"]
    table = (tmp_path / "table.csv").as_posix()
    assert read.items.ids == ("line 1", "line 3", f"{table}, line 2", "item 2")
    assert [(fault.id, fault.reason) for fault in read.faults] == [
        ("line 2", "it is empty"),
        (f"{table}, line 3", "it is empty"),
    ]
    with pytest.raises(DataError, match="is a folder; of texts"):
        read_items(tmp_path, ALL, modality="text")
    with pytest.raises(DataError, match="There is no"):
        read_items(tmp_path / "nothing.txt", ALL, modality="text")


def test_labelled_texts_to_evaluate(tmp_path: Path) -> None:
    task = texts(tmp_path / "t.csv", "text,label\nfine,yes\ndull,no\n").task
    found, _ = read_labelled(tmp_path / "t.csv", ALL, task, modality="text")
    assert found.targets is not None and found.targets.tolist() == [1, 0]


def test_a_digest_is_of_what_is_said() -> None:
    assert Text("a", "b").digest != Text("ab").digest != Text("a").digest
    assert Text("a").digest == Text("a").digest
    assert json.loads(json.dumps(str(Text("a\n b")))) == "a b"
    assert torch.equal(*(torch.tensor(len(str(Text("x" * n)))) for n in (60, 61)))


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "x.txt")
        paths[-1].write_text(f"from {folder}\n")
    found, _, _ = read_items(paths, ALL, modality="text")
    assert [str(each) for each in found.sources] == ["from a", "from b", "from c"]


def test_halves_of_characters_are_replaced_and_told(tmp_path: Path, encoding: Encoding) -> None:
    lines = [{"text": "good \ud83d", "label": "yes"}, {"text": "bad", "label": "no"}]
    splits = texts(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines)))
    assert said(splits) == ["good \ufffd", "bad"]
    assert [each.code for each in splits.problems] == ["encoding"]
    assert Texts(splits.train, encoding).lengths.tolist() == [4, 3]
    in_memory = read_splits((["\udfff", "bad"], [0, 1]), ALL, modality="text")
    assert in_memory.train.sources[0] == Text("\ufffd")


def test_lines_end_where_files_say(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\u2028two\x0b\nthree\n")
    found, _, _ = read_items(tmp_path / "lines.txt", ALL, modality="text")
    assert [each.first for each in found.sources] == ["one\u2028two\x0b", "three"]  # type: ignore[union-attr]
    assert found.ids == ("line 1", "line 2")


def test_cells_that_are_no_text_are_named(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": [b"a", b"b"], "label": ["x", "y"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 1: a cell is bytes; a text"):
        read_splits(tmp_path / "t.parquet", ALL, modality="text")
    faults = read_items(tmp_path / "t.parquet", ALL, modality="text").faults
    assert [fault.id for fault in faults] == ["row 1", "row 2"]
    assert "a cell is bytes; a text was expected" in faults[0].reason


def test_the_columns_of_training_are_those_of_prediction(tmp_path: Path) -> None:
    table = "description,title\nfine,yes\ndull,no\n"
    splits = texts(tmp_path / "t.csv", table, label="title")
    assert said(splits) == ["fine", "dull"] and splits.columns == ("description",)
    found, _, problems = read_items(tmp_path / "t.csv", ALL, modality="text", columns=splits.columns)
    assert [str(each) for each in found.sources] == ["fine", "dull"] and not problems
    guessed, _, problems = read_items(tmp_path / "t.csv", ALL, modality="text")
    assert str(guessed.sources[0]) == "yes" and [each.code for each in problems] == [
        "column"
    ]  # and it is said


def test_texts_are_tokenised_once_as_long_as_they_are_there(
    encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    plain = texts_module._tokenise
    monkeypatch.setattr(texts_module, "_tokenise", lambda *given: made.append(given) or plain(*given))
    some = items(words(3), words(30))
    first, second = Texts(some, encoding), Texts(some, replace(encoding))
    assert first.lengths.tolist() == second.lengths.tolist() == [5, 16]
    assert len(made) == 1
    assert Texts(some, replace(encoding, max_length=8)).lengths.tolist() == [5, 8]
    assert first.lengths.tolist() == [5, 16]
    assert len(made) == 2
    gone = weakref.ref(some)
    made.clear()
    del some, first, second
    gc.collect()
    assert gone() is None
