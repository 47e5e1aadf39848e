"""The cells of Parquet files.

Pictures may stand in the cells themselves: as the bytes of their files, or as data sets of the hub write
them, ``{"bytes": ..., "path": ...}``. Of texts, bytes that are no UTF-8 are replaced.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from graft.data.raw_table import Cells, Record, check_unique
from graft.errors import DataError, first_line, quote

_INDEX = re.compile(r"__index_level_\d+__")  # that of a data frame, where it has no name


def read_parquet(path: Path, errors: str) -> Cells:
    """The table in ``path``; ``errors``, as of ``bytes.decode``, is for text that is not UTF-8.

    Raises:
        DataError: it is no Parquet, a column cannot be read, or is named twice.
        OSError: as of reading.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        names = [name for name in table.column_names if not _INDEX.fullmatch(name)]
    except (pyarrow.ArrowException, ValueError) as error:
        raise DataError(f"The table {path} is not readable as Parquet: {first_line(error)}.") from None
    check_unique(path, names)
    columns = {name: _values(path, name, table.column(name), errors) for name in names}
    records = [
        Record(f"row {number}", dict(zip(names, cells, strict=True)))
        for number, cells in enumerate(zip(*columns.values(), strict=True), start=1)
    ]
    pictures = tuple(name for name in names if _holds_pictures(table.schema.field(name).type))
    return Cells(names, records, pictures=pictures)


def _values(path: Path, name: str, column: Any, errors: str) -> list[Any]:
    """A column's cells as plain values; floating-point numbers of 32 bits as they are written."""
    import pyarrow

    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = _decoded(path, name, column, errors)
    except (ArithmeticError, TypeError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(
            f"The column {quote(name)} of {path} cannot be read: {first_line(error)}."
        ) from None
    kind = column.type
    if pyarrow.types.is_floating(kind) and kind.bit_width < 64:
        narrow = np.dtype(f"f{kind.bit_width // 8}").type
        return [None if value is None else float(str(narrow(value))) for value in values]
    return values


def _decoded(path: Path, name: str, column: Any, errors: str) -> list[Any]:
    """The texts of a column with bytes that are no UTF-8."""
    import pyarrow

    try:
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        raw = column.cast(pyarrow.large_binary()).to_pylist()
    except pyarrow.ArrowException:
        raise DataError(
            f"The column {quote(name)} of {path} holds text that is not UTF-8, inside {column.type}; write "
            "it again as UTF-8."
        ) from None
    texts = []
    for number, value in enumerate(raw, start=1):
        try:
            texts.append(None if value is None else value.decode("utf-8", errors))
        except UnicodeDecodeError as error:
            raise DataError(
                f"row {number} of {path}: the text in the column {quote(name)} is not UTF-8 (byte "
                f"{error.start}); write it again as UTF-8."
            ) from None
    return texts


def _holds_pictures(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return any((types.is_binary(kind), types.is_large_binary(kind), types.is_binary_view(kind)))
