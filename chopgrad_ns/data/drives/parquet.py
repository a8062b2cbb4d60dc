"""Parquet files from strangers: some columns of all rows, or one row at a time, and what is wrong with them in a sentence."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64

from chopgrad_ns.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST, MOST_ROWS = 16 << 30, 10_000_000
"""Bytes and rows that a row group may say it has: a segment has some GB and some ten thousand boxes."""
KEPT = 512 << 20
"""Bytes of row groups of a file that are kept: rows are asked for in other orders than they are written in."""


class Columns:
    """Some columns of some rows of a file; everything that is taken out is checked. Raises UserError."""

    def __init__(self, path: Path, table: pa.Table, first: int = 0) -> None:
        self.path, self._table, self._first = path, table, first

    def __len__(self) -> int:
        return self._table.num_rows

    def texts(self, name: str) -> list[str]:
        """Of a column of strings."""
        import pyarrow as pa

        column = self._column(name)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            self._refuse_type(name, column, "strings")
        return self._filled(name, column).to_pylist()

    def integers(self, name: str) -> Int64[np.ndarray, "n"]:
        """Of a column of whole numbers."""
        import pyarrow as pa

        column = self._column(name)
        if not pa.types.is_integer(column.type):
            self._refuse_type(name, column, "whole numbers")
        return self._filled(name, column).to_numpy().astype(np.int64)

    def numbers(self, name: str, empty: bool = False) -> Float[np.ndarray, "n"]:
        """Of a column of numbers; NaN where there is none, if there may be `empty` rows."""
        column = self._column(name)
        if not _numeric(column.type):
            self._refuse_type(name, column, "numbers")
        column = column if empty else self._filled(name, column)
        return column.to_numpy(zero_copy_only=False).astype(np.float64)

    def vectors(self, prefix: str, parts: Sequence[str] = "xyz", empty: bool = False) -> Float[np.ndarray, "n m"]:
        """Of columns of numbers that differ in the ends of their names."""
        return np.stack([self.numbers(prefix + part, empty) for part in parts], axis=1)

    def poses(self, name: str) -> Float[np.ndarray, "n 4 4"]:
        """Of a column of lists of 16 numbers, row by row of a matrix."""
        import pyarrow.compute as pc

        column = self._filled(name, self._lists(name))
        wrong = (pc.list_value_length(column).to_numpy() != 16).nonzero()[0]
        if len(wrong):
            raise UserError(f"Row {self._first + wrong[0]} of {self.path} has a {name} of other than 16 numbers; "
                            "get the file again.")
        values = pc.list_flatten(column)
        return self._filled(name, values).to_numpy().astype(np.float64).reshape(-1, 4, 4)

    def arrays(self, name: str) -> list[np.ndarray | None]:
        """Of a column of lists of numbers of any length; None for rows without one."""
        return [None if row.values is None else self._filled(name, row.values).to_numpy(zero_copy_only=False)
                for row in self._lists(name)]

    def binary(self, name: str) -> list[bytes]:
        """Of a column of bytes; none for rows without."""
        import pyarrow as pa

        column = self._column(name)
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            self._refuse_type(name, column, "bytes")
        return [value or b"" for value in column.to_pylist()]

    def codes(self, name: str, known: dict[str, int]) -> list[str]:
        """Names that a column has as numbers or spelt out. Raises UserError for unknown ones."""
        import pyarrow as pa

        by_number = {number: word for word, number in known.items()}
        if pa.types.is_integer(self._column(name).type):
            found = [by_number.get(number, number) for number in self.integers(name).tolist()]
        else:
            found = self.texts(name)
        for row, word in enumerate(found):
            if word not in known:
                raise UserError(f"Row {self._first + row} of {self.path} has {word!r} for {name}, which is none of "
                                f"{', '.join(known)}; get the file again.")
        return found

    def _column(self, name: str) -> pa.Array:
        import pyarrow as pa

        column = self._table.column(name).combine_chunks()
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def _lists(self, name: str) -> pa.Array:
        import pyarrow as pa

        column, kinds = self._column(name), (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        if not (any(kind(column.type) for kind in kinds) and _numeric(column.type.value_type)):
            self._refuse_type(name, column, "lists of numbers")
        return column

    def _filled(self, name: str, column: pa.Array) -> pa.Array:
        if column.null_count:
            row = self._first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            where = f"Row {row}" if len(column) == len(self) else "A row"
            raise UserError(f"{where} of {self.path} has no {name}; get the file again.")
        return column

    def _refuse_type(self, name: str, column: pa.Array, right: str) -> None:
        raise UserError(f"{name} of {self.path} is a column of {column.type}, where {right} are needed; get the file again.")


class ParquetRows:
    """A file, of which only what describes it is read until columns or rows are asked for.

    It is not held open, so that other processes may go on with it. Raises UserError, at once and later.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = Path(path)
        with self._said():
            self._about = pq.read_metadata(self.path)
            self.names = list(self._about.schema.to_arrow_schema().names)
        groups = [self._about.row_group(index) for index in range(self._about.num_row_groups)]
        # A group's columns are not asked about: pyarrow aborts over damaged ones.
        if any(not (0 <= group.total_byte_size <= LARGEST and 0 <= group.num_rows <= MOST_ROWS) for group in groups):
            raise UserError(f"{self.path} says that it has a row group of less than none, or of more than {LARGEST >> 30} GiB "
                            f"or more than {MOST_ROWS} rows, which cannot be; get the file again.")
        self._ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
        self._kept: OrderedDict[tuple, pa.Table] = OrderedDict()

    def columns(self, names: Sequence[str]) -> Columns:
        """Of all rows. Raises UserError for columns that the file lacks."""
        self._look_for(names)
        with self._said(), self._open() as file:
            return Columns(self.path, file.read(columns=list(names)))

    def row(self, index: int, names: Sequence[str]) -> Columns:
        """Of one row; its row group is read, unless it is among those last read."""
        self._look_for(names)
        group = int(np.searchsorted(self._ends, index, side="right"))
        key, begin = (group, *names), int(self._ends[group - 1]) if group else 0
        if key not in self._kept:
            with self._said(), self._open() as file:
                self._kept[key] = file.read_row_group(group, columns=list(names))
            while len(self._kept) > 1 and sum(table.nbytes for table in self._kept.values()) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return Columns(self.path, self._kept[key].slice(index - begin, 1), index)

    def _open(self):
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path, metadata=self._about, page_checksum_verification=True)

    def _look_for(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self.names]
        if missing:
            raise UserError(f"{self.path} has no column {missing[0]}; get the file again, of version 2 of the data set.")

    @contextmanager
    def _said(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".").replace(". ", ", ")
            raise UserError(f"{self.path} cannot be read as parquet ({reason}); get the file again.") from error


def _numeric(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
