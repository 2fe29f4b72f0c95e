"""Parquet rows, each as the bytes of its text, in memory that does not depend on the file size.

Pages are read one after the other, and rows are taken from them a few MB at a time. Memory depends on the largest page,
which is decompressed whole, and on the longest row. Writers end a page at about 1 MB, but check its size only about
every 1,024 rows, so a page of long rows can be larger.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from groundup.errors import DataError, MissingExtraError
from groundup.text.options import ReadOptions
from groundup.text.rows import Block

_READ_BYTES = 1 << 18
_BATCH_BYTES = 1 << 20
_MOST_ROWS = 1024
_MOST_OBJECTS = 64
_RELEASED_EVERY = 8
_BLOCK_BYTES = 1 << 20
_LONG_BATCH_BYTES = 16 << 20

OnBad = Callable[[str, str], None]


def parquet_texts(
    path: Path, stream: BinaryIO, options: ReadOptions, on_bad: OnBad
) -> Iterator[tuple[float, list[Block]]]:
    """The text of each row as bytes in blocks, with the fraction of rows read so far.

    Args:
        on_bad: called with the place of a row without text and the reason.

    Raises:
        DataError: the file is not parquet, or the column is missing or does not contain text.
        MissingExtraError: pyarrow is not installed.
    """
    with _opened(path, stream) as file:
        schema = file.schema_arrow
        for name in options.fields:
            _column_path(path, schema, name)
        yield from _rows(path, file, options, on_bad)


def parquet_objects(path: Path, stream: BinaryIO, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row as an object of these columns, with its number from 1. Columns that the file lacks are left out.

    Raises:
        DataError: not a parquet file.
        MissingExtraError: pyarrow is not installed.
    """
    row = 0
    with _opened(path, stream) as file:
        there = [name for name in names if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=_MOST_OBJECTS, columns=there, use_threads=False):
            for values in batch.to_pylist():
                row += 1
                yield row, values


@contextmanager
def _opened(path: Path, stream: BinaryIO) -> Iterator[Any]:
    """The file for the block, in which its faults become a DataError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError.for_package("pyarrow", "parquet", f"reading {path.name}") from None
    try:
        # Without these arguments Arrow reads a column of a row group whole, and reads pages ahead.
        with pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=_READ_BYTES) as file:
            yield file
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{path} is not a valid parquet file: {reason}; copy or write it again") from None


def _rows(path: Path, file: Any, options: ReadOptions, on_bad: OnBad) -> Iterator[tuple[float, list[Block]]]:
    import pyarrow

    row, rows = 0, file.metadata.num_rows
    batches = file.iter_batches(batch_size=_batch_rows(file, options.fields), columns=options.fields, use_threads=False)
    for number, batch in enumerate(batches):
        columns = [_texts(_column(path, batch, name)) for name in options.fields]
        for values in zip(*columns, strict=True):
            row += 1
            if None in values:
                on_bad(f"row {row}", f": the column {options.fields[values.index(None)]!r} is null; expected text")
            else:
                yield row / rows, values[0] if options.template is None else _filled(options, values)
        if number % _RELEASED_EVERY == 0:
            # Otherwise Arrow's memory pool keeps freed memory, several times what is in use.
            pyarrow.default_memory_pool().release_unused()


def _filled(options: ReadOptions, values: Sequence[list[Block]]) -> list[Block]:
    of = dict(zip(options.fields, values, strict=True))
    return [block for part in options.parts for block in ([part] if isinstance(part, bytes) else of[part])]


def _batch_rows(file: Any, names: Sequence[str]) -> int:
    """Approximate number of rows of these columns that fit into a batch."""
    metadata = file.metadata
    columns = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path in names]
    size = sum(
        metadata.row_group(group).column(i).total_uncompressed_size
        for group in range(metadata.num_row_groups)
        for i in columns
    )
    return max(1, min(_MOST_ROWS, _BATCH_BYTES * metadata.num_rows // max(size, 1)))


def _texts(array: Any) -> Iterator[list[Block] | None]:
    """The bytes of each value in blocks; None for null. Strings are viewed as binary, so they are not decoded."""
    import pyarrow
    import pyarrow.types as types

    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not _is_plain(array.type):  # views, and values of a fixed size
        array = array.cast(pyarrow.large_binary())
    is_large = types.is_large_string(array.type) or types.is_large_binary(array.type)
    array = array.view(pyarrow.large_binary() if is_large else pyarrow.binary())
    if array.nbytes <= _LONG_BATCH_BYTES:
        for data in array.to_pylist():
            yield None if data is None else [data]
        return
    for value in array:
        buffer = value.as_buffer()
        yield (
            None
            if buffer is None
            else [
                buffer[begin : begin + _BLOCK_BYTES].to_pybytes()
                for begin in range(0, max(buffer.size, 1), _BLOCK_BYTES)
            ]
        )


def _column_path(path: Path, schema: Any, name: str) -> list[str]:
    """Path of a name: the column, then the fields of nested structs. The longest matching column name wins.

    Raises:
        DataError: no column or more than one matches, or it does not contain text.
    """
    steps, fields, rest = [], [schema.field(i) for i in range(len(schema.names))], name
    while True:
        names = [field.name for field in fields]
        head = next((head for head in _heads(rest) if head in names), None)
        if head is None:
            listed = ", ".join(map(repr, schema.names))
            raise DataError(f"{path} has no column {name!r}; it has {listed}; name the column with the text")
        places = [i + 1 for i, other in enumerate(names) if other == head]
        if len(places) > 1:
            at = " and ".join(map(str, places))
            raise DataError(
                f"{path} has the column {head!r} {len(places)} times, as columns {at}; rename all but one, or name "
                "another column"
            )
        field = fields[places[0] - 1]
        steps.append(head)
        if head == rest:
            _check_type(path, name, field.type)
            return steps
        rest = rest[len(head) + 1 :]
        fields = [field.type.field(i) for i in range(field.type.num_fields)] if _is_struct(field.type) else []


def _heads(name: str) -> Iterator[str]:
    yield name
    dot = len(name)
    while (dot := name.rfind(".", 0, dot)) >= 0:
        yield name[:dot]


def _column(path: Path, batch: Any, name: str) -> Any:
    import pyarrow.compute

    first, *inner = _column_path(path, batch.schema, name)
    array = batch.column(batch.schema.get_field_index(first))
    for step in inner:
        array = pyarrow.compute.struct_field(array, step)
    return array


def _is_struct(kind: Any) -> bool:
    import pyarrow.types

    return bool(pyarrow.types.is_struct(kind))


def _check_type(path: Path, column: str, kind: Any) -> None:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    views = [getattr(types, name, None) for name in ("is_string_view", "is_binary_view", "is_fixed_size_binary")]
    if not (_is_plain(kind) or any(is_one(kind) for is_one in views if is_one is not None)):
        raise DataError(f"{path}: the column {column!r} holds {kind}; expected text (string or binary)")


def _is_plain(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    )
