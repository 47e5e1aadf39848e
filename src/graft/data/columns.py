"""Which columns of a table hold items, labels and splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import DataError, quote, quote_some, suggest

if TYPE_CHECKING:
    from graft.data.items import Modality
    from graft.data.raw_table import Cells
    from graft.recipe import DataSettings

_TEXT_COLUMNS = (
    "text", "sentence", "review", "content", "body", "comment", "tweet", "message", "document", "title",
)  # fmt: skip
_PAIR_COLUMNS = (
    ("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"), ("text1", "text2"),
    ("question", "sentence"), ("text_a", "text_b"),
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Where a row's cells say what."""

    items: tuple[str, ...]  # the picture's path; or the text, or both texts of a pair
    modality: Modality
    labels: tuple[str, ...]  # one, or one for each class
    split: str | None


def with_usual(settings: DataSettings, usual: tuple[str, ...], names: list[str]) -> DataSettings:
    """The settings, with the ``usual`` columns of texts where they name none and ``names`` holds these."""
    if settings.text is not None or not usual or not set(usual) <= set(names):
        return settings
    return settings.model_copy(update={"text": usual[0] if len(usual) == 1 else usual})


def with_pictures(path: Path, settings: DataSettings, cells: Cells) -> DataSettings:
    """The settings, with the column whose cells hold pictures, where no column was asked for by name."""
    if "image" in settings.model_fields_set or not cells.pictures:
        return settings
    if len(cells.pictures) > 1:
        raise DataError(
            f"The table {path} has pictures in the columns {quote_some(cells.pictures)}; name one with "
            "--set data.image=NAME."
        )
    return settings.model_copy(update={"image": cells.pictures[0]})


def find_columns(path: Path, names: list[str], settings: DataSettings, modality: Modality) -> Columns:
    """Which of the columns ``names`` hold items, labels and splits; ``path`` is for messages.

    Raises:
        DataError: one is missing, or the column of texts is not clear.
    """
    labels = (settings.label,) if isinstance(settings.label, str) else settings.label
    if modality == "picture" and settings.image not in names:
        raise _missing_column(path, "image", settings.image, names)
    for label in labels:
        if label not in names:
            raise _missing_column(path, "label", label, names)
    others = (*labels, settings.split)
    items = (settings.image,) if modality == "picture" else find_texts(path, names, settings, others)
    if settings.split in names:
        return Columns(items, modality, labels, settings.split)
    if settings.split != type(settings)().split:  # asked for by name
        raise _missing_column(path, "split", settings.split, names)
    return Columns(items, modality, labels, None)


def find_texts(
    path: Path, names: list[str], settings: DataSettings, others: Sequence[str]
) -> tuple[str, ...]:
    """The column of texts, or both of pairs: as named, by what they are usually called, or the only one.

    ``others``: columns that hold something else.

    Raises:
        DataError: one is missing, or it is not clear which one is meant.
    """
    if settings.text is not None:
        asked = (settings.text,) if isinstance(settings.text, str) else settings.text
        for name in asked:
            if name not in names:
                raise _missing_column(path, "text", name, names)
        return asked
    for pair in _PAIR_COLUMNS:
        if set(pair) <= set(names):
            return pair
    left = [name for name in names if name not in others]
    usual = [name for known in _TEXT_COLUMNS for name in left if name.casefold() == known]
    if usual:
        return (usual[0],)
    if len(left) == 1:
        return (left[0],)
    raise DataError(
        f"Cannot tell which column of {path} holds the texts. Its columns are: "
        f"{quote_some(names) or 'none'}. Name it with --set data.text=NAME, or both of pairs "
        'with --set data.text=\'["NAME", "NAME"]\'.'
    )


def _missing_column(path: Path, key: str, name: str, names: list[str]) -> DataError:
    present = quote_some(names) or "none"
    text = next((each for each in names if each.casefold() in _TEXT_COLUMNS), None)
    if key == "image" and text is not None:
        return DataError(
            f"The table {path} has texts, in its column {quote(text)}, and the backbone takes pictures. "
            "Give one that reads: --backbone hf/sentence-transformers/all-MiniLM-L6-v2, or hf/./FOLDER. "
            "(Of a table of pictures, --set data.image=NAME names the column of paths; there is no "
            f"{quote(name)}.)"
        )
    texts = " Texts want a backbone that reads them: --backbone hf/…" if key == "image" else ""
    return DataError(
        f"The table {path} has no column {quote(name)}; its columns are: {present}."
        f"{suggest(name, names)} Name the right one with --set data.{key}=NAME.{texts}"
    )
